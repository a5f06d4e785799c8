"""Voice activity on a real edge: what stands in the logs, and what the client is told.

Here a loud sample is a voice, and windows of 512 samples (32 ms) are judged. With the defaults, speech has 7
windows with a voice; 7 in a row without are a pause, 16 end an utterance; 4,800 samples go before it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest

from edge.detection import WINDOW_SAMPLES, Heard
from edge.detection.silero import Silero
from shared.audio import to_wav
from shared.errors import EngineError
from shared.keys import JOBS, Role, log_key
from shared.settings import Settings
from shared.wire import Chunk, Closed, Log, Open, Pause, Payload, Take, UtteranceEnd
from tests import sounds
from tests.conftest import eventually
from tests.edge.test_faults import maxmemory
from tests.edge.test_resuming import resuming
from tests.edge.world import Client, LoudEar, LoudIsVoice, Message, World, kinds, running

WINDOW_MS = 32
PADDING = 4800
CHUNK_SAMPLES = 320


def loud(windows: int) -> bytes:
    """A voice, for so many windows."""
    return np.full(windows * WINDOW_SAMPLES, 5000, "<i2").tobytes()


def quiet(windows: int) -> bytes:
    """No voice, but not nothing either, so that it shows where it lies."""
    return (np.arange(windows * WINDOW_SAMPLES) % 500).astype("<i2").tobytes()


async def send(client: Client, pcm: bytes, samples: int = CHUNK_SAMPLES, **fields: object) -> None:
    """Stream input."""
    for start in range(0, len(pcm), 2 * samples):
        await client.send("audio_chunk", audio_data=pcm[start : start + 2 * samples], **fields)


async def send_from(client: Client, pcm: bytes, place: int, samples: int = CHUNK_SAMPLES) -> None:
    """Stream input from a place in it on, which the client says."""
    for start in range(2 * place, len(pcm), 2 * samples):
        piece = pcm[start : start + 2 * samples]
        await client.send("audio_chunk", audio_data=piece, offset_samples=start // 2)


async def done(client: Client) -> None:
    """Wait until all that was sent was listened to."""
    await client.send("ping")
    await client.until("pong")


@asynccontextmanager
async def listened(world: World, **settings: object) -> AsyncIterator[Client]:
    """A client whose voice is listened for."""
    chosen: dict[str, Any] = {"turn_detection": "server_vad", "pacing": "none", **settings}
    async with world.client(**chosen) as client:
        yield client


def audio(payloads: list[Payload]) -> tuple[int, bytes]:
    """Where an utterance begins, and its sound; its chunks must lie one behind the other."""
    chunks = [payload for payload in payloads if isinstance(payload, Chunk)]
    place = chunks[0].offset_samples
    for chunk in chunks:
        assert chunk.offset_samples == place
        place += len(chunk.pcm) // 2
    return chunks[0].offset_samples, b"".join(chunk.pcm for chunk in chunks)


def shape(payloads: list[Payload]) -> str:
    """The kinds of entries, chunks in a row as one."""
    names: list[str] = []
    for payload in payloads:
        if not (isinstance(payload, Chunk) and names[-1:] == ["chunk"]):
            names.append(payload.kind)
    return " ".join(names)


def told(client: Client, kind: str) -> list[Message]:
    """The messages of a type so far."""
    return [message for message in client.received if message["type"] == kind]


# ---- what stands in the log


@pytest.mark.parametrize("samples", [CHUNK_SAMPLES, 160, 511, 513, 48_000])
async def test_an_utterance_with_a_pause_stands_in_the_log_without_the_silence_behind_it(
    world: World, samples: int
) -> None:
    sound = quiet(30) + loud(10) + quiet(9) + loud(5) + quiet(40)
    async with listened(world) as client:
        await send(client, sound, samples)
        stopped = await client.until("speech_stopped")
        ack = await client.until("audio_ack")
        log = await world.log(client, Log.AUDIO)
    assert shape(log) == "open chunk pause chunk pause end"
    start, pcm = audio(log)
    end = (30 + 10 + 9 + 5 + 7) * WINDOW_SAMPLES
    assert start == 30 * WINDOW_SAMPLES - PADDING
    assert pcm == sound[2 * start : 2 * end]
    pauses = [payload.offset_samples for payload in log if isinstance(payload, Pause)]
    assert pauses == [(30 + 10 + 7) * WINDOW_SAMPLES, end]
    assert log[-1] == UtteranceEnd("silence", end)
    (started,) = told(client, "speech_started")
    assert (started["turn"], started["reason"], started["audio_ms"]) == (1, "server_vad", 30 * WINDOW_MS)
    assert (stopped["turn"], stopped["reason"], stopped["audio_ms"]) == (1, "silence", 54 * WINDOW_MS)
    assert (ack["turn"], ack["input_samples"]) == (1, end)


async def test_what_is_too_short_to_be_speech_begins_no_turn(world: World) -> None:
    async with listened(world) as client:
        await send(client, (quiet(10) + loud(6)) * 10 + quiet(100))
        await done(client)
        assert not await world.exists(log_key(client.conversation, Log.AUDIO))
        assert await world.store.call("KEYS", "work:*") == []
    assert set(kinds(client.received)) == {"connection", "configured", "audio_ack", "pong"}


async def test_the_second_utterance_begins_behind_the_first(world: World) -> None:
    sound = loud(10) + quiet(16) + loud(10) + quiet(16)
    async with listened(world) as client:
        await send(client, sound)
        for _ in range(2):
            await client.until("speech_stopped")
        first, second = await world.log(client, Log.AUDIO, 1), await world.log(client, Log.AUDIO, 2)
    assert audio(first) == (0, sound[: 2 * 17 * WINDOW_SAMPLES])
    # The padding reaches back to where the first ends, and no further.
    start = 26 * WINDOW_SAMPLES - PADDING
    assert start < 17 * WINDOW_SAMPLES
    assert audio(second) == (17 * WINDOW_SAMPLES, sound[2 * 17 * WINDOW_SAMPLES : 2 * 43 * WINDOW_SAMPLES])


async def test_the_settings_of_an_utterance_are_those_of_the_slice_that_makes_it_one(world: World) -> None:
    await world.announce(JOBS)
    async with listened(world, prompt="Be brief.") as client:
        await send(client, quiet(5), chunk_id="quiet")
        await send(client, loud(10) + quiet(20), chunk_id="loud", speed=1.5, streaming=False)
        await client.until("speech_stopped")
        opening = (await world.log(client, Log.AUDIO))[0]
    assert opening == Open(prompt="Be brief.", speed=1.5, chunk_id="loud", batch=True, by_voice=True)


async def test_an_utterance_ends_where_it_is_longest_and_what_follows_may_be_another(redis_url: str) -> None:
    async with running(redis_url, Settings(max_utterance_s=1.0)) as world, listened(world) as client:
        sound = loud(45) + quiet(30)
        await send(client, sound)
        first = await client.until("speech_stopped")
        assert (first["reason"], first["audio_ms"]) == ("max_length", 1000.0)
        assert (await client.until("speech_started"))["audio_ms"] == 32 * WINDOW_MS
        assert (await client.until("speech_stopped"))["reason"] == "silence"
        one, two = await world.log(client, Log.AUDIO, 1), await world.log(client, Log.AUDIO, 2)
    assert audio(one) == (0, sound[:32_000])
    assert one[-1] == UtteranceEnd("max_length", 16_000)
    # Not a sample is lost between the two.
    assert audio(two) == (16_000, sound[32_000 : 2 * 52 * WINDOW_SAMPLES])


async def test_input_of_another_rate_is_listened_to(world: World) -> None:
    async with listened(world, input_sample_rate=48_000) as client:
        sound = quiet(30) + loud(10) + quiet(30)
        await send(client, np.repeat(np.frombuffer(sound, "<i2"), 3).tobytes(), 960)
        stopped = await client.until("speech_stopped")
        start, pcm = audio(await world.log(client, Log.AUDIO))
    assert start == pytest.approx(30 * WINDOW_SAMPLES - PADDING, abs=WINDOW_SAMPLES)
    assert len(pcm) // 2 == pytest.approx(PADDING + 17 * WINDOW_SAMPLES, abs=2 * WINDOW_SAMPLES)
    assert stopped["audio_ms"] == pytest.approx(40 * WINDOW_MS, abs=2 * WINDOW_MS)


async def test_a_wav_file_in_the_stream_is_heard_as_what_it_is(world: World) -> None:
    async with listened(world, input_format="f32le") as client:
        sound = quiet(5) + loud(10) + quiet(20)
        await client.send("audio_chunk", audio_data=to_wav(sound, 16_000))
        await client.until("speech_stopped")
        start, pcm = audio(await world.log(client, Log.AUDIO))
        assert (start, pcm) == (0, sound[: 2 * 22 * WINDOW_SAMPLES])


# ---- acknowledgements


async def test_in_silence_what_can_be_in_no_utterance_any_more_is_acknowledged(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.turns.ACK_EACH_S", 0.0)
    async with listened(world) as client:
        acks = []
        for _ in range(60):
            await send(client, quiet(1)[:640])
            acks.append(await client.until("audio_ack"))
    whole = [320 * (i + 1) // WINDOW_SAMPLES * WINDOW_SAMPLES for i in range(60)]
    assert [ack["input_samples"] for ack in acks] == [max(0, place - PADDING) for place in whole]
    assert {ack["turn"] for ack in acks} == {0}


async def test_what_may_yet_become_an_utterance_is_not_acknowledged_and_what_is_in_the_log_is(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.turns.ACK_EACH_S", 0.0)
    acks: list[int] = []

    async def sent(pcm: bytes) -> int:
        await send(client, pcm, WINDOW_SAMPLES)
        await done(client)
        acks.append(told(client, "audio_ack")[-1]["input_samples"])
        return acks[-1]

    async with listened(world) as client:
        assert await sent(quiet(20)) == 20 * WINDOW_SAMPLES - PADDING
        assert await sent(loud(6)) == 20 * WINDOW_SAMPLES - PADDING  # maybe an utterance
        assert await sent(loud(1)) == 27 * WINDOW_SAMPLES  # which it is
        assert await sent(quiet(7)) == 34 * WINDOW_SAMPLES  # a pause
        assert await sent(quiet(8)) == 34 * WINDOW_SAMPLES
        assert await sent(quiet(1)) == 34 * WINDOW_SAMPLES  # the end
        assert await sent(quiet(1)) == 44 * WINDOW_SAMPLES - PADDING
    assert acks == sorted(acks)


async def test_acknowledgements_come_at_most_every_half_second(world: World) -> None:
    async with listened(world) as client:
        await send(client, quiet(100), 160)
        await done(client)
    assert len(told(client, "audio_ack")) <= 3


# ---- speaking over an answer


async def answering(world: World, client: Client, frames: int = 50, turn: int = 1) -> None:
    """An answer of which frames wait to be played."""
    answer = await world.answer(client, turn)
    await answer.say("One two three four five.", frames)
    await answer.end()
    await client.until("sequential_audio")


async def test_speech_cuts_the_answer_and_no_frame_of_it_comes_any_more(world: World) -> None:
    async with listened(world, pacing="realtime") as client:
        await send(client, loud(10) + quiet(16))
        await answering(world, client)
        await send(client, loud(7))
        await client.until("speech_started", "audio_interrupted")
        frames = len(told(client, "sequential_audio"))
        await client.until("speech_started", "audio_interrupted")
        (cut,) = told(client, "audio_interrupted")
        assert (cut["turn"], cut["reason"]) == (1, "barge_in")
        assert told(client, "speech_started")[-1]["turn"] == 2
        await send(client, quiet(16))
        answer = await world.answer(client, 2)
        await answer.end()
        assert (await client.until("chunked_streaming_complete"))["turn"] == 2
    assert len(told(client, "sequential_audio")) == frames < 50


async def unplayed(client: Client) -> int:
    await client.send("status")
    return int((await client.until("status"))["unplayed_frames"])


async def waits(client: Client, frames: int) -> bool:
    return await unplayed(client) == frames


async def test_a_cough_holds_the_answer_back_and_then_it_goes_on_without_a_gap(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.player.LONGEST_HALT_MS", 60_000.0)
    async with listened(world) as client:
        await send(client, loud(10) + quiet(16))
        answer = await world.answer(client)
        await answer.say("Hello!", 2)
        for _ in range(2):
            await client.until("sequential_audio")
        await send(client, loud(3))
        await done(client)
        await answer.say(" Here I am.", 8)
        await answer.end()
        # Nothing paces them: they would have left at once.
        await eventually(partial(waits, client, 8), "the frames wait")
        assert len(told(client, "sequential_audio")) == 2
        await send(client, quiet(7))
        complete = await client.until("chunked_streaming_complete")
    assert [m["frame_index"] for m in told(client, "sequential_audio")] == list(range(10))
    assert (complete["turn"], complete["total_chunks"]) == (1, 2)
    assert "audio_interrupted" not in kinds(client.received)


async def test_between_two_coughs_in_one_slice_the_answer_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.player.LONGEST_HALT_MS", 60_000.0)
    async with listened(world) as client:
        await send(client, loud(10) + quiet(16))
        answer = await world.answer(client)
        await send(client, loud(1) + quiet(3))
        await done(client)
        await answer.say("Here I am.", 8)
        await eventually(partial(waits, client, 8), "the frames wait")
        await send(client, quiet(4) + loud(1) + quiet(3), 8 * WINDOW_SAMPLES)
        await done(client)
        assert [m["frame_index"] for m in told(client, "sequential_audio")] == list(range(8))


async def configured(client: Client, world: World) -> None:
    await client.configure(speed=1.1)


async def turned_off(client: Client, world: World) -> None:
    await client.configure(turn_detection="none")


async def ended(client: Client, world: World) -> None:
    await client.send("end_of_utterance")


async def ended_in_a_slice(client: Client, world: World) -> None:
    await client.send("audio_chunk", audio_data=b"", end_of_utterance=True)


async def jumped(client: Client, world: World) -> None:
    await client.send("audio_chunk", audio_data=quiet(1), offset_samples=900_000)


async def refused(client: Client, world: World) -> None:
    await world.withdraw(Role.SPEAK)
    await send(client, loud(7))
    assert (await client.until("error"))["code"] == "overloaded"


@pytest.mark.parametrize("remedy", [configured, turned_off, ended, ended_in_a_slice, jumped, refused])
async def test_nothing_leaves_an_answer_held_back(
    world: World, remedy: Callable[[Client, World], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.player.LONGEST_HALT_MS", 60_000.0)
    async with listened(world) as client:
        await send(client, loud(10) + quiet(16))
        answer = await world.answer(client)
        await send(client, loud(3))
        await done(client)
        await answer.say("Here I am.", 8)
        await eventually(partial(waits, client, 8), "the frames wait")
        await remedy(client, world)
        await answer.end()
        assert (await client.until("chunked_streaming_complete"))["turn"] == 1
    assert "audio_interrupted" not in kinds(client.received)


async def test_a_typed_turn_is_not_held_back_by_what_may_be_speech(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.player.LONGEST_HALT_MS", 60_000.0)
    async with listened(world) as client:
        await send(client, quiet(20) + loud(3))
        await client.send("text", text="Hello?")
        answer = await world.answer(client)
        await answer.say("Hello!", 3)
        await answer.end()
        assert (await client.until("chunked_streaming_complete"))["turn"] == 1
        # What may be speech is not counted as settled by the typed turn between.
        assert await world.log(client, Log.AUDIO) == [
            Open(text="Hello?"),
            UtteranceEnd("client", 20 * WINDOW_SAMPLES - PADDING),
        ]
        await send(client, loud(4))
        assert (await client.until("speech_started"))["audio_ms"] == 20 * WINDOW_MS


@pytest.mark.parametrize("pause", [0, 10])
async def test_a_typed_turn_ends_the_utterance_that_stands_of_which_its_client_may_not_know(
    world: World, pause: int
) -> None:
    sound = loud(10) + quiet(pause)
    async with listened(world) as client:
        await send(client, sound)
        await client.send("text", text="Hello?")
        stopped = await client.until("speech_stopped", "error")
        assert (stopped["type"], stopped["turn"], stopped["reason"]) == ("speech_stopped", 1, "client")
        cut = await client.until("audio_interrupted")
        assert (cut["turn"], cut["reason"]) == (1, "barge_in")
        log = await world.log(client, Log.AUDIO)
        assert audio(log) == (0, sound[: 2 * 17 * WINDOW_SAMPLES])
        assert log[-2] == Open(text="Hello?")
        await (await world.answer(client, 2)).end()
        assert (await client.until("chunked_streaming_complete"))["turn"] == 2
        await send(client, loud(7))
        assert (await client.until("speech_started"))["turn"] == 3


async def test_a_typed_turn_in_an_utterance_of_which_the_client_says_the_end_is_refused(world: World) -> None:
    async with world.client() as client:
        await client.speak(loud(10), ends=False)
        await client.send("text", text="Hello?")
        assert (await client.until("error"))["code"] == "wrong_state"


async def test_without_interruption_an_answer_is_played_on_and_the_utterance_is_next(world: World) -> None:
    async with listened(world, interrupt=False) as client:
        await send(client, loud(10) + quiet(16))
        answer = await world.answer(client)
        await answer.say("Hello!", 2)
        await send(client, loud(3))
        await answer.say(" Here I am.", 8)
        for _ in range(10):  # None waits for what the sound turns out to be.
            await client.until("sequential_audio")
        await send(client, loud(10) + quiet(16))
        while (await client.until("speech_stopped"))["turn"] < 2:
            pass
        assert not await world.offered(client.conversation, 2)
        await answer.end()
        assert (await client.until("chunked_streaming_complete"))["turn"] == 1
        await (await world.answer(client, 2)).end()
        assert (await client.until("chunked_streaming_complete"))["turn"] == 2
    assert "audio_interrupted" not in kinds(client.received)


async def test_without_echo_cancellation_nothing_is_heard_while_an_answer_plays(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.turns.ACK_EACH_S", 0.0)
    async with listened(world, echo_cancelled=False) as client:
        await send(client, loud(10) + quiet(16) + loud(3))
        await answering(world, client, frames=60)
        await client.until("chunked_streaming_complete")
        await send(client, loud(40))
        await done(client)
        assert [m["turn"] for m in told(client, "speech_started")] == [1]
        assert told(client, "audio_ack")[-1]["input_samples"] == 69 * WINDOW_SAMPLES
        # The listener has heard it: so the client says. A while after it what is said is heard again.
        await client.send("playback", turn=1, played_ms=60_000.0)
        sent = 69
        while not [m for m in told(client, "speech_started") if m["turn"] == 2]:
            await send(client, loud(1), WINDOW_SAMPLES)
            await done(client)
            sent += 1
        started = told(client, "speech_started")[-1]
    assert 69 * WINDOW_MS <= started["audio_ms"] <= (sent - 7) * WINDOW_MS


async def is_listening(client: Client) -> bool:
    await client.send("status")
    return bool((await client.until("status"))["state"] == "listening")


async def test_without_echo_cancellation_another_session_knows_what_may_still_play(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listened(world, echo_cancelled=False) as lost:
        await send(lost, loud(10) + quiet(16))
        await answering(world, lost, frames=60)
        await lost.until("chunked_streaming_complete")
        async with resuming(world, lost) as client:
            await eventually(partial(is_listening, client), "it is known what the client holds")
            await send(client, loud(20))
            await done(client)
            assert not told(client, "speech_started")
            monkeypatch.setattr("edge.player.ECHO_TAIL_MS", 0.0)
            await client.send("playback", turn=1, played_ms=6_000.0)
            await send(client, loud(20))
            assert (await client.until("speech_started"))["turn"] == 2


async def test_without_echo_cancellation_an_utterance_that_stands_goes_on_while_an_answer_begins(
    world: World,
) -> None:
    async with listened(world, echo_cancelled=False, interrupt=False) as client:
        await send(client, loud(10) + quiet(16) + loud(10))
        assert (await client.until("speech_stopped"))["turn"] == 1
        await answering(world, client)
        await send(client, loud(10) + quiet(16))
        stopped = await client.until("speech_stopped")
    assert (stopped["turn"], stopped["audio_ms"]) == (2, 46 * WINDOW_MS)


# ---- turns that cannot begin, or end before their utterance


async def test_a_turn_that_cannot_begin_is_one_error_and_the_utterance_is_passed_over(world: World) -> None:
    async with listened(world) as client:
        await world.withdraw(Role.REPLY)
        await send(client, loud(60) + quiet(10) + loud(10), chunk_id="c")
        error = await client.until("error")
        assert (error["code"], error["chunk_id"], error["turn"]) == ("overloaded", "c", None)
        await world.announce(Role.REPLY)
        await send(client, loud(60))  # still the same utterance
        await done(client)
        assert not await world.exists(log_key(client.conversation, Log.AUDIO))
        await send(client, quiet(16) + loud(7))
        assert (await client.until("speech_started", "error"))["turn"] == 1
    assert len(told(client, "error")) == 1


async def test_at_maxmemory_an_utterance_is_one_error_and_the_next_has_its_number(world: World) -> None:
    async with listened(world) as client:
        async with maxmemory(world):
            await send(client, loud(40))
            assert (await client.until("error"))["code"] == "overloaded"
            await done(client)
        await send(client, loud(10) + quiet(16) + loud(7))
        assert (await client.until("speech_started", "error"))["turn"] == 1
    assert len(told(client, "error")) == 1


async def test_an_utterance_that_is_passed_over_does_not_last_for_ever(redis_url: str) -> None:
    async with running(redis_url, Settings(max_utterance_s=1.0)) as world, listened(world) as client:
        await world.withdraw(Role.REPLY)
        await send(client, loud(10))
        await client.until("error")
        await world.announce(Role.REPLY)
        await send(client, loud(40))
        assert (await client.until("speech_started"))["turn"] == 1


async def test_a_turn_that_fails_while_the_user_speaks_ends_and_the_user_is_heard_on(world: World) -> None:
    async with listened(world) as client:
        await send(client, loud(10))
        await world.answer(client)
        await world.close(client, Closed("failed", code="engine_failed"), Log.TEXT, Log.SPEECH)
        assert (await client.until("error"))["turn"] == 1
        await send(client, loud(10) + quiet(16))
        assert (await client.until("speech_stopped"))["turn"] == 2
        assert audio(await world.log(client, Log.AUDIO, 2))[0] == 10 * WINDOW_SAMPLES
        assert isinstance((await world.log(client, Log.AUDIO, 1))[-1], Closed)


async def test_an_utterance_that_somebody_closed_makes_room_for_the_next(world: World) -> None:
    async with listened(world) as client:
        await send(client, loud(10))
        await world.answer(client)
        await world.close(client, Closed("abandoned"), Log.AUDIO)
        await send(client, loud(20))
        assert (await client.until("audio_interrupted"))["reason"] == "abandoned"
        await send(client, quiet(16))
        assert (await client.until("speech_stopped"))["turn"] == 2


# ---- ends that the client says


async def test_latencies_count_from_the_decision_that_the_utterance_has_ended(world: World) -> None:
    async with listened(world) as client:
        await send(client, loud(10) + quiet(15), WINDOW_SAMPLES)
        answer = await world.answer(client)
        await done(client)
        before = time.monotonic()
        await send(client, quiet(1), WINDOW_SAMPLES)
        await client.until("speech_stopped")
        await answer.say("Hello!")
        await answer.end()
        complete = await client.until("chunked_streaming_complete")
        most_ms = (time.monotonic() - before) * 1000
    first_token, first_audio = complete["first_token_latency_ms"], complete["first_audio_latency_ms"]
    assert 0 < first_token <= first_audio <= most_ms


@pytest.mark.parametrize("by_slice", [False, True])
@pytest.mark.parametrize("pause", [0, 5, 10])
async def test_the_client_may_end_an_utterance_at_once(world: World, by_slice: bool, pause: int) -> None:
    sound = loud(10) + quiet(pause) + quiet(1)[:200]
    async with listened(world) as client:
        await send(client, sound[:-200])
        if by_slice:
            await client.send("audio_chunk", audio_data=sound[-200:], end_of_utterance=True)
        else:
            await client.send("audio_chunk", audio_data=sound[-200:])
            await client.send("end_of_utterance")
        stopped = await client.until("speech_stopped")
        log = await world.log(client, Log.AUDIO)
        assert (stopped["reason"], stopped["audio_ms"]) == ("client", len(sound) / 32)
        assert isinstance(log[-1], UtteranceEnd) and log[-1].reason == "client"
        if pause == 10:  # The answer that was begun at the pause is the answer.
            assert shape(log) == "open chunk pause end"
            assert log[-1].input_samples == 17 * WINDOW_SAMPLES
        else:
            assert shape(log) == "open chunk end"
            assert audio(log) == (0, sound)
            assert log[-1].input_samples == len(sound) // 2
        await send(client, loud(8))
        assert (await client.until("speech_started"))["turn"] == 2


async def test_what_may_be_speech_is_dropped_when_the_client_says_that_it_has_ended(world: World) -> None:
    async with listened(world) as client:
        await send(client, loud(6))
        await client.send("end_of_utterance")
        await send(client, loud(6) + quiet(10))
        await done(client)
    assert set(kinds(client.received)) == {"connection", "configured", "audio_ack", "pong"}


async def test_an_end_in_silence_is_no_error_for_the_client_cannot_know(world: World) -> None:
    async with listened(world) as client:
        await client.send("end_of_utterance")
        await send(client, quiet(10))
        await client.send("audio_chunk", audio_data=b"", end_of_utterance=True)
        await send(client, loud(10) + quiet(16))
        assert (await client.until("speech_stopped"))["turn"] == 1
        for _ in range(2):
            await client.send("end_of_utterance")
        await done(client)
    assert "error" not in kinds(client.received)


async def test_an_end_while_an_utterance_is_passed_over_ends_that(world: World) -> None:
    async with listened(world) as client:
        await world.withdraw(Role.REPLY)
        await send(client, loud(10))
        await client.until("error")
        await world.announce(Role.REPLY)
        await client.send("end_of_utterance")
        await send(client, loud(7))
        assert (await client.until("speech_started", "error"))["turn"] == 1


# ---- input that is out of place


async def test_a_gap_in_an_utterance_is_refused_and_it_goes_on_where_it_was(world: World) -> None:
    async with listened(world) as client:
        await send_from(client, loud(10), 0)
        await client.send("audio_chunk", audio_data=loud(1), offset_samples=6000, chunk_id="c")
        error = await client.until("error")
        assert (error["code"], error["chunk_id"]) == ("bad_audio", "c")
        assert "go on at 5120" in error["message"]
        await send_from(client, loud(12) + quiet(16), 5120)
        await client.until("speech_stopped")
        log = await world.log(client, Log.AUDIO)
    assert audio(log) == (0, loud(12) + quiet(7))


async def test_what_is_sent_twice_is_heard_once(world: World) -> None:
    async with listened(world) as client:
        sound = quiet(4) + loud(10) + quiet(20)
        for upto in (6, 10, 34):
            await send_from(client, sound[: 2 * upto * WINDOW_SAMPLES], 0, samples=900)
        await client.until("speech_stopped")
        log = await world.log(client, Log.AUDIO)
    assert audio(log) == (0, sound[: 2 * 21 * WINDOW_SAMPLES])
    assert kinds(client.received).count("speech_started") == 1


async def test_in_silence_places_may_jump_and_what_was_before_is_forgotten(world: World) -> None:
    async with listened(world) as client:
        await send(client, loud(6) + loud(1)[:200])  # a window that is never full
        await client.send("audio_chunk", audio_data=loud(6), offset_samples=100_000)
        await send(client, quiet(7))
        await send(client, loud(7) + quiet(16))
        started = await client.until("speech_started")
        await client.until("speech_stopped")
        log = await world.log(client, Log.AUDIO)
    onset = 100_000 + 13 * WINDOW_SAMPLES
    assert started["audio_ms"] == onset / 16
    assert audio(log) == (onset - PADDING, (loud(6) + quiet(7))[-2 * PADDING :] + loud(7) + quiet(7))


async def test_bytes_that_are_no_audio_leave_an_utterance_as_it_is(world: World) -> None:
    async with listened(world) as client:
        await send(client, loud(10))
        await client.send("audio_chunk", audio_data=b"\0")
        assert (await client.until("error"))["code"] == "bad_audio"
        await send(client, quiet(16))
        assert (await client.until("speech_stopped"))["audio_ms"] == 10 * WINDOW_MS


# ---- other settings


async def test_an_utterance_of_which_the_client_says_the_end_goes_on_so(world: World) -> None:
    async with world.client(pacing="none") as client:
        await client.speak(loud(10), ends=False)
        await client.configure(turn_detection="server_vad", pacing="none")
        await client.speak(quiet(40), ends=False)
        await client.send("end_of_utterance")
        stopped = await client.until("speech_stopped")
        assert (stopped["reason"], stopped["audio_ms"]) == ("client", 50 * WINDOW_MS)
        await send(client, loud(10) + quiet(16))
        stopped = await client.until("speech_stopped")
        assert (stopped["turn"], stopped["reason"], stopped["audio_ms"]) == (2, "silence", 60 * WINDOW_MS)
        assert audio(await world.log(client, Log.AUDIO, 2))[0] == 50 * WINDOW_SAMPLES


async def test_an_utterance_that_was_found_goes_on_so_and_then_the_client_says_the_ends(world: World) -> None:
    async with listened(world) as client:
        await send(client, loud(10))
        await client.configure(turn_detection="none", pacing="none")
        await send(client, quiet(16), WINDOW_SAMPLES)
        stopped = await client.until("speech_stopped")
        assert (stopped["turn"], stopped["reason"]) == (1, "silence")
        await client.speak(quiet(10))
        stopped = await client.until("speech_stopped")
        assert (stopped["turn"], stopped["reason"], stopped["audio_ms"]) == (2, "client", 36 * WINDOW_MS)


async def test_no_other_utterance_is_found_behind_one_that_outlasts_the_listening(world: World) -> None:
    async with listened(world) as client:
        await send(client, loud(10))
        await client.configure(turn_detection="none", pacing="none")
        await client.speak(quiet(20) + loud(20), ends=False)
        await client.until("speech_stopped")
        await client.speak(loud(5))
        started = await client.until("speech_started")
    assert (started["turn"], started["reason"], started["audio_ms"]) == (2, "client", 50 * WINDOW_MS)


async def test_other_ends_of_utterances_hold_from_the_next_one_on(world: World) -> None:
    async with listened(world) as client:
        await send(client, loud(10))
        await client.configure(silence_ms=320, pacing="none")
        await send(client, quiet(16))
        first = await client.until("speech_stopped")
        await send(client, loud(10) + quiet(10))
        second = await client.until("speech_stopped")
        assert (await world.log(client, Log.AUDIO, 1))[-1] == UtteranceEnd("silence", 17 * WINDOW_SAMPLES)
    assert (first["turn"], second["turn"], second["audio_ms"]) == (1, 2, 36 * WINDOW_MS)


async def test_another_format_holds_at_once_where_no_utterance_stands(world: World) -> None:
    async with listened(world) as client:
        await send(client, quiet(20) + loud(3))
        await client.send("configure", input_format="f32le")
        await client.until("configured")
        floats = (np.frombuffer(loud(10) + quiet(16), "<i2") / 32768).astype("<f4").tobytes()
        await send(client, floats, 640)
        started = await client.until("speech_started")
        await client.until("speech_stopped")
        # What was before the change is no part of it, and places go on counting.
        assert started["audio_ms"] == 23 * WINDOW_MS
        assert audio(await world.log(client, Log.AUDIO)) == (23 * WINDOW_SAMPLES, loud(10) + quiet(7))


async def test_listening_goes_on_in_its_own_format_after_the_client_said_an_end_in_another(
    world: World,
) -> None:
    async with listened(world) as client:
        await send(client, quiet(10))
        await client.configure(turn_detection="none", input_format="f32le")
        await client.speak(np.zeros(WINDOW_SAMPLES, "<f4").tobytes())
        assert (await client.until("speech_stopped"))["turn"] == 1
        await client.configure(turn_detection="server_vad")
        await send(client, loud(10) + quiet(16))
        assert (await client.until("speech_stopped"))["turn"] == 2
        assert audio(await world.log(client, Log.AUDIO, 2)) == (11 * WINDOW_SAMPLES, loud(10) + quiet(7))


# ---- another session


async def test_an_utterance_goes_on_in_another_session(world: World, redis_url: str) -> None:
    sound = quiet(20) + loud(20) + quiet(30)
    async with listened(world) as lost:
        await send(lost, sound[: 2 * 30 * WINDOW_SAMPLES + 300])
        await lost.until("speech_started")
        async with running(redis_url) as other, resuming(other, lost) as client:
            place = client.received[1]["input_samples"]
            assert place == 30 * WINDOW_SAMPLES
            await send_from(client, sound, place)
            stopped = await client.until("speech_stopped")
            log = await world.log(client, Log.AUDIO)
            assert client.received[1]["found_turns"] == [1]
    assert (stopped["turn"], stopped["reason"], stopped["audio_ms"]) == (1, "silence", 40 * WINDOW_MS)
    assert shape(log) == "open chunk take chunk pause end"
    assert audio(log) == (20 * WINDOW_SAMPLES - PADDING, sound[2 * (20 * 512 - PADDING) : 2 * 47 * 512])


@pytest.mark.parametrize("goes_on", [False, True])
async def test_a_pause_goes_on_in_another_session(world: World, goes_on: bool) -> None:
    sound = loud(20) + quiet(10) + (loud(5) if goes_on else b"") + quiet(20)
    async with listened(world) as lost:
        await send(lost, sound[: 2 * 30 * WINDOW_SAMPLES])
        await done(lost)
        async with resuming(world, lost) as client:
            place = client.received[1]["input_samples"]
            assert place == 27 * WINDOW_SAMPLES
            await send_from(client, sound, place)
            stopped = await client.until("speech_stopped")
            log = await world.log(client, Log.AUDIO)
    assert (stopped["turn"], stopped["reason"]) == (1, "silence")
    assert stopped["audio_ms"] == (35 if goes_on else 20) * WINDOW_MS
    if goes_on:
        assert shape(log) == "open chunk pause take chunk pause end"
        assert audio(log) == (0, sound[: 2 * 42 * WINDOW_SAMPLES])
    else:
        assert shape(log) == "open chunk pause take end"
        assert audio(log) == (0, sound[: 2 * 27 * WINDOW_SAMPLES])


async def test_an_utterance_that_was_found_goes_on_so_in_another_session(world: World) -> None:
    sound = loud(10) + quiet(16)
    async with listened(world) as lost:
        await send(lost, sound[: 2 * 10 * WINDOW_SAMPLES])
        await lost.until("speech_started")
        await lost.configure(turn_detection="none")
        async with resuming(world, lost) as client:
            await send_from(client, sound, client.received[1]["input_samples"])
            stopped = await client.until("speech_stopped")
            assert audio(await world.log(client, Log.AUDIO)) == (0, sound[: 2 * 17 * WINDOW_SAMPLES])
    assert (stopped["turn"], stopped["reason"], stopped["audio_ms"]) == (1, "silence", 10 * WINDOW_MS)


async def test_an_utterance_of_which_the_client_says_the_end_goes_on_so_in_another_session(
    world: World,
) -> None:
    async with world.client() as lost:
        await lost.speak(loud(10), ends=False)
        await lost.until("audio_ack")
        await lost.configure(turn_detection="server_vad")
        async with resuming(world, lost) as client:
            assert client.received[1]["found_turns"] == []
            await client.speak(quiet(30), ends=False)
            await client.send("end_of_utterance")
            stopped = await client.until("speech_stopped")
    assert (stopped["turn"], stopped["reason"], stopped["audio_ms"]) == (1, "client", 40 * WINDOW_MS)


async def test_how_long_an_utterance_is_is_not_forgotten_by_another_session(redis_url: str) -> None:
    settings = Settings(max_utterance_s=1.0)
    async with running(redis_url, settings) as world, listened(world) as lost:
        await send(lost, loud(20))
        await lost.until("speech_started")
        await done(lost)
        async with resuming(world, lost) as client:
            await send_from(client, loud(40), client.received[1]["input_samples"])
            stopped = await client.until("speech_stopped")
    assert (stopped["reason"], stopped["audio_ms"]) == ("max_length", 1000.0)


@pytest.mark.parametrize("voiced", [0, 5])
async def test_silence_and_what_may_be_speech_go_on_in_another_session(world: World, voiced: int) -> None:
    before, after = loud(10) + quiet(40), loud(7) + quiet(17)
    sound = before + loud(voiced) + after
    async with listened(world) as lost:
        await send(lost, before + loud(voiced))
        await lost.until("speech_stopped")
        await done(lost)
        kept_from = 50 * WINDOW_SAMPLES - PADDING
        async with resuming(world, lost) as client:
            assert client.received[1]["input_samples"] == 17 * WINDOW_SAMPLES
            # The client may drop what was acknowledged.
            await send_from(client, sound, kept_from)
            started = await client.until("speech_started")
            await client.until("speech_stopped")
            log = await world.log(client, Log.AUDIO, 2)
    # Windows lie elsewhere now, so the onset may be found in the one before.
    assert 49 * WINDOW_MS < started["audio_ms"] <= 50 * WINDOW_MS
    start, pcm = audio(log)
    assert start == kept_from
    assert sound[2 * start :].startswith(pcm)


# ---- the detector


class Failing(LoudIsVoice):
    """A detector whose every call fails while `fails` is set."""

    fails = True

    def ear(self) -> LoudEar:
        return FailingEar(self)


class FailingEar(LoudEar):
    def __init__(self, detector: Failing) -> None:
        super().__init__()
        self._detector = detector

    async def hear(self, pcm: bytes) -> list[Heard]:
        if self._detector.fails:
            self.forget()
            raise EngineError("out of order", retryable=True)
        return await super().hear(pcm)


async def test_a_detector_that_fails_is_an_error_a_second_and_the_session_goes_on(redis_url: str) -> None:
    detector = Failing()
    async with running(redis_url, detector=detector) as world, listened(world) as client:
        await send(client, loud(60), WINDOW_SAMPLES)
        await done(client)
        errors = told(client, "error")
        assert [(error["code"], error["retryable"]) for error in errors] == [("engine_failed", True)] * 2
        detector.fails = False
        await send(client, loud(60) + quiet(17))
        assert (await client.until("speech_stopped"))["turn"] == 1


async def test_a_detector_that_fails_in_an_utterance_ends_its_turn(redis_url: str) -> None:
    detector = Failing()
    async with running(redis_url, detector=detector) as world, listened(world) as client:
        detector.fails = False
        await send(client, loud(10))
        await world.answer(client)
        detector.fails = True
        await send(client, loud(1))
        error = await client.until("error")
        assert (error["code"], error["turn"]) == ("engine_failed", 1)
        assert error["address"]
        detector.fails = False
        await send(client, quiet(60) + loud(10) + quiet(17))
        assert (await client.until("speech_stopped", "error"))["turn"] == 2
    assert len(told(client, "error")) == 1


class Stuck(LoudIsVoice):
    """A detector that answers the second conversation only when it is `free`."""

    def __init__(self) -> None:
        self.free = asyncio.Event()
        self.asked = asyncio.Event()
        self._ears = 0

    def ear(self) -> LoudEar:
        self._ears += 1
        return LoudEar() if self._ears == 1 else StuckEar(self)


class StuckEar(LoudEar):
    def __init__(self, detector: Stuck) -> None:
        super().__init__()
        self._detector = detector

    async def hear(self, pcm: bytes) -> list[Heard]:
        self._detector.asked.set()
        await self._detector.free.wait()
        return await super().hear(pcm)


async def test_who_waits_for_the_detector_holds_nobody_up_and_may_go_meanwhile(redis_url: str) -> None:
    detector = Stuck()
    async with (
        running(redis_url, detector=detector) as world,
        listened(world) as client,
        listened(world) as waiting,
    ):
        await send(waiting, loud(20))
        await detector.asked.wait()
        await send(client, loud(10) + quiet(16))
        assert (await client.until("speech_stopped"))["turn"] == 1
        async with resuming(world, waiting, cut=False) as again:
            assert await waiting.closed() == 4001
            detector.free.set()
            await send_from(again, loud(20) + quiet(16), 0)
            assert (await again.until("speech_stopped"))["turn"] == 1


async def test_a_detector_that_does_not_answer_has_failed(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = Stuck()
    async with (
        running(redis_url, detector=detector) as world,
        listened(world),
        listened(world) as client,
    ):
        monkeypatch.setattr("edge.listener.HEARD_WITHIN_S", 0.05)
        await send(client, loud(10))
        error = await client.until("error")
        assert (error["code"], error["retryable"], error["turn"]) == ("engine_failed", True, None)
        monkeypatch.undo()
        detector.free.set()
        await send(client, loud(60) + quiet(17))
        assert (await client.until("speech_stopped"))["turn"] == 1


async def test_a_recording_is_found_by_the_detector_that_an_edge_has(redis_url: str) -> None:
    silence = sounds.silence(1.0)
    async with (
        running(redis_url, detector=Silero()) as world,
        listened(world, silence_ms=2000) as client,
    ):
        await send(client, silence + sounds.recording() + silence * 3)
        started = await client.until("speech_started")
        stopped = await client.until("speech_stopped")
        log = await world.log(client, Log.AUDIO)
    assert started["audio_ms"] == pytest.approx(1320, abs=100)
    assert 11_500 < stopped["audio_ms"] <= 12_100
    start, pcm = audio(log)
    assert start == started["audio_ms"] * 16 - PADDING
    assert (silence + sounds.recording() + silence)[2 * start :].startswith(pcm)
    assert Take("resume") not in log
