"""Each limit that a client can reach: what just fits is taken, and what just does not is refused.

The bounds of single fields are in `protocols/test_native`, those of parsing in `protocols/test_encoding`.
"""

from __future__ import annotations

import itertools
import json
import math
import struct
from contextlib import AsyncExitStack

import httpx
import msgpack
import pytest
from websockets.exceptions import InvalidStatus

from edge.conversation import MAX_WAITING
from edge.downlink import EARLY_FRAMES
from edge.intake import ROUNDING_SAMPLES, Slice
from edge.measure import Measure
from edge.protocols.native import MAX_TEXT
from edge.room import Room
from edge.sockets import ABOVE_LIMIT_BYTES
from shared.audio import InputDecoder
from shared.errors import AudioError, ClientError
from shared.hold import new_conversation
from shared.keys import JOBS, LONGEST_UTTERANCE_S, MAX_TURN_BYTES, MAX_WAITING_JOBS, batch_key, log_key
from shared.log import BATCH_ENTRIES, LogWriter
from shared.settings import Settings
from shared.wav import HIGHEST_RATE, LOWEST_RATE, MAX_CHANNELS, MAX_HEADER_BYTES
from shared.wire import Log, Open, UtteranceEnd, new_tag
from tests.edge.world import SECOND, World, running

LIMIT = 10_000


# ---- messages


