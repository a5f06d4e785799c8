from __future__ import annotations

import asyncio
from functools import partial

import pytest

from edge.conversation import MAX_WAITING
from shared.wire import Closed, Log
from tests.conftest import eventually
from tests.edge.world import SECOND, Answer, Client, World, kinds

SHORT = SECOND[:3200]


async def speaking(world: World, client: Client, frames: int = 50) -> Answer:
    """An answer is being played."""
    await client.speak(SHORT)
    answer = await world.answer(client)
    await answer.say("One two three four five.", frames)
    await client.until("sequential_audio")
    return answer


async def test_a_new_utterance_cuts_the_answer_that_plays(world: World) -> None:
    async with world.client() as client:
        await speaking(world, client)
        await client.speak(SHORT, ends=False)
        cut = await client.until("audio_interrupted")
        assert (cut["turn"], cut["reason"], cut["address"]) == (1, "barge_in", "speech:1-51")
        assert 0 <= cut["heard_ms"] <= 500
        # Those that had come this far; on a busy machine some may still be on their way from the log.
        assert 0 < cut["cleared_frames"] <= 50 - kinds(client.received).count("sequential_audio")
        for log in (Log.TEXT, Log.SPEECH):
            await eventually(partial(world.closed_as, client, log, "barge_in"), f"{log} is closed")
            closed = await world.last(client, log)
            assert isinstance(closed, Closed) and closed.heard_ms == cut["heard_ms"]
        await eventually(partial(world.offered, client.conversation, 2), "the next turn is offered")


async def test_a_new_utterance_cuts_an_answer_that_is_only_thought_about(world: World) -> None:
    async with world.client() as client:
        await client.speak(SHORT, chunk_id="one")
        await world.answer(client)
        await client.speak(SHORT)
        cut = await client.until("audio_interrupted")
        assert (cut["turn"], cut["chunk_id"]) == (1, "one")
        assert (cut["heard_ms"], cut["heard_text"], cut["cleared_frames"]) == (0.0, "", 0)


async def test_after_an_interruption_nothing_more_is_told_of_the_turn(world: World) -> None:
    async with world.client() as client:
        await speaking(world, client)
        await client.send("user_interrupt")
        await client.send("ping")
        # From the moment it was decided no frame may come, whatever stood in line.
        await client.until("pong")
        received = len(client.received)
        await client.until("audio_interrupted")
        await client.send("ping")
        await client.until("pong")
    assert "sequential_audio" not in kinds(client.received[received:])


async def test_what_was_heard_goes_into_the_log_as_words(world: World) -> None:
    async with world.client() as client:
        await client.speak(SHORT)
        answer = await world.answer(client)
        await answer.say("Hello!", frames=2)
        await answer.say(" One two three four five six seven.", frames=40)
        for _ in range(4):
            await client.until("sequential_audio")
        await client.send("playback", turn=1, played_ms=10.0)
        await client.send("user_interrupt", played_ms=250.0)
        cut = await client.until("audio_interrupted")
    assert cut["heard_ms"] == pytest.approx(250.0, abs=30.0)
    assert cut["heard_text"] == "Hello!"


async def test_the_client_that_knows_what_was_played_is_believed(world: World) -> None:
    async with world.client(pacing="none") as client:
        await client.speak(SHORT)
        answer = await world.answer(client)
        await answer.say("One two three four five.", frames=24)
        await answer.end()
        await client.until("chunked_streaming_complete")
        await client.send("user_interrupt", played_ms=1200.0)
        await eventually(partial(world.closed_as, client, Log.TEXT, "user_interrupt"), "closed")
        closed = await world.last(client, Log.TEXT)
    assert isinstance(closed, Closed) and closed.heard_ms is not None
    assert closed.heard_ms == pytest.approx(1200.0, abs=50.0)
    assert closed.heard_text == "One two"


@pytest.mark.parametrize("hearing", [False, True])
async def test_there_must_be_an_answer_to_interrupt(world: World, hearing: bool) -> None:
    async with world.client() as client:
        if hearing:
            await client.speak(SHORT, ends=False)
        await client.send("user_interrupt")
        assert (await client.until("error"))["code"] == "wrong_state"


