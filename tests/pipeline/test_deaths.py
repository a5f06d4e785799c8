"""Any process is killed in mid-answer: every frame comes once, in order, and the reply is one story."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable

import pytest

from shared.keys import log_key
from shared.log import read_log
from shared.store import Store
from shared.wire import Address, Chunk, Log, Take
from tests.pipeline.conftest import REPLY, Stacks, Witness, witness
from tests.stack import Process, Stack
from tests.story import Message, check_whole, heard

Place = Callable[[Message], bool]

# Where the worker is killed: what the client sees first of that place.
REPLY_PLACES: dict[str, Place] = {
    "at the first token": lambda m: m["type"] == "token_chunk",
    "inside a chunk": lambda m: m["type"] == "token_chunk" and m["chunk_sequence"] == 6,
    "after a chunk": lambda m: m["type"] == "semantic_chunk",
}
SPEECH_PLACES: dict[str, Place] = {
    "at the first frame": lambda m: m["type"] == "sequential_audio",
    "inside the second chunk": lambda m: m["type"] == "sequential_audio" and m["chunk_index"] == 1,
}


async def _stack(stacks: Stacks, role: str, count: int, **env: str) -> tuple[Stack, Process, list[Process]]:
    stack = stacks(**env)
    edge = stack.start("edge")
    other = stack.start("tts" if role == "llm" else "llm")
    workers = [stack.start(role) for _ in range(count)]
    await stack.ready(edge, **{role: count, other.role: 1})
    return stack, edge, workers


async def _owner(store: Store, w: Witness, log: Log, workers: list[Process]) -> Process:
    """The worker that took turn 1 last."""
    entries = await read_log(store, log_key(w.conversation, log), Address(1, 0), 1)
    name = [entry.payload.worker for entry in entries if isinstance(entry.payload, Take)][-1]
    return next(worker for worker in workers if worker.env["WORKER_NAME"] == name)


@pytest.mark.parametrize("alone", [False, True], ids=["a second one runs", "alone and started again"])
@pytest.mark.parametrize(
    ("role", "log", "place"),
    [("llm", Log.TEXT, place) for place in REPLY_PLACES]
    + [("tts", Log.SPEECH, place) for place in SPEECH_PLACES],
)
async def test_a_worker_that_is_killed_costs_a_pause_and_nothing_else(
    role: str, log: Log, place: str, alone: bool, stacks: Stacks, store: Store
) -> None:
    stack, edge, workers = await _stack(stacks, role, 1 if alone else 2)
    async with witness(stack.url(edge)) as w:
        await w.client.send_audio(bytes(3200), ends=True)
        await w.until((REPLY_PLACES | SPEECH_PLACES)[place])
        dead = await _owner(store, w, log, workers)
        dead.kill()
        if alone:
            stack.restart(dead)
        await w.end_of(1)
    check_whole(w.conversation, heard(w.messages)[1], REPLY)
    entries = await read_log(store, log_key(w.conversation, log), Address(1, 0), 1)
    takes = sum(isinstance(entry.payload, Take) for entry in entries)
    assert takes >= 2, "the kill came too late to matter"


async def test_a_worker_that_was_stopped_and_woken_adds_nothing(stacks: Stacks, store: Store) -> None:
    stack, edge, workers = await _stack(stacks, "llm", 2)
    async with witness(stack.url(edge)) as w:
        await w.client.send_audio(bytes(3200), ends=True)
        await w.until(lambda m: m["type"] == "token_chunk" and m["chunk_sequence"] == 4)
        owner = await _owner(store, w, Log.TEXT, workers)
        owner.signal(signal.SIGSTOP)
        await w.until(lambda m: m["type"] == "token_chunk" and m["chunk_sequence"] == 10)
        owner.signal(signal.SIGCONT)
        await w.end_of(1)
        await w.ask(2)
    for turn in heard(w.messages).values():
        check_whole(w.conversation, turn, REPLY)


async def test_both_kinds_of_worker_may_die_in_one_answer(stacks: Stacks) -> None:
    stack = stacks()
    edge = stack.start("edge")
    workers = [stack.start("llm"), stack.start("tts")]
    await stack.ready(edge)
    async with witness(stack.url(edge)) as w:
        await w.client.send_audio(bytes(3200), ends=True)
        await w.until(lambda m: m["type"] == "sequential_audio")
        for worker in workers:
            worker.kill()
            stack.restart(worker)
        await w.end_of(1)
    check_whole(w.conversation, heard(w.messages)[1], REPLY)


async def test_a_worker_asked_to_stop_loses_no_turn(stacks: Stacks) -> None:
    stack, edge, workers = await _stack(stacks, "llm", 2)
    async with witness(stack.url(edge)) as w:
        await w.client.send_audio(bytes(3200), ends=True)
        await w.until(lambda m: m["type"] == "token_chunk")
        for worker in workers[:1]:
            worker.signal(signal.SIGTERM)
            assert worker.wait() == 0
            stack.restart(worker)
        await w.end_of(1)
    check_whole(w.conversation, heard(w.messages)[1], REPLY)


async def test_the_edge_is_killed_in_mid_answer_and_another_one_goes_on(stacks: Stacks) -> None:
    stack = stacks()
    edges = [stack.start("edge"), stack.start("edge")]
    stack.start("llm")
    stack.start("tts")
    for edge in edges:
        await stack.ready(edge)
    by_url = {stack.url(edge): edge for edge in edges}
    async with witness([stack.url(edge) for edge in edges], pacing="realtime") as w:
        await w.client.send_audio(bytes(3200), ends=True)
        await w.until(lambda m: m["type"] == "sequential_audio" and m["frame_index"] == 5)
        by_url[w.client.url or ""].kill()
        await w.end_of(1)
        assert w.client.resumes >= 1
    check_whole(w.conversation, heard(w.messages)[1], REPLY)


async def test_the_socket_is_cut_at_random_frames_and_every_frame_comes_once(stacks: Stacks) -> None:
    """Fifty cuts, over as many turns as they take."""
    stack = stacks(SCRIPT_MS_PER_CHAR="20")
    edge = stack.start("edge")
    stack.start("llm")
    stack.start("tts")
    await stack.ready(edge)
    dice, cuts = random.Random(7), 0
    async with witness(stack.url(edge)) as w:
        turn = 0
        while cuts < 50:
            turn += 1
            await w.client.send_audio(bytes(3200), ends=True)
            places = {dice.randrange(24) for _ in range(4)}

            def here(m: Message, places: set[int] = places, turn: int = turn) -> bool:
                if m["type"] == "chunked_streaming_complete" and m["turn"] == turn:
                    return True
                return m["type"] == "sequential_audio" and m["frame_index"] in places

            while (message := await w.until(here))["type"] == "sequential_audio":
                places.discard(message["frame_index"])
                w.client.cut()
                cuts += 1
    for heard_turn in heard(w.messages).values():
        check_whole(w.conversation, heard_turn, REPLY, 20.0)


@pytest.mark.parametrize("fault", ["cut", "kill"])
async def test_a_connection_that_is_lost_while_the_user_speaks_loses_no_word(
    fault: str, stacks: Stacks, store: Store, speech: bytes
) -> None:
    stack = stacks()
    edges = [stack.start("edge"), stack.start("edge")]
    stack.start("llm")
    stack.start("tts")
    for edge in edges:
        await stack.ready(edge)
    by_url = {stack.url(edge): edge for edge in edges}
    utterance = speech[: 3 * 32000]
    async with witness([stack.url(edge) for edge in edges]) as w:
        step = 640
        for number, start in enumerate(range(0, len(utterance), step)):
            piece = utterance[start : start + step]
            await w.client.send_audio(piece, ends=start + step >= len(utterance))
            if fault == "cut" and number % 25 == 10:
                w.client.cut()
            if fault == "kill" and number == 70:
                await w.until(lambda m: m["type"] == "audio_ack")  # before, there is nothing to resume
                by_url[w.client.url or ""].kill()
        await w.end_of(1)
        assert w.client.resumes >= 1
        entries = await read_log(store, log_key(w.conversation, Log.AUDIO), Address(1, 0), 1)
    pieces = [entry.payload.pcm for entry in entries if isinstance(entry.payload, Chunk)]
    assert b"".join(pieces) == utterance
    check_whole(w.conversation, heard(w.messages)[1], REPLY)
