"""A batch turn at the edge: a job instead of offers, one message instead of many. The test plays the job."""

from __future__ import annotations

import io
import wave
from functools import partial
from typing import Any

import pytest

from edge import director
from shared.keys import JOBS, MAX_WAITING_JOBS, Role, batch_key, job_id, worker_key
from shared.wire import Closed, Log, Open
from tests.conftest import eventually
from tests.edge.test_resuming import resuming
from tests.edge.world import FRAME, SECOND, Answer, Client, Message, World, kinds

SHORT = SECOND[:3200]
FRAMES = {"token_chunk", "semantic_chunk", "sequential_audio", "chunked_streaming_complete"}


@pytest.fixture
async def world(world: World) -> World:
    """An edge with every worker announced, a jobs process too."""
    await world.announce(JOBS)
    return world


async def enqueued(world: World, client: Client, turn: int = 1) -> bool:
    """Whether a job for the turn waits."""
    waiting = await world.store.call("LRANGE", batch_key(), 0, -1)
    return job_id(client.conversation, turn).encode() in waiting


async def taken(world: World, client: Client, turn: int = 1) -> Answer:
    """Take the turn as a jobs process does, once there is a job for it."""
    await eventually(partial(enqueued, world, client, turn), f"a job for turn {turn}")
    await world.store.call("DEL", batch_key())
    await world.store.call(
        "HSET",
        f"rq:job:{job_id(client.conversation, turn)}",
        "status",
        "started",
        "worker_name",
        f"test.{JOBS}",
    )
    answer = Answer(*(world.writer(client.conversation, log, turn) for log in (Log.TEXT, Log.SPEECH)))
    await answer.text.take("claim")
    await answer.speech.take("claim")
    return answer


async def answered(world: World, client: Client, turn: int = 1, frames: int = 5) -> Message:
    """A whole answer of two chunks, and what the client is told at its end."""
    answer = await taken(world, client, turn)
    await answer.say("One two three.", frames)
    await answer.say(" Four.", frames)
    await answer.end()
    return await client.until("audio_response")


@pytest.mark.parametrize("asks", [{"streaming": False}, {"mode": "conversation"}])
async def test_the_answer_comes_in_one_message_and_nothing_before_it(
    world: World, asks: dict[str, Any]
) -> None:
    async with world.client() as client:
        await client.speak(SHORT, chunk_id="c", **asks)
        response = await answered(world, client)
        assert not await world.offered(client.conversation, 1)
        assert not FRAMES & set(kinds(client.received))
        opening = (await world.log(client, Log.AUDIO))[0]
        assert isinstance(opening, Open) and opening.batch
    assert response["audio_data"] == FRAME * 10
    assert 0 < response["processing_time_ms"] < 60_000
    assert {key: response[key] for key in response if key not in ("audio_data", "processing_time_ms")} == {
        "type": "audio_response",
        "turn": 1,
        "chunk_id": "c",
        "text": "One two three. Four.",
        "sample_rate": 24_000,
        "voice": "anna",
        "format": "pcm16",
        "audio_duration_ms": 1000.0,
        "address": "speech:1-11",
    }


async def test_the_whole_speech_is_one_wav(world: World) -> None:
    async with world.client(output_format="wav") as client:
        await client.speak(SHORT, streaming=False)
        response = await answered(world, client)
    assert response["format"] == "wav"
    with wave.open(io.BytesIO(response["audio_data"])) as speech:
        assert speech.getframerate() == 24_000
        assert speech.readframes(speech.getnframes()) == FRAME * 10


async def test_a_job_waits_for_the_end_of_the_utterance(world: World) -> None:
    async with world.client() as client:
        await client.speak(SHORT, ends=False, streaming=False)
        await client.until("speech_started")
        (session,) = world.sessions._sessions
        await session._clerk.finish()
        assert not await enqueued(world, client)
        await client.send("end_of_utterance")
        await answered(world, client)