async def test_an_answer_that_was_heard_to_its_end_is_recorded_and_cannot_be_interrupted(
    world: World,
) -> None:
    async with world.client() as client:
        await client.speak(SHORT)
        answer = await world.answer(client)
        await answer.say("Hello!", frames=3)
        await answer.end()
        await client.until("chunked_streaming_complete")
        for log in (Log.TEXT, Log.SPEECH):
            await eventually(partial(world.closed_as, client, log, "heard"), "it was heard")
        closed = await world.last(client, Log.TEXT)
        assert closed == Closed("heard", heard_ms=300.0, heard_text="Hello!", speech_seq=5)
        await client.send("user_interrupt")
        assert (await client.until("error"))["code"] == "wrong_state"


async def test_an_answer_that_was_sent_at_once_plays_on_by_the_clock(world: World) -> None:
    async with world.client(pacing="none") as client:
        await client.speak(SHORT)
        answer = await world.answer(client)
        await answer.say("A long answer to a short question.", frames=100)
        await answer.end()
        await client.until("chunked_streaming_complete")
        await client.speak(SHORT)
        await eventually(partial(world.closed_as, client, Log.SPEECH, "heard"), "settled")
        closed = await world.last(client, Log.SPEECH)
        assert isinstance(closed, Closed) and closed.heard_ms is not None
        assert closed.heard_ms < 5000
        # It had ended already: nothing is said of it, and the next turn is answered.
        answer = await world.answer(client, 2)
        await answer.end()
        await client.until("chunked_streaming_complete")
    assert "audio_interrupted" not in kinds(client.received)


async def test_without_interruption_an_utterance_waits_and_is_answered_next(world: World) -> None:
    async with world.client(interrupt=False) as client:
        answer = await speaking(world, client, frames=6)
        await client.speak(SHORT)
        await client.until("speech_stopped")
        assert not await world.offered(client.conversation, 2)
        await answer.end()
        await client.until("chunked_streaming_complete")
        second = await world.answer(client, 2)
        await second.say("And now this.", frames=3)
        await second.end()
        done = await client.until("chunked_streaming_complete")
        assert done["turn"] == 2
        first = await world.log(client, Log.TEXT, 1)
        assert first[-1] == Closed(
            "heard", heard_ms=600.0, heard_text="One two three four five.", speech_seq=8
        )
    frames = [(m["turn"], m["frame_index"]) for m in client.received if m["type"] == "sequential_audio"]
    assert frames == [(1, i) for i in range(6)] + [(2, i) for i in range(3)]


async def test_a_full_line_answers_busy(world: World) -> None:
    async with world.client(interrupt=False) as client:
        for _ in range(1 + MAX_WAITING):
            await client.speak(SHORT)
            await client.until("speech_stopped")
        await client.speak(SHORT, chunk_id="too-many")
        error = await client.until("error")
        assert (error["code"], error["retryable"], error["chunk_id"]) == ("busy", True, "too-many")
        await client.send("user_interrupt")
        await eventually(partial(world.offered, client.conversation, 2), "the next in line is offered")


async def test_interrupting_one_answer_makes_room_for_the_utterance_that_waits(world: World) -> None:
    async with world.client(interrupt=False) as client:
        await speaking(world, client)
        await client.speak(SHORT)
        await client.send("user_interrupt")
        assert (await client.until("audio_interrupted"))["turn"] == 1
        second = await world.answer(client, 2)
        await second.say("Here I am.")
        await second.end()
        assert (await client.until("chunked_streaming_complete"))["turn"] == 2


async def test_a_text_cannot_be_typed_into_an_open_utterance(world: World) -> None:
    async with world.client() as client:
        await client.speak(SHORT, ends=False)
        await client.send("text", text="Hello")
        assert (await client.until("error"))["code"] == "wrong_state"
        await client.send("end_of_utterance")
        assert (await client.until("speech_stopped"))["turn"] == 1


async def test_many_interruptions_in_a_row_each_end_their_turn_once(world: World) -> None:
    async with world.client() as client:
        for turn in range(1, 21):
            await client.speak(SHORT)
            if turn % 3 == 0:
                await asyncio.sleep(0)
                await client.send("user_interrupt")
        await client.speak(SHORT)
        answer = await world.answer(client, 21)
        await answer.say("At last.")
        await answer.end()
        await client.until("chunked_streaming_complete")
    cut = [m["turn"] for m in client.received if m["type"] == "audio_interrupted"]
    assert cut == list(range(1, 21))
