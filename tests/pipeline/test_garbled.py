"""Somebody types an entry into a log by hand, or a newer version writes what this one cannot read."""

from __future__ import annotations

import pytest

from shared.keys import Role, log_key, work_key
from shared.store import Store
from shared.wire import Log
from tests.conftest import eventually
from tests.pipeline.conftest import REPLY, Stacks, Witness, witness
from tests.shared.support import GARBLED, spoil
from tests.stack import Stack
from tests.story import Message, check_whole, heard


async def running(stacks: Stacks) -> tuple[Stack, str]:
    """A stack of each role, and the URL of its edge."""
    stack = stacks(SCRIPT_INTER_TOKEN_MS="100")
    edge = stack.start("edge")
    for role in ("llm", "tts"):
        stack.start(role)
    await stack.ready(edge, llm=1, tts=1)
    return stack, stack.url(edge)


async def check_only_turn_1_failed(stack: Stack, store: Store, w: Witness, end: Message) -> None:
    """It did, once, and by an error; the next one is whole, and every process is as it was."""
    assert (end["type"], end["code"], end["retryable"]) == ("error", "engine_failed", True)
    await w.ask(2)
    check_whole(w.conversation, heard(w.messages)[2], REPLY)

    async def nothing_is_left() -> bool:
        return not any([await store.call("XLEN", work_key(role)) for role in Role])

    await eventually(nothing_is_left, "no worker has anything to do")
    for process in stack.processes:
        said = process.log.read_text()
        assert process.alive and "Traceback" not in said and "never retrieved" not in said, said[-3000:]


@pytest.mark.parametrize("what", GARBLED)
@pytest.mark.parametrize("log", [Log.TEXT, Log.SPEECH])
async def test_an_entry_of_an_answer_that_cannot_be_read_ends_its_turn_and_no_other(
    log: Log, what: str, stacks: Stacks, store: Store
) -> None:
    stack, url = await running(stacks)
    async with witness(url) as w, witness(url) as other:
        await other.client.send_audio(bytes(3200), ends=True)
        await w.client.send_audio(bytes(3200), ends=True)
        await w.until(lambda m: m["type"] == ("token_chunk" if log is Log.TEXT else "sequential_audio"))
        await spoil(store, log_key(w.conversation, log), what)
        await check_only_turn_1_failed(stack, store, w, await w.end_of(1))
        await other.end_of(1)
    check_whole(other.conversation, heard(other.messages)[1], REPLY)


@pytest.mark.parametrize("what", GARBLED)
async def test_an_entry_of_an_utterance_that_cannot_be_read_ends_its_turn_and_no_other(
    what: str, stacks: Stacks, store: Store
) -> None:
    stack, url = await running(stacks)
    async with witness(url) as w:
        await w.client.send_audio(bytes(3200))
        await w.until(lambda m: m["type"] == "audio_ack")
        await spoil(store, log_key(w.conversation, Log.AUDIO), what)
        await check_only_turn_1_failed(stack, store, w, await w.end_of(1))
