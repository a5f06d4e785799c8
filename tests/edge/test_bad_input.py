from __future__ import annotations

import json
import os

import msgpack
import pytest
from websockets.frames import Frame, Opcode

from shared.settings import Settings
from tests.edge.world import SECOND, Client, World, running

SHORT = SECOND[:3200]
NAN = b"\x00\x00\xc0\x7f"

BAD_JSON = [
    ("", "bad_message"),
    ("{", "bad_message"),
    ("[]", "bad_message"),
    ("null", "bad_message"),
    ('{"type": "ping", "type": "ping"}', "bad_message"),
    ("[" * 100_000, "bad_message"),
    ('{"type": 1}', "bad_message"),
    ('{"type": "dance"}', "unknown_type"),
    ('{"type": "configure", "speed": true}', "bad_message"),
    ('{"type": "configure", "speed": NaN}', "bad_message"),
    ('{"type": "configure", "temperature": 1e999}', "bad_message"),
    ('{"type": "configure", "seed": 18446744073709551616}', "bad_message"),
    ('{"type": "configure", "input_format": "mp3"}', "bad_message"),
    ('{"type": "configure", "turn_detection": {"type": "semantic_vad"}}', "bad_message"),
    ('{"type": "configure", "turn_detection": {"type": "server_vad", "threshold": 0}}', "bad_message"),
    ('{"type": "configure", "turn_detection": {"type": "server_vad", "pause_ms": 501}}', "bad_message"),
    ('{"type": "configure", "silence_ms": "automatic"}', "bad_message"),
    ('{"type": "audio_chunk"}', "bad_audio"),
    ('{"type": "audio_chunk", "audio_data": "?"}', "bad_audio"),
    ('{"type": "audio_chunk", "audio_data": "AA=="}', "bad_audio"),
    ('{"type": "audio_chunk", "audio_data": "AAAA", "end_of_utterance": "no"}', "bad_message"),
    ('{"type": "audio_chunk", "audio_data": "AAAA", "mode": "batch"}', "bad_message"),
    ('{"type": "audio_chunk", "audio_data": "AAAA", "streaming": "no"}', "bad_message"),
    ('{"type": "audio_chunk", "audio_data": "UklGRgAAAABXQVZF", "end_of_utterance": true}', "bad_audio"),
    ('{"type": "audio_chunk", "audio_data": "", "end_of_utterance": true}', "wrong_state"),
    ('{"type": "text", "text": ""}', "bad_message"),
    ('{"type": "text", "text": "\\ud800"}', "bad_message"),
    ('{"type": "end_of_utterance"}', "wrong_state"),
    ('{"type": "user_interrupt"}', "wrong_state"),
    ('{"type": "user_interrupt", "played_ms": -1}', "bad_message"),
    ('{"type": "playback"}', "bad_message"),
    ('{"type": "resume", "conversation_id": "x", "resume_token": "y"}', "wrong_state"),
]

BAD_MSGPACK = [
    (b"", "bad_message"),
    (b"\xc1", "bad_message"),
    (msgpack.packb([1]), "bad_message"),
    (msgpack.packb({1: 2}), "bad_message"),
    (b"\xdf\xff\xff\xff\xff", "bad_message"),
    (b"\x81" * 5000, "bad_message"),
    (msgpack.packb({"type": "audio_chunk", "audio_data": "text"}), "bad_audio"),
    (msgpack.packb({"type": "audio_chunk", "audio_data": b"\0"}), "bad_audio"),
    (msgpack.packb({"type": "ping"}) + b"\0", "bad_message"),
]


async def answers(client: Client) -> None:
    """The session still does what it is told."""
    await client.send("ping")
    await client.until("pong")


async def test_every_malformed_json_message_gets_its_error_and_the_next_good_turn_works(world: World) -> None:
    async with world.client("json") as client:
        for data, code in BAD_JSON:
            await client.socket.send(data)
            error = await client.nothing_before("error")
            assert error["code"] == code, (data[:60], error)
            assert error["message"]
        await client.send("text", text="And now?")
        answer = await world.answer(client)
        await answer.say("Now it works.")
        await answer.end()
        await client.until("chunked_streaming_complete")


async def test_every_malformed_msgpack_message_gets_its_error_and_the_session_goes_on(world: World) -> None:
    async with world.client() as client:
        for data, code in BAD_MSGPACK:
            await client.socket.send(data)
            error = await client.nothing_before("error")
            assert error["code"] == code, (data[:60], error)
        await answers(client)


async def test_the_wrong_kind_of_frame_is_an_error(world: World) -> None:
    async with world.client("json") as client:
        await client.socket.send(b"\0\1")
        assert (await client.until("error"))["code"] == "bad_message"
        await answers(client)


@pytest.mark.parametrize("samples", [NAN, NAN * 100, b"\x00\x00\x80\x7f", b"\0" * 6])
async def test_samples_that_are_no_sound_begin_no_turn(world: World, samples: bytes) -> None:
    async with world.client(input_format="f32le") as client:
        await client.speak(samples)
        assert (await client.until("error"))["code"] == "bad_audio"
        await client.send("status")
        status = await client.until("status")
        assert (status["turn"], status["state"]) == (0, "listening")


