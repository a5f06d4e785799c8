"""A log holds an entry that the edge cannot read: its turn or its conversation ends, and no other."""

from __future__ import annotations

import pytest

from shared.keys import log_key
from shared.wire import Closed, Log
from tests.edge.test_resuming import answered, resuming
from tests.edge.world import SECOND, World
from tests.shared.support import spoil

SHORT = SECOND[:3200]
ANSWER = (Log.TEXT, Log.SPEECH)


@pytest.mark.parametrize("log", ANSWER)
async def test_a_client_that_resumes_is_told_of_a_turn_that_cannot_be_read_and_of_the_next(
    world: World, log: Log
) -> None:
    async with world.client(pacing="none") as lost:
        await lost.speak(SHORT)
        answer = await world.answer(lost)
        await answer.say("One.")
        await lost.until("sequential_audio")
        lost.socket.transport.abort()
        await spoil(world.store, log_key(lost.conversation, log))
        await world.close(lost, Closed("failed", code="engine_failed", retryable=True), *ANSWER)
        async with resuming(world, lost, after={}) as client:
            error = await client.until("error")
            assert (error["turn"], error["code"], error["retryable"]) == (1, "engine_failed", True)
            await client.speak(SHORT)
            await answered(world, client, 2)
            assert (await client.until("chunked_streaming_complete"))["turn"] == 2
        endings = [m for m in client.received if m["type"] in ("error", "audio_interrupted")]
    assert endings == [error]


@pytest.mark.parametrize("ends", [False, True])
async def test_an_utterance_that_somebody_else_has_written_into_ends_by_an_error(
    world: World, ends: bool
) -> None:
    async with world.client(pacing="none") as client:
        await client.speak(SHORT, ends=False)
        await client.until("audio_ack")
        await spoil(world.store, log_key(client.conversation, Log.AUDIO))
        await client.speak(SHORT, ends=ends)
        error = await client.until("error")
        assert (error["turn"], error["code"], error["retryable"]) == (1, "engine_failed", True)
        await client.speak(SHORT)
        await answered(world, client, 2)
        assert (await client.until("chunked_streaming_complete"))["turn"] == 2


async def test_a_turn_begins_behind_a_whole_utterance_that_somebody_has_written_behind(world: World) -> None:
    async with world.client(pacing="none") as client:
        await client.speak(SHORT)
        await answered(world, client)
        await client.until("chunked_streaming_complete")
        await spoil(world.store, log_key(client.conversation, Log.AUDIO))
        await client.speak(SHORT)
        await answered(world, client, 2)
        assert (await client.until("chunked_streaming_complete"))["turn"] == 2


@pytest.mark.parametrize("log", ANSWER)
async def test_a_conversation_whose_log_takes_no_turn_any_more_ends_and_is_not_resumed(
    world: World, log: Log
) -> None:
    async with world.client(pacing="none") as other, world.client() as client:
        await client.speak(SHORT)
        await world.answer(client)
        await world.store.call("XADD", log_key(client.conversation, log), "*", "note", "look at this")
        assert await client.closed() == 1011
        async with world.socket(resumes=True) as again:
            await again.greet()
            await again.send("resume", conversation_id=client.conversation, resume_token=client.token)
            assert (await again.nothing_before("error"))["code"] == "not_found"
        await other.speak(SHORT)
        await answered(world, other)
        await other.until("chunked_streaming_complete")
