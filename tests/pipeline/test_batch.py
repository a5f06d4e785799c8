"""Answers in one piece: the same as streamed ones, whatever dies on the way."""

from __future__ import annotations

import re

import pytest

from shared import keys
from shared.keys import log_key
from shared.log import read_log
from shared.store import Store
from shared.wire import Address, Entry, Frame, Log, Semantic, Take, Token
from tests.conftest import eventually
from tests.pipeline.conftest import REPLY, Stacks, Witness, witness
from tests.pipeline.test_history import ECHO, told
from tests.stack import Process, Stack
from tests.story import ANSWER, MS_PER_CHAR, Message, check_whole, heard
from workers.tts.engines.scripted import expected

UTTERANCE = bytes(32_000)


async def start(stacks: Stacks, **env: str) -> tuple[Stack, Process, Process]:
    """A stack of each role: the stack, its edge and its jobs process."""
    stack = stacks(**env)
    edge = stack.start("edge")
    for role in ("llm", "tts"):
        stack.start(role)
    jobs = stack.start("jobs")
    await stack.ready(edge, llm=1, tts=1, jobs=1)
    return stack, edge, jobs


async def entries(store: Store, w: Witness, log: Log, turn: int) -> list[Entry]:
    """What stands in a log of the witness's conversation for one turn."""
    return await read_log(store, log_key(w.conversation, log), Address(turn, 0), turn)


async def check_response(store: Store, w: Witness, end: Message, reply: str) -> bytes:
    """The turn ended in one answer, whole as it stands in the logs; nothing was sent before. Its speech."""
    turn = int(end["turn"])
    assert (end["type"], end["text"]) == ("audio_response", reply)
    text = [entry.payload for entry in await entries(store, w, Log.TEXT, turn)]
    assert "".join(payload.text for payload in text if isinstance(payload, Token)) == reply
    speech = [entry.payload for entry in await entries(store, w, Log.SPEECH, turn)]
    pcm = b"".join(payload.pcm for payload in speech if isinstance(payload, Frame))
    assert pcm and end["audio_data"] == pcm
    assert end["audio_duration_ms"] == pytest.approx(len(pcm) / 48)
    assert not [m for m in w.messages if m.get("turn") == turn and m["type"] in ANSWER]
    assert sum(m["type"] == "audio_response" and m["turn"] == turn for m in w.messages) == 1
    return pcm


async def check_speech(store: Store, w: Witness, end: Message, ms_per_char: float = MS_PER_CHAR) -> None:
    """The turn says the scripted reply, each sample of it once, in order: as it would be streamed."""
    pcm = await check_response(store, w, end, REPLY)
    text = [entry.payload for entry in await entries(store, w, Log.TEXT, end["turn"])]
    chunks = [payload.text for payload in text if isinstance(payload, Semantic)]
    spoken = [
        expected(w.conversation, end["turn"], number, chunk, ms_per_char)
        for number, chunk in enumerate(chunks)
    ]
    assert pcm == b"".join(spoken)


def rows() -> list[re.Pattern[str]]:
    """The keys that `keys.py` lists, as patterns."""
    names = re.findall(r"^\| (`.*?`) +\|", keys.__doc__ or "", re.MULTILINE)
    found = [name for cell in names for name in re.findall(r"`([^`]+)`", cell)]
    holes = {
        "{id}": r"\{[0-9a-f]{16}\}",
        "{job}": r"[0-9a-f]{16}-\d+",
        "{p}": r"\d+",
        "{name}": r"[\w.]+",
        "…": ".+",
    }
    patterns = []
    for name in found:
        pieces = re.split(r"(\{id\}|\{job\}|\{p\}|\{name\}|…)", name)
        patterns.append(re.compile("".join(holes.get(piece, re.escape(piece)) for piece in pieces)))
    return patterns


BOUNDED_OTHERWISE = {"rq:queues", "rq:workers", "rq:workers:batch", "rq:wip:batch", "rq:failed:batch"}


async def test_both_kinds_of_turn_share_one_conversation_and_its_memory(stacks: Stacks, store: Store) -> None:
    stack, edge, _ = await start(stacks, **ECHO)
    async with witness(stack.url(edge), interrupt=False) as w:
        await w.ask(1, UTTERANCE)
        await w.client.send_audio(UTTERANCE, ends=True, streaming=False, chunk_id="second")
        second = await w.end_of(2)
        third = await w.ask(3, UTTERANCE)
        replies = {turn: answer.reply for turn, answer in heard(w.messages).items()}
        await check_response(store, w, second, second["text"])
        listed = rows()
        for name in sorted(key.decode() for key in await store.call("KEYS", "*")):
            assert any(row.fullmatch(name) for row in listed), f"{name} is not listed in keys.py"
            if name.startswith(("conv:", "rq:")) and name not in BOUNDED_OTHERWISE:
                assert await store.call("PTTL", name) > 0, f"{name} has no TTL"
    assert second["chunk_id"] == "second"
    assert told(second["text"]).history == [(1, "1.00 s", replies[1])]
    assert told(third["response_text"]).history == [(1, "1.00 s", replies[1]), (2, "1.00 s", second["text"])]


@pytest.mark.parametrize(
    ("log", "same"),
    [(Log.TEXT, False), (Log.SPEECH, True)],
    ids=["in the reply, and another one takes over", "in the speech, and it is started again"],
)
async def test_a_jobs_process_that_is_killed_costs_a_pause_and_nothing_else(
    log: Log, same: bool, stacks: Stacks, store: Store
) -> None:
    stack, edge, jobs = await start(stacks, SCRIPT_TTS_MS="300")
    async with witness(stack.url(edge)) as w:
        await w.ask(1)
        await w.client.send_audio(UTTERANCE, ends=True, mode="conversation")

        async def in_the_middle() -> bool:
            return len(await entries(store, w, log, 2)) > 8

        await eventually(in_the_middle, "some of the answer")
        jobs.kill()
        assert not (await entries(store, w, log, 2))[-1].final, "the kill came too late to matter"
        if same:
            stack.restart(jobs)
        else:
            stack.processes.remove(jobs)
            stack.start("jobs", WORKER_NAME="another")
        await check_speech(store, w, await w.end_of(2))
        await w.ask(3)
    takes = [entry.payload for entry in await entries(store, w, log, 2) if isinstance(entry.payload, Take)]
    assert [take.cause for take in takes] == ["claim", "retry"]
    for turn in (1, 3):
        check_whole(w.conversation, heard(w.messages)[turn], REPLY)