async def test_one_answer_at_a_time_whichever_kind(world: World) -> None:
    async with world.client(interrupt=False, pacing="none") as client:
        await client.speak(SHORT)
        await client.speak(SHORT, streaming=False)
        await client.speak(SHORT)
        first = await world.answer(client, 1)
        await first.say("First.")
        assert not await enqueued(world, client, 2)
        await first.end()
        await answered(world, client, 2)
        third = await world.answer(client, 3)
        await third.say("Third.")
        await third.end()
        await client.until("chunked_streaming_complete")
    ends = [
        m["turn"] for m in client.received if m["type"] in ("chunked_streaming_complete", "audio_response")
    ]
    assert ends == [1, 2, 3]


async def test_without_a_jobs_process_only_batch_turns_are_refused(world: World) -> None:
    await world.withdraw(JOBS)
    async with world.client() as client:
        await client.speak(SHORT, streaming=False)
        refused = await client.until("error")
        assert (refused["code"], refused["retryable"]) == ("overloaded", True)
        assert refused["retry_after_ms"] and "no jobs worker" in refused["message"]
        await client.speak(SHORT)
        await world.answer(client, 1)


async def test_a_batch_turn_needs_no_other_worker(world: World) -> None:
    for role in Role:
        await world.withdraw(role)
    async with world.client() as client:
        await client.speak(SHORT)
        assert (await client.until("error"))["code"] == "overloaded"
        await client.speak(SHORT, streaming=False, voice="whoever")
        await answered(world, client)


async def test_when_too_many_wait_no_more_are_let_in(world: World) -> None:
    await world.store.call("RPUSH", batch_key(), *range(MAX_WAITING_JOBS))
    await world.services.room.look()
    async with world.client() as client:
        await client.speak(SHORT, streaming=False)
        refused = await client.until("error")
    assert refused["code"] == "overloaded" and "busy" in refused["message"]


async def test_an_answer_that_is_cut_off_before_it_was_sent_was_not_heard(world: World) -> None:
    async with world.client() as client:
        await client.speak(SHORT, streaming=False)
        answer = await taken(world, client)
        await answer.say("One two three.", frames=7)

        async def gathered() -> bool:
            (session,) = world.sessions._sessions
            return len(session._downlink.player._gathered.get(1, ())) == 7

        await eventually(gathered, "the frames have come this far")
        await client.send("user_interrupt")
        cut = await client.until("audio_interrupted")
        assert (cut["heard_ms"], cut["heard_text"], cut["cleared_frames"]) == (0.0, "", 7)
        await client.speak(SHORT, streaming=False)
        await answered(world, client, 2)
    assert kinds(client.received).count("audio_response") == 1


async def test_what_was_sent_counts_as_heard_as_it_plays(world: World) -> None:
    async with world.client() as client:
        await client.speak(SHORT, streaming=False)
        await answered(world, client, frames=100)
        await client.send("playback", turn=1, played_ms=10_000.0)
        await client.speak(SHORT)
        await eventually(partial(world.closed_as, client, Log.TEXT, "heard"), "the turn is settled")
        closed = await world.last(client, Log.TEXT)
        assert isinstance(closed, Closed) and closed.heard_ms is not None
        assert 10_000 <= closed.heard_ms < 20_000
        assert closed.heard_text is not None and closed.heard_text.startswith("One two three.")
    assert "audio_interrupted" not in kinds(client.received)


@pytest.mark.parametrize("batch", [True, False])
async def test_what_waits_behind_a_long_answer_is_answered_as_soon_as_that_was_sent(
    world: World, batch: bool
) -> None:
    async with world.client(interrupt=False) as client:
        await client.speak(SHORT, streaming=False)
        await client.speak(SHORT, streaming=not batch)
        await answered(world, client, frames=300)  # a minute of speech
        answer = await (taken(world, client, 2) if batch else world.answer(client, 2))
        await answer.say("Two.", frames=2)
        await answer.end()
        done = await client.until("audio_response", "chunked_streaming_complete", "error")
    assert (done["turn"], done["audio_duration_ms"]) == (2, 200.0)