async def test_bad_audio_does_not_interrupt_an_answer(world: World) -> None:
    async with world.client() as client:
        await client.speak(SHORT)
        answer = await world.answer(client)
        await client.speak(b"\0")
        assert (await client.until("error"))["code"] == "bad_audio"
        await answer.end()
        assert (await client.until("chunked_streaming_complete"))["turn"] == 1


async def test_bad_audio_inside_an_utterance_leaves_it_open(world: World) -> None:
    async with world.client() as client:
        await client.speak(SHORT, ends=False)
        await client.speak(b"\0", ends=False)
        assert (await client.until("error"))["code"] == "bad_audio"
        await client.speak(SHORT)
        assert (await client.until("speech_stopped"))["audio_ms"] == 200.0


@pytest.mark.parametrize("samples", [1, 160])
async def test_an_utterance_may_be_very_short(world: World, samples: int) -> None:
    async with world.client() as client:
        await client.speak(bytes(2 * samples))
        await (await world.answer(client)).end()
        await client.until("chunked_streaming_complete")


async def test_input_far_beyond_real_time_is_taken(world: World) -> None:
    async with world.client() as client:
        for _ in range(200):
            await client.speak(SHORT, ends=False)
        await client.send("end_of_utterance")
        assert (await client.until("speech_stopped"))["audio_ms"] == 20_000.0


async def test_a_message_that_is_too_large_is_an_error_and_a_huge_one_closes_the_socket(
    redis_url: str,
) -> None:
    async with running(redis_url, Settings(max_message_bytes=100_000)) as world:
        async with world.client() as client:
            await client.speak(bytes(100_000))
            assert (await client.until("error"))["code"] == "too_large"
            await answers(client)
            await client.speak(bytes(1_000_000))
            assert await client.closed() == 1009
        async with world.client() as client:
            await answers(client)


NO_MESSAGES = {
    "text that is no UTF-8": ([Frame(Opcode.TEXT, b"\xff\xfe")], 1007),
    "text that is none once it is whole": (
        [Frame(Opcode.TEXT, b"\xc3", fin=False), Frame(Opcode.CONT, b"\xc3")],
        1007,
    ),
    "a close without a reason in words": ([Frame(Opcode.CLOSE, b"\x03\xe8\xff\xff")], 1007),
    "more of no message": ([Frame(Opcode.CONT, b"x")], 1002),
    "a message within a message": ([Frame(Opcode.TEXT, b"x", fin=False), Frame(Opcode.TEXT, b"x")], 1002),
    "a close code that is none": ([Frame(Opcode.CLOSE, b"\0\1")], 1002),
}


@pytest.mark.parametrize(("frames", "code"), NO_MESSAGES.values(), ids=NO_MESSAGES)
async def test_frames_that_are_no_message_close_the_socket_and_write_no_error(
    world: World, caplog: pytest.LogCaptureFixture, frames: list[Frame], code: int
) -> None:
    caplog.set_level("DEBUG", "edge.sockets")
    async with world.client("json") as client:
        for frame in frames:
            await raw(client, frame)
        assert await client.closed() == code
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR", "CRITICAL")]
    (line,) = [record for record in caplog.records if record.name == "edge.sockets"]
    assert (line.levelname, str(code) in line.getMessage()) == ("DEBUG", True)


@pytest.mark.parametrize("opcode", [3, 11])
async def test_a_reserved_opcode_closes_the_socket(world: World, opcode: int) -> None:
    async with world.client() as client:
        client.socket.transport.write(bytes([0x80 | opcode, 0x80, 0, 0, 0, 0]))
        assert await client.closed() == 1002


async def test_a_fragmented_message_is_put_together(world: World) -> None:
    async with world.client("json") as client:
        data = json.dumps({"type": "ping"})
        await client.socket.send([data[:3], data[3:9], data[9:]])
        await client.until("pong")


async def test_noise_on_the_socket_ends_that_socket_only(world: World) -> None:
    async with world.client() as good:
        for _ in range(20):
            async with world.socket() as bad:
                bad.socket.transport.write(os.urandom(2000))
                await bad.closed()
        await answers(good)


async def test_playback_of_a_turn_that_never_was_does_no_harm(world: World) -> None:
    async with world.client() as client:
        for turn in (1, 7, 2**53 - 1):
            await client.send("playback", turn=turn, played_ms=100.0)
        await answers(client)


async def test_a_client_that_claims_to_hold_what_cannot_be_is_still_told_what_comes(world: World) -> None:
    async with world.client() as lost:
        await lost.speak(SHORT)
        answer = await world.answer(lost)
        lost.socket.transport.abort()
        async with world.socket() as client:
            await client.greet()
            await client.send(
                "resume",
                conversation_id=lost.conversation,
                resume_token=lost.token,
                after={"text": "999999999-5", "speech": "7-7"},
            )
            await client.until("resumed")
            await answer.end()
            client.conversation = lost.conversation
            await client.speak(SHORT)
            await world.answer(client, 2)


async def raw(client: Client, frame: Frame) -> None:
    """Write a frame as it is."""
    client.socket.transport.write(frame.serialize(mask=True))
