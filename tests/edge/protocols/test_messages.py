from __future__ import annotations

import json

import pytest

from edge.protocols import messages
from edge.protocols.encoding import Encoding, encode, parse
from shared.errors import ClientError
from shared.wire import Address, Log

EVERY: dict[str, messages.Message] = {
    "connection": messages.connection("0123456789abcdef", "token", {"frame_ms": 100}),
    "configured": messages.configured({"voice": "en-us", "speed": 1.0}),
    "audio_ack": messages.audio_ack(3, 16_000),
    "speech_started": messages.speech_started(3, 1000.0, "client"),
    "speech_stopped": messages.speech_stopped(3, 2000.0, "max_length"),
    "token_chunk": messages.token_chunk(
        3, " I", chunk_sequence=4, inter_token_latency_ms=None, timestamp=1.0, address="text:3-7"
    ),
    "semantic_chunk": messages.semantic_chunk(
        3,
        " Yes,",
        full_text_so_far="Hello! Yes,",
        chunk_sequence=1,
        boundary_type="clause_break",
        address="text:3-6",
    ),
    "sequential_audio": messages.sequential_audio(
        3,
        b"\x00\x01",
        sample_rate=24_000,
        chunk_index=1,
        frame_index=9,
        voice="en-us",
        duration_ms=100.0,
        format="pcm16",
        timestamp=1.0,
        address="speech:3-10",
        text_source=" Yes,",
    ),
    "chunked_streaming_complete": messages.chunked_streaming_complete(
        3,
        chunk_id="a",
        response_text="Hello!",
        total_tokens=2,
        total_words=1,
        total_chunks=1,
        total_time_ms=300.0,
        first_token_latency_ms=95.0,
        first_word_latency_ms=135.0,
        first_audio_latency_ms=None,
        inter_token_latency_ms=40.0,
        audio_duration_ms=360.0,
        address="speech:3-5",
    ),
    "audio_interrupted": messages.audio_interrupted(
        3,
        chunk_id=None,
        heard_ms=120.0,
        heard_text="Hello!",
        cleared_frames=2,
        reason="barge_in",
        address="speech:3-6",
    ),
    "resumed": messages.resumed("0123456789abcdef", "token", 3, 16_000, [2]),
    "going_away": messages.going_away(3000.0),
    "error": messages.error(
        ClientError("overloaded", "no room", retryable=True, retry_after_ms=500.0),
        turn=3,
        chunk_id="a",
        address="text:3-9",
    ),
    "pong": messages.pong(),
    "status": messages.status("0123456789abcdef", 3, "speaking", 4),
}


@pytest.mark.parametrize("kind", EVERY)
def test_every_message_says_its_type_and_survives_both_encodings(kind: str) -> None:
    message = EVERY[kind]
    assert message["type"] == kind
    assert parse(encode(message, Encoding.MSGPACK), Encoding.MSGPACK, 1 << 20) == message
    as_json = {name: "AAE=" if name == "audio_data" else value for name, value in message.items()}
    assert json.loads(encode(message, Encoding.JSON)) == as_json


@pytest.mark.parametrize("kind", EVERY)
def test_every_duration_is_a_float_or_did_not_happen(kind: str) -> None:
    for name, value in EVERY[kind].items():
        if name.endswith("_ms"):
            assert value is None or isinstance(value, float)


def test_an_address_names_its_log() -> None:
    assert messages.place(Log.TEXT, Address(3, 17)) == "text:3-17"
    assert messages.place(Log.SPEECH, Address(1, 0)) == "speech:1-0"


def test_only_the_first_frame_of_a_chunk_names_its_text() -> None:
    later = messages.sequential_audio(
        3,
        b"",
        sample_rate=24_000,
        chunk_index=1,
        frame_index=10,
        voice=None,
        duration_ms=100.0,
        format="wav",
        timestamp=1.0,
        address="speech:3-11",
    )
    assert set(EVERY["sequential_audio"]) - set(later) == {"text_source"}


def test_an_error_has_an_address_only_where_it_ends_a_turn() -> None:
    assert messages.error(ClientError("bad_message", "type: expected a string, got nothing")) == {
        "type": "error",
        "code": "bad_message",
        "message": "type: expected a string, got nothing",
        "retryable": False,
        "retry_after_ms": None,
        "turn": None,
        "chunk_id": None,
    }
    assert EVERY["error"]["address"] == "text:3-9"


def test_what_a_client_can_count_on_is_named_as_in_the_protocol() -> None:
    config = messages.server_config(
        sample_rate=16_000,
        output_sample_rate=24_000,
        frame_ms=100,
        streaming_mode="chunked_streaming",
        turn_detection=["none"],
        engines={"llm": "parrot", "tts": None},
        voices=["en-us"],
        limits={"max_message_bytes": 4_194_304},
        version="0.1.0",
    )
    assert parse(encode(config, Encoding.JSON), Encoding.JSON, 1 << 20) == config