async def test_an_answer_is_not_late_while_it_is_here_and_held_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.client(pacing="none") as client:
        await client.speak(SHORT)
        answer = await world.answer(client)
        (session,) = world.sessions._sessions
        session._downlink.player.halt()
        await answer.say("One.")
        await eventually(lambda: session._downlink.player.playout.frames == 1, "a frame waits")
        monkeypatch.setattr(director, "DEADLINE_S", 0.0)
        await session._director.tick(session._uplink.confirm)
        monkeypatch.undo()
        await answer.end()
        session._downlink.player.go_on()
        assert (await client.until("chunked_streaming_complete", "error"))["turn"] == 1
    assert "error" not in kinds(client.received)


async def test_a_turn_that_fails_is_an_error(world: World) -> None:
    async with world.client() as client:
        await client.speak(SHORT, chunk_id="c", streaming=False)
        answer = await taken(world, client)
        await answer.say("One.")
        closed = Closed("failed", code="engine_failed", message="no such voice", retryable=False)
        await world.close(client, closed, Log.TEXT, Log.SPEECH)
        failed = await client.until("error", "audio_response")
    assert (failed["code"], failed["turn"], failed["chunk_id"]) == ("engine_failed", 1, "c")


async def test_another_session_tells_the_whole_answer_once(world: World) -> None:
    async with world.client() as lost:
        await lost.speak(SHORT, chunk_id="c", streaming=False)
        answer = await taken(world, lost)
        await answer.say("One two three.", frames=4)
        async with resuming(world, lost) as client:
            await answer.say(" Four.", frames=2)
            await answer.end()
            response = await client.until("audio_response")
            assert (response["text"], response["audio_data"]) == ("One two three. Four.", FRAME * 6)
            assert (response["chunk_id"], response["processing_time_ms"]) == ("c", None)
            async with resuming(world, client) as again:
                await again.speak(SHORT, streaming=False)
                await answered(world, again, 2)
    assert not FRAMES & {*kinds(lost.received), *kinds(client.received), *kinds(again.received)}
    assert [m["turn"] for m in again.received if m["type"] == "audio_response"] == [2]


@pytest.mark.parametrize("holds_all", [True, False])
async def test_another_session_tells_no_old_batch_turn_in_pieces(
    world: World, holds_all: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.dialogue.KEPT_TURNS", 2)
    async with world.client() as lost:
        for turn in (1, 2, 3, 4):
            await lost.speak(SHORT, streaming=False)
            await answered(world, lost, turn)
        async with resuming(world, lost, after=None if holds_all else {}) as client:
            if not holds_all:  # Of the speech only that of the last two turns is kept.
                assert [(await client.until("audio_response"))["turn"] for _ in range(2)] == [3, 4]
            await client.speak(SHORT, streaming=False)
            assert (await answered(world, client, 5))["turn"] == 5
    assert not FRAMES & set(kinds(client.received))


async def test_a_job_that_nobody_does_is_enqueued_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(director, "SILENT_S", 0.1)
    async with world.client() as client:
        await client.speak(SHORT, streaming=False)
        await taken(world, client)
        await world.store.call("DEL", worker_key(f"test.{JOBS}"))
        await eventually(partial(enqueued, world, client), "a new job")
        await world.store.call("DEL", batch_key(), f"rq:job:{job_id(client.conversation, 1)}")
        await eventually(partial(enqueued, world, client), "a new job, after Redis forgot it")


async def test_a_batch_turn_may_wait_for_longer_but_not_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(director, "DEADLINE_S", 0.05)
    async with world.client() as client:
        await client.speak(SHORT, streaming=False)
        monkeypatch.setattr(director, "SILENT_S", 0.1)
        await eventually(partial(enqueued, world, client), "a job")
        await world.store.call("DEL", batch_key())
        await eventually(partial(enqueued, world, client), "it still waits, and heals")
        assert "error" not in kinds(client.received)
        monkeypatch.setattr(director, "BATCH_DEADLINE_S", 0.05)
        late = await client.until("error")
    assert (late["code"], late["turn"]) == ("deadline", 1)
