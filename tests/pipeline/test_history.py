"""The memory of a conversation, as the engine is given it: the scripted one says what that was."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from shared.keys import log_key
from shared.log import read_log
from shared.store import Store
from shared.wire import Address, Entry, Log, Take
from tests.pipeline.conftest import Stacks, Witness, witness
from tests.stack import Process, Stack
from tests.story import heard

ECHO = {"SCRIPT_ECHO_HISTORY": "1", "SCRIPT_MS_PER_CHAR": "10"}
SECOND = bytes(32_000)

_STRING = r'"(?:[^"\\]|\\.)*"'
_TOLD = re.compile(rf"\[(\d+) user ({_STRING}|[\d.]+ s)\] \[\1 reply ({_STRING})\]")
_NOW = re.compile(rf"\[(\d+) prompt ({_STRING}|null) voice ({_STRING}|null)\]$")


@dataclass(frozen=True)
class Told:
    """What the engine was given: `(turn, user, reply)` of each exchange, and the prompt of the turn."""

    history: list[tuple[int, str, str]]
    prompt: str | None


def told(response: str) -> Told:
    """Read an echo."""
    now = _NOW.search(response)
    assert now, response
    history = [
        (int(turn), json.loads(user) if user.startswith('"') else user, json.loads(reply))
        for turn, user, reply in _TOLD.findall(response)
    ]
    return Told(history, json.loads(now[2]))


async def start(stacks: Stacks, edges: int = 1, llms: int = 1, **env: str) -> tuple[Stack, list[str]]:
    """A stack whose engine echoes, and the URLs of its edges."""
    stack = stacks(**{**ECHO, **env})
    running = [stack.start("edge") for _ in range(edges)]
    for _ in range(llms):
        stack.start("llm")
    stack.start("tts")
    for edge in running:
        await stack.ready(edge, llm=llms, tts=1)
    return stack, [stack.url(edge) for edge in running]


async def echo_of(w: Witness, turn: int) -> Told:
    """What the engine was given for a turn that was asked."""
    end = await w.end_of(turn)
    assert end["type"] == "chunked_streaming_complete", end
    return told(end["response_text"])


async def test_a_turn_spoken_over_is_remembered_to_the_last_word_heard(stacks: Stacks) -> None:
    _, urls = await start(stacks, SCRIPT_MS_PER_CHAR="15")
    async with witness(urls, pacing="realtime") as w:
        await w.client.send_text(
            "A question that the answer to it will be long of: one, two, three, four, five."
        )
        await w.end_of(1)
        await w.client.send_text("What was that?")
        await w.until(lambda m: m["type"] == "sequential_audio" and m["turn"] == 2 and m["frame_index"] == 8)
        await w.client.send_audio(SECOND, ends=True)
        cut = await w.end_of(2)
        third = await echo_of(w, 3)
    assert (cut["type"], cut["reason"]) == ("audio_interrupted", "barge_in")
    whole = heard(w.messages)[2].reply
    assert 0 < len(cut["heard_text"]) < len(whole) and whole.startswith(cut["heard_text"])
    assert third.history[-1] == (2, "What was that?", cut["heard_text"])


async def test_typed_and_spoken_turns_are_remembered_and_the_prompt_may_change(stacks: Stacks) -> None:
    _, urls = await start(stacks)
    async with witness(urls, interrupt=False, prompt="Be brief.") as w:
        await w.client.send_audio(SECOND, ends=True)
        assert await echo_of(w, 1) == Told([], "Be brief.")
        await w.client.send_text('He said: "no".')
        await w.end_of(2)
        await w.client.configure(prompt="Be kind.")
        await w.client.send_audio(SECOND[:16_000], ends=True)
        third = await echo_of(w, 3)
    replies = {turn: answer.reply for turn, answer in heard(w.messages).items()}
    assert third.prompt == "Be kind."
    assert third.history == [(1, "1.00 s", replies[1]), (2, 'He said: "no".', replies[2])]


async def test_what_does_not_fit_the_budget_is_forgotten_oldest_first(stacks: Stacks) -> None:
    _, urls = await start(stacks, HISTORY_TOKENS="70")
    async with witness(urls, interrupt=False) as w:
        for turn in (1, 2, 3):
            await w.ask(turn, SECOND)
        await w.client.send_text("So?")
        fourth = await echo_of(w, 4)
    # A second costs 13 tokens, a reply a quarter of its characters; the third quotes those before it.
    remembered = [turn for turn, _, _ in fourth.history]
    assert remembered and remembered == list(range(remembered[0], 4)) and remembered[0] > 1


async def test_another_worker_that_goes_on_after_a_kill_has_the_same_memory(
    stacks: Stacks, store: Store
) -> None:
    stack, urls = await start(stacks, llms=2, SCRIPT_INTER_TOKEN_MS="400")
    async with witness(urls, interrupt=False) as w:
        await w.ask(1, SECOND)
        await w.ask(2, SECOND)
        await w.client.send_audio(SECOND, ends=True)
        await w.until(lambda m: m["type"] == "token_chunk" and m["turn"] == 3)
        (await _owner(store, stack, w, 3)).kill()
        third = await echo_of(w, 3)
        takes = [e for e in await _text(store, w, 3) if isinstance(e.payload, Take)]
        assert len(takes) >= 2, "the kill came too late to matter"
    answers = heard(w.messages)
    assert third.history == [(turn, "1.00 s", answers[turn].reply) for turn in (1, 2)]


async def test_a_conversation_resumed_at_another_edge_keeps_its_memory(stacks: Stacks) -> None:
    stack, urls = await start(stacks, edges=2)
    by_url = {stack.url(edge): edge for edge in stack.processes if edge.role == "edge"}
    async with witness(urls, pacing="realtime", interrupt=False) as w:
        await w.ask(1, SECOND)
        await w.client.send_text("Go on.")
        await w.until(lambda m: m["type"] == "sequential_audio" and m["turn"] == 2)
        by_url[w.client.url or ""].kill()
        await w.end_of(2)
        await w.client.send_text("And then?")
        third = await echo_of(w, 3)
        assert w.client.resumes >= 1
    answers = heard(w.messages)
    assert third.history == [(1, "1.00 s", answers[1].reply), (2, "Go on.", answers[2].reply)]


async def _text(store: Store, w: Witness, turn: int) -> list[Entry]:
    return await read_log(store, log_key(w.conversation, Log.TEXT), Address(turn, 0), turn)


async def _owner(store: Store, stack: Stack, w: Witness, turn: int) -> Process:
    name = [e.payload.worker for e in await _text(store, w, turn) if isinstance(e.payload, Take)][-1]
    return next(process for process in stack.processes if process.env.get("WORKER_NAME") == name)