def of_size(size: int, encoding: str, filling: str = "x") -> str | bytes:
    """A `ping` of so many bytes, blown up by a field that nobody reads."""
    width = len(filling.encode())

    def ping(characters: int) -> bytes:
        message = {"type": "ping", "x": filling * characters}
        if encoding == "msgpack":
            packed: bytes = msgpack.packb(message)
            return packed
        return json.dumps(message, ensure_ascii=False).encode()

    rest = len(ping(size)) - width * size
    data = ping((size - rest) // width)
    assert len(data) == size
    return data if encoding == "msgpack" else data.decode()


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
async def test_a_message_has_its_limit_and_the_socket_another(redis_url: str, encoding: str) -> None:
    async with running(redis_url, Settings(max_message_bytes=LIMIT)) as world:
        async with world.client(encoding) as client:
            await client.socket.send(of_size(LIMIT, encoding))
            await client.nothing_before("pong")
            for size in (LIMIT + 1, LIMIT + ABOVE_LIMIT_BYTES):
                await client.socket.send(of_size(size, encoding))
                assert (await client.nothing_before("error"))["code"] == "too_large"
            await client.socket.send(of_size(LIMIT + ABOVE_LIMIT_BYTES + 1, encoding))
            assert await client.closed() == 1009


async def test_the_size_of_a_message_is_that_of_its_bytes(redis_url: str) -> None:
    async with running(redis_url, Settings(max_message_bytes=LIMIT)) as world, world.client("json") as client:
        await client.socket.send(of_size(LIMIT - 1, "json", "é"))
        await client.nothing_before("pong")
        await client.socket.send(of_size(LIMIT + 1, "json", "é"))
        assert (await client.nothing_before("error"))["code"] == "too_large"


# ---- conversations and turns


async def test_a_conversation_more_than_fits_is_refused_with_a_time_to_come_back(redis_url: str) -> None:
    async with running(redis_url, Settings(max_conversations=3)) as world, AsyncExitStack() as clients:
        for _ in range(3):
            await clients.enter_async_context(world.client())
        with pytest.raises(InvalidStatus) as refused:
            await clients.enter_async_context(world.client())
        response = refused.value.response
        assert response.status_code == 503
        error = json.loads(response.body or b"")
        assert (error["code"], error["retryable"]) == ("overloaded", True)
        assert int(response.headers["Retry-After"]) == math.ceil(error["retry_after_ms"] / 1000)
        async with httpx.AsyncClient() as browser:
            door = await browser.get(f"http://127.0.0.1:{world.port}/ws")
        assert (door.status_code, door.json()["message"]) == (503, error["message"])


@pytest.mark.parametrize("processes", [1, 3])
async def test_so_many_batch_turns_wait_for_each_jobs_process_and_no_more(
    world: World, processes: int
) -> None:
    for number in range(processes):
        await world.announce(JOBS, name=f"test.jobs.{number}")
    room = world.services.room
    await world.store.call("RPUSH", batch_key(), *range(processes * MAX_WAITING_JOBS - 1))
    await room.look()
    room.admit(batch=True)
    await world.store.call("RPUSH", batch_key(), "one more")
    await room.look()
    with pytest.raises(ClientError, match="every jobs worker is busy") as refused:
        room.admit(batch=True)
    assert refused.value.retry_after_ms is not None


async def test_a_turn_may_wait_for_a_worker_for_so_long(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    room, longest_s = world.services.room, Settings().admit_within_ms / 1000
    monkeypatch.setattr(Room, "unclaimed_s", longest_s)
    room.admit()
    monkeypatch.setattr(Room, "unclaimed_s", longest_s + 0.001)
    with pytest.raises(ClientError, match="every worker is busy") as refused:
        room.admit()
    assert refused.value.retry_after_ms is not None


async def test_so_many_typed_turns_wait_for_an_answer_and_no_more(world: World) -> None:
    async with world.client(interrupt=False) as client:
        for _ in range(1 + MAX_WAITING):
            await client.send("text", text="And then?")
            await client.send("ping")
            await client.nothing_before("pong")
        await client.send("text", text="And then?")
        assert (await client.nothing_before("error"))["code"] == "busy"


async def test_an_utterance_that_is_one_sample_shorter_than_the_longest_is_open(redis_url: str) -> None:
    async with running(redis_url, Settings(max_utterance_s=1.0)) as world, world.client() as client:
        await client.speak(SECOND[2:], ends=False)
        await client.until("audio_ack")
        await client.send("status")
        assert (await client.nothing_before("status"))["state"] == "hearing"
        await client.speak(SECOND[:2], ends=False)
        stopped = await client.nothing_before("speech_stopped")
        assert (stopped["reason"], stopped["audio_ms"]) == ("max_length", 1000.0)


async def test_the_longest_utterance_that_may_be_set_fits_into_its_log(world: World) -> None:
    measure = Measure(Settings.from_env({"MAX_UTTERANCE_S": f"{LONGEST_UTTERANCE_S:g}"}).max_utterance_s)
    key = log_key(new_conversation(), Log.AUDIO)
    writer = LogWriter(world.store, key, 1, new_tag(), max_turn_bytes=MAX_TURN_BYTES[Log.AUDIO], ttl_s=60)
    await writer.append(Open(prompt="x" * MAX_TEXT))
    step = 320  # 10 ms: what a client sends at once at the least
    pieces = [
        measure.entries(Slice(place, bytes(step))) for place in range(0, measure.max_samples, step // 2)
    ]
    assert measure.full
    for start in range(0, len(pieces), BATCH_ENTRIES):
        await writer.append(*itertools.chain(*pieces[start : start + BATCH_ENTRIES]))
    await writer.append(UtteranceEnd("max_length", measure.max_samples))


async def test_an_utterance_at_the_bound_of_its_log_ends_its_turn_and_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = SECOND[:3200]
    monkeypatch.setitem(MAX_TURN_BYTES, Log.AUDIO, 3 * len(opened))
    async with world.client() as client:
        await client.speak(opened, ends=False)
        await client.speak(opened, ends=False)
        await client.until("audio_ack")
        await client.send("status")
        assert (await client.until("status"))["state"] == "hearing"
        await client.speak(opened, ends=False)
        ended = await client.until("audio_interrupted")
        assert (ended["turn"], ended["reason"]) == (1, "abandoned")
        await client.speak(opened)
        await (await world.answer(client, 2)).end()
        assert (await client.until("chunked_streaming_complete"))["turn"] == 2


@pytest.mark.parametrize("frames", [EARLY_FRAMES, EARLY_FRAMES + 2])
async def test_frames_that_come_before_their_text_are_all_told_behind_it(world: World, frames: int) -> None:
    async with world.client(pacing="none") as client:
        await client.speak(SECOND[:3200])
        answer = await world.answer(client)
        await answer.utter(frames)
        await answer.write("A long story.")
        await answer.end()
        await client.until("chunked_streaming_complete")
    told = [message["frame_index"] for message in client.received if message["type"] == "sequential_audio"]
    assert told == list(range(frames))


# ---- audio


async def test_a_place_in_the_input_may_be_off_by_a_rounding_and_no_more(world: World) -> None:
    async with world.client() as client:
        await client.speak(SECOND[:3200], ends=False, offset_samples=0)
        await client.speak(SECOND[:3200], ends=False, offset_samples=1600 + ROUNDING_SAMPLES)
        await client.speak(SECOND[:3200], ends=False, offset_samples=3200 + ROUNDING_SAMPLES + 1)
        error = await client.until("error")
        assert error["code"] == "bad_audio" and error["message"].endswith("go on at 3200")


def wav(*, rate: int = 16_000, channels: int = 1, before: int = 0, samples: int = 320) -> bytes:
    """A WAV file of silence, with `before` bytes between the first chunk's end and the samples' own head."""
    head = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, 2 * channels * rate, 2 * channels, 16)
    filler = struct.pack("<4sI", b"JUNK", before - 8) + bytes(before - 8) if before else b""
    data = (
        head + filler + struct.pack("<4sI", b"data", 2 * channels * samples) + bytes(2 * channels * samples)
    )
    return struct.pack("<4sI4s", b"RIFF", 4 + len(data), b"WAVE") + data


@pytest.mark.parametrize(
    ("fits", "beyond"),
    [
        (wav(rate=LOWEST_RATE), wav(rate=LOWEST_RATE - 1)),
        (wav(rate=HIGHEST_RATE), wav(rate=HIGHEST_RATE + 1)),
        (wav(channels=1), wav(channels=0)),
        (wav(channels=MAX_CHANNELS), wav(channels=MAX_CHANNELS + 1)),
    ],
    ids=["lowest rate", "highest rate", "no channel", "most channels"],
)
def test_a_file_is_taken_up_to_the_bounds_of_what_is_heard(fits: bytes, beyond: bytes) -> None:
    decoder = InputDecoder("wav", 16_000)
    assert len(decoder.feed(fits)) + len(decoder.flush()) > 0
    with pytest.raises(AudioError):
        InputDecoder("wav", 16_000).feed(beyond)


def test_the_head_of_a_file_is_waited_for_up_to_its_bound() -> None:
    file = wav(before=2 * MAX_HEADER_BYTES)
    decoder = InputDecoder("wav", 16_000)
    assert decoder.feed(file[:MAX_HEADER_BYTES]) == b""
    with pytest.raises(AudioError, match=f"first {MAX_HEADER_BYTES} bytes"):
        decoder.feed(file[MAX_HEADER_BYTES : MAX_HEADER_BYTES + 1])
