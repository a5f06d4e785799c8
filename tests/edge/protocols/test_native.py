from __future__ import annotations

import base64
import json
from dataclasses import fields
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge.endpointing import ServerVad, Silence
from edge.protocols.fields import SHOWN
from edge.protocols.native import (
    MAX_ID,
    MAX_NAME,
    MAX_TEXT,
    AudioChunk,
    Bye,
    ClientMessage,
    Configure,
    Encoding,
    EndOfUtterance,
    InputFormat,
    Mode,
    OutputFormat,
    Pacing,
    Ping,
    Playback,
    Resume,
    Status,
    Text,
    TurnDetection,
    UserInterrupt,
    decode,
)
from shared.errors import ClientError
from shared.wire import Address

LIMIT = 4 << 20
CODES = {"bad_message", "bad_audio", "too_large", "unknown_type", "unsupported"}
PCM = bytes(range(256)) * 5


def from_json(**message: object) -> ClientMessage:
    return decode(json.dumps(message), Encoding.JSON, LIMIT)


def from_msgpack(**message: object) -> ClientMessage:
    return decode(msgpack.packb(message), Encoding.MSGPACK, LIMIT)


def refused(**message: object) -> ClientError:
    """The error for a message, which is the same in both encodings."""
    with pytest.raises(ClientError) as caught:
        from_json(**message)
    with pytest.raises(ClientError) as packed:
        from_msgpack(**message)
    assert (packed.value.code, packed.value.message) == (caught.value.code, caught.value.message)
    return caught.value


def audio(**more: object) -> dict[str, object]:
    return {"type": "audio_chunk", "audio_data": base64.b64encode(PCM).decode(), **more}


# ---- every message


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("end_of_utterance", EndOfUtterance()),
        ("bye", Bye()),
        ("ping", Ping()),
        ("status", Status()),
        ("user_interrupt", UserInterrupt()),
        ("configure", Configure()),
    ],
)
def test_messages_without_fields_need_none(kind: str, expected: ClientMessage) -> None:
    assert from_json(type=kind) == from_msgpack(type=kind) == expected


def test_a_configure_carries_every_setting_it_names() -> None:
    message: dict[str, Any] = {
        "voice": "en-us",
        "language": "en",
        "speed": 1.5,
        "prompt": "Be brief.",
        "input_format": "pcm16",
        "input_sample_rate": 48_000,
        "output_format": "pcm16",
        "turn_detection": "none",
        "silence_ms": 600,
        "interrupt": False,
        "echo_cancelled": False,
        "pacing": "none",
        "max_reply_tokens": 100,
        "temperature": 0,
        "top_p": 1,
        "seed": 7,
    }
    expected = Configure(
        **message
        | {
            "input_format": InputFormat.PCM16,
            "output_format": OutputFormat.PCM16,
            "turn_detection": TurnDetection.NONE,
            "pacing": Pacing.NONE,
        }
    )
    assert set(message) == {field.name for field in fields(Configure)}
    decoded = from_json(type="configure", **message)
    assert decoded == from_msgpack(type="configure", **message) == expected
    assert isinstance(decoded, Configure) and isinstance(decoded.silence_ms, float)


def test_a_configure_leaves_what_it_does_not_name_or_names_as_null() -> None:
    expected = Configure(voice="", speed=2.0)
    assert from_json(type="configure", voice="", speed=2) == expected
    assert from_json(type="configure", voice="", speed=2, prompt=None, seed=None) == expected


def test_an_audio_chunk_brings_its_bytes_in_either_encoding() -> None:
    assert from_json(**audio()) == AudioChunk(PCM)
    assert from_msgpack(type="audio_chunk", audio_data=PCM) == AudioChunk(PCM)
    assert from_json(
        **audio(
            chunk_id="a-1",
            mode="streaming",
            streaming=True,
            prompt="p",
            voice="v",
            speed=0.5,
            end_of_utterance=False,
            offset_samples=320,
        )
    ) == AudioChunk(
        PCM, "a-1", True, Mode.STREAMING, "p", "v", 0.5, end_of_utterance=False, offset_samples=320
    )


def test_audio_may_be_empty_only_where_it_ends_the_utterance() -> None:
    ends = AudioChunk(b"", end_of_utterance=True)
    assert from_json(type="audio_chunk", audio_data="", end_of_utterance=True) == ends
    assert from_msgpack(type="audio_chunk", audio_data=b"", end_of_utterance=True) == ends
    assert from_json(type="audio_chunk", end_of_utterance=True) == ends
    assert refused(type="audio_chunk").code == "bad_audio"
    assert refused(type="audio_chunk", end_of_utterance=False).code == "bad_audio"
    with pytest.raises(ClientError, match="expected audio, got none") as caught:
        from_json(type="audio_chunk", audio_data="")
    assert caught.value.code == "bad_audio"


@pytest.mark.parametrize(
    "data",
    [
        "AAA",
        "AAAA=",
        "AAAA====",
        "AAAA" + "=" * 1024,
        "AA==AA==",
        "A*AA",
        "AAAA\n",
        " AAAA",
        "AA-_",
        "data:audio/wav;base64,AAAA",
        "é",
        "=",
        7,
    ],
)
def test_base64_is_taken_strictly(data: object) -> None:
    with pytest.raises(ClientError, match=r"audio_chunk\.audio_data: expected audio in base64") as caught:
        from_json(type="audio_chunk", audio_data=data)
    assert caught.value.code == "bad_audio"


@pytest.mark.parametrize("data", ["AAAA", 7, [0, 0]])
def test_audio_in_msgpack_is_bytes_and_nothing_else(data: object) -> None:
    with pytest.raises(ClientError, match="expected audio as raw bytes") as caught:
        from_msgpack(type="audio_chunk", audio_data=data)
    assert caught.value.code == "bad_audio"


def test_a_text_is_taken_as_it_was_typed() -> None:
    assert from_json(type="text", text=" How are you?\n") == Text(" How are you?\n")
    assert "white space" in refused(type="text", text=" \t\n").message
    assert "got nothing" in refused(type="text").message


def test_playback_needs_both_of_its_fields() -> None:
    assert from_json(type="playback", turn=3, played_ms=1500) == Playback(3, 1500.0)
    assert refused(type="playback", turn=3).message.startswith("playback.played_ms")
    assert refused(type="playback", played_ms=3).message.startswith("playback.turn")


def test_an_interrupt_may_say_how_much_was_heard() -> None:
    assert from_json(type="user_interrupt", played_ms=12.5) == UserInterrupt(12.5)


def test_a_resume_names_where_the_client_is_in_each_log() -> None:
    ids = {"conversation_id": "0123456789abcdef", "resume_token": "secret"}
    start = Resume("0123456789abcdef", "secret")
    assert from_json(type="resume", **ids) == start
    assert from_json(type="resume", **ids, after={}) == start
    assert from_json(type="resume", **ids, after={"text": "0-0", "speech": None, "audio": 1}) == start
    assert from_json(type="resume", **ids, after={"text": "3-17", "speech": "3-41"}) == Resume(
        "0123456789abcdef", "secret", Address(3, 17), Address(3, 41)
    )
    assert refused(type="resume", conversation_id="a").message.startswith("resume.resume_token")
    assert refused(type="resume", resume_token="a").message.startswith("resume.conversation_id")


@pytest.mark.parametrize(
    "place",
    [
        "",
        "3",
        "3-",
        "-3",
        "0-5",
        "3-17-1",
        "text:3-17",
        "\u0663-\u0661\u0667",
        "3-+1",
        "9" * 16 + "-1",
        3,
        ["3-17"],
    ],
)
def test_an_address_that_is_none_is_refused(place: object) -> None:
    error = refused(type="resume", conversation_id="a", resume_token="b", after={"speech": place})
    assert error.code == "bad_message"
    assert error.message.startswith("resume.after: speech: expected an address such as '3-17', got ")


def test_where_the_client_is_must_be_a_map() -> None:
    assert refused(type="resume", conversation_id="a", resume_token="b", after="3-17").code == "bad_message"


# ---- what is not there, not known, not built


@pytest.mark.parametrize("kind", [None, 1, True, ["ping"], {"a": 1}])
def test_a_type_is_a_string(kind: object) -> None:
    error = refused(type=kind)
    assert (error.code, error.message[:23]) == ("bad_message", "type: expected a string")
    assert refused(text="no type").code == "bad_message"


@pytest.mark.parametrize("kind", ["", "Ping", "audio", "connection", "ping ", "\ud800", "x" * 1000])
def test_a_type_that_nobody_knows_is_an_unknown_type(kind: str) -> None:
    with pytest.raises(ClientError) as caught:
        from_json(type=kind)
    assert caught.value.code == "unknown_type"
    assert len(caught.value.message) < 80


@pytest.mark.parametrize(
    "wanted",
    [
        "server_vad",
        {"type": "server_vad"},
        {"type": "server_vad", "mood": 1},
        {"type": "server_vad", "threshold": None},
    ],
)
def test_voice_activity_may_be_asked_for_by_its_name_alone(wanted: object) -> None:
    expected = Configure(turn_detection=ServerVad())
    assert from_json(type="configure", turn_detection=wanted) == expected
    assert from_msgpack(type="configure", turn_detection=wanted) == expected


def test_voice_activity_has_the_settings_that_are_named_and_defaults_for_the_rest() -> None:
    wanted = {"type": "server_vad", "threshold": 0.7, "prefix_padding_ms": 0, "silence_ms": "auto"}
    expected = ServerVad(threshold=0.7, prefix_padding_ms=0.0, silence_ms=Silence.AUTO)
    assert from_json(type="configure", turn_detection=wanted) == Configure(turn_detection=expected)
    assert from_json(type="configure", silence_ms="auto") == Configure(silence_ms=Silence.AUTO)


VAD_NUMBERS = [
    ("threshold", 0.001, 1, 0, 1.001),
    ("prefix_padding_ms", 0, 2000, -0.1, 2000.1),
    ("silence_ms", 100, 10_000, 99.9, 10_000.1),
    ("pause_ms", 50, 10_000, 49.9, 10_000.1),
    ("min_speech_ms", 0, 2000, -0.1, 2000.1),
]


@pytest.mark.parametrize(("name", "least", "most", "below", "above"), VAD_NUMBERS)
def test_settings_of_voice_activity_are_taken_up_to_their_bounds_and_not_beyond(
    name: str, least: float, most: float, below: float, above: float
) -> None:
    for value in (least, most):
        decoded = from_json(type="configure", turn_detection={"type": "server_vad", name: value})
        assert isinstance(decoded, Configure) and isinstance(decoded.turn_detection, ServerVad)
        assert getattr(decoded.turn_detection, name) == value
    outside: list[object] = [below, above, True, "1", "", [], 2**60]
    for wrong in outside:
        error = refused(type="configure", turn_detection={"type": "server_vad", name: wrong})
        assert error.code == "bad_message"
        assert error.message.startswith(f"configure.turn_detection: {name}: expected ")


def test_the_settings_of_voice_activity_are_all_bounded() -> None:
    assert {row[0] for row in VAD_NUMBERS} == {field.name for field in fields(ServerVad)}


def test_no_turn_detection_may_be_asked_for_in_either_form() -> None:
    expected = Configure(turn_detection=TurnDetection.NONE)
    assert from_json(type="configure", turn_detection="none") == expected
    assert from_json(type="configure", turn_detection={"type": "none"}) == expected


@pytest.mark.parametrize("wanted", ["semantic_vad", {}, {"type": 1}, {"type": {"type": "none"}}, True])
def test_a_turn_detection_that_the_protocol_does_not_have_is_a_bad_message(wanted: object) -> None:
    assert refused(type="configure", turn_detection=wanted).code == "bad_message"


@pytest.mark.parametrize(
    ("asked", "batch"),
    [
        ({}, False),
        ({"mode": "chunked_streaming"}, False),
        ({"mode": "streaming", "streaming": True}, False),
        ({"mode": "conversation"}, True),
        ({"streaming": False}, True),
        ({"mode": "conversation", "streaming": True}, True),
    ],
)
def test_an_answer_in_one_piece_is_asked_for_by_either_of_two_fields(
    asked: dict[str, object], batch: bool
) -> None:
    decoded = from_json(**audio(**asked))
    assert isinstance(decoded, AudioChunk) and decoded.batch is batch


def test_a_mode_that_the_protocol_does_not_have_is_a_bad_message() -> None:
    with pytest.raises(ClientError, match="expected 'chunked_streaming' or 'streaming' or 'conversation'"):
        from_json(**audio(mode="batch"))


def test_fields_that_nobody_knows_are_ignored() -> None:
    assert from_json(type="ping", audio_data=1, extra={"a": [1]}, self=1, cls=2) == Ping()
    assert from_json(**audio(audio="x", after=1)) == AudioChunk(PCM)


# ---- bounds: (message, field, the least and the most that is taken, what lies just outside)

NUMBERS = [
    ("configure", "speed", 0.5, 2.0, 0.4999, 2.0001),
    ("configure", "silence_ms", 100, 10_000, 99.9, 10_000.1),
    ("configure", "temperature", 0, 2, -0.001, 2.001),
    ("configure", "top_p", 0.001, 1, 0, 1.001),
    ("configure", "input_sample_rate", 8000, 192_000, 7999, 192_001),
    ("configure", "max_reply_tokens", 1, 4096, 0, 4097),
    ("configure", "seed", 0, 2**53 - 1, -1, 2**53),
    ("user_interrupt", "played_ms", 0, 86_400_000, -0.001, 86_400_001),
    ("audio_chunk", "speed", 0.5, 2.0, 0.4999, 2.0001),
    ("audio_chunk", "offset_samples", 0, 2**53 - 1, -1, 2**53),
    ("playback", "turn", 1, 2**53 - 1, 0, 2**53),
    ("playback", "played_ms", 0, 86_400_000, -0.001, 86_400_001),
]
WHOLE = {"input_sample_rate", "max_reply_tokens", "seed", "offset_samples", "turn"}
NEEDED: dict[str, dict[str, object]] = {
    "playback": {"turn": 1, "played_ms": 0},
    "audio_chunk": {"end_of_utterance": True},
    "resume": {"conversation_id": "a", "resume_token": "b"},
}


def with_field(kind: str, name: str, value: object) -> dict[str, object]:
    return {"type": kind, **NEEDED.get(kind, {}), name: value}


@pytest.mark.parametrize(("kind", "name", "least", "most", "below", "above"), NUMBERS)
def test_numbers_are_taken_up_to_their_bounds_and_not_beyond(
    kind: str, name: str, least: float, most: float, below: float, above: float
) -> None:
    for value in (least, most):
        assert getattr(from_json(**with_field(kind, name, value)), name) == value
        assert getattr(from_msgpack(**with_field(kind, name, value)), name) == value
    for value in (below, above):
        error = refused(**with_field(kind, name, value))
        assert error.code == "bad_message"
        assert error.message.startswith(f"{kind}.{name}: expected a ")


@pytest.mark.parametrize(("kind", "name"), [row[:2] for row in NUMBERS])
@pytest.mark.parametrize("value", [True, False, "1", [1], {"a": 1}, 2**63, 2**64 - 1, -(2**63), -1, 1e300])
def test_numbers_are_numbers(kind: str, name: str, value: object) -> None:
    assert refused(**with_field(kind, name, value)).code == "bad_message"


@pytest.mark.parametrize(("kind", "name"), [row[:2] for row in NUMBERS if row[1] in WHOLE])
def test_whole_numbers_are_written_as_such(kind: str, name: str) -> None:
    assert refused(**with_field(kind, name, 8000.0)).code == "bad_message"


@pytest.mark.parametrize(("kind", "name"), [row[:2] for row in NUMBERS])
@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" * 400, "-" + "9" * 4000, "9" * 30 + ".5"])
def test_numbers_in_json_are_finite_however_they_are_written(kind: str, name: str, number: str) -> None:
    text = json.dumps(with_field(kind, name, "@")).replace('"@"', number)
    with pytest.raises(ClientError) as caught:
        decode(text, Encoding.JSON, LIMIT)
    assert caught.value.code == "bad_message"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_in_msgpack_are_finite(value: float) -> None:
    for kind, name, *_ in NUMBERS:
        with pytest.raises(ClientError) as caught:
            from_msgpack(**with_field(kind, name, value))
        assert caught.value.code == "bad_message"


STRINGS = [
    ("configure", "voice", 0, MAX_NAME),
    ("configure", "language", 0, MAX_NAME),
    ("configure", "prompt", 0, MAX_TEXT),
    ("audio_chunk", "chunk_id", 1, MAX_ID),
    ("audio_chunk", "prompt", 0, MAX_TEXT),
    ("audio_chunk", "voice", 0, MAX_NAME),
    ("text", "text", 1, MAX_TEXT),
    ("resume", "conversation_id", 1, MAX_ID),
    ("resume", "resume_token", 1, MAX_ID),
]


@pytest.mark.parametrize(("kind", "name", "shortest", "longest"), STRINGS)
def test_strings_are_taken_up_to_their_bounds_and_not_beyond(
    kind: str, name: str, shortest: int, longest: int
) -> None:
    for value in ("é" * shortest, "," * longest, "你" * longest):
        assert getattr(from_json(**with_field(kind, name, value)), name) == value
    error = refused(**with_field(kind, name, "x" * (longest + 1)))
    assert error.message == (
        f"{kind}.{name}: expected a string of {shortest} to {longest} characters, got one of {longest + 1}"
    )
    if shortest:
        assert refused(**with_field(kind, name, "")).code == "bad_message"


@pytest.mark.parametrize(("kind", "name"), [row[:2] for row in STRINGS])
@pytest.mark.parametrize("value", [0, True, 1.5, ["a"], {"a": "b"}])
def test_strings_are_strings(kind: str, name: str, value: object) -> None:
    assert refused(**with_field(kind, name, value)).code == "bad_message"


@pytest.mark.parametrize(("kind", "name"), [row[:2] for row in STRINGS])
def test_half_a_surrogate_pair_is_no_character(kind: str, name: str) -> None:
    with pytest.raises(ClientError, match="half a surrogate pair") as caught:
        from_json(**with_field(kind, name, "a\udc80"))
    assert caught.value.code == "bad_message"
    assert getattr(from_json(**with_field(kind, name, "\U0001f600")), name) == "\U0001f600"


@pytest.mark.parametrize("name", ["interrupt", "echo_cancelled"])
@pytest.mark.parametrize("value", [0, 1, "true", "", 1.0])
def test_flags_are_booleans(name: str, value: object) -> None:
    assert refused(type="configure", **{name: value}).message.startswith(
        f"configure.{name}: expected true or false, got "
    )


@pytest.mark.parametrize("name", ["input_format", "output_format", "pacing"])
@pytest.mark.parametrize("value", ["", "WAV", "mp3", 1, ["wav"], {"type": "wav"}, True])
def test_a_choice_is_one_of_its_words(name: str, value: object) -> None:
    error = refused(type="configure", **{name: value})
    assert error.code == "bad_message"
    assert error.message.startswith(f"configure.{name}: expected '")


def test_an_error_repeats_little_of_what_the_client_sent_and_nothing_of_a_text() -> None:
    long = refused(type="configure", pacing="y" * 3_000_000).message
    assert long.count("y") < SHOWN and len(long) < 120
    assert refused(type="configure", pacing="é\n\x00").message.endswith(r"got '\xe9\n\x00'")
    assert "secret" not in refused(type="text", text="secret " * 1000).message
    assert refused(type="text", text=b"".hex() or 5).message.endswith("got 5")


# ---- whatever comes

NAMES = sorted(
    {field.name for kind in (Configure, AudioChunk, Playback, Resume) for field in fields(kind)}
    | {"audio_data", "after", "text", "type"}
)
KINDS = [
    "configure",
    "audio_chunk",
    "end_of_utterance",
    "text",
    "user_interrupt",
    "playback",
    "resume",
    "bye",
    "ping",
    "status",
]
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.sampled_from(["none", "server_vad", "conversation", "wav", "3-17", "AAAA"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
messages = st.builds(
    lambda kind, members: {**members, "type": kind},
    st.sampled_from(KINDS),
    st.dictionaries(st.sampled_from(NAMES), anything, max_size=6),
)


def check(data: str | bytes, encoding: Encoding) -> None:
    try:
        message = decode(data, encoding, LIMIT)
    except ClientError as error:
        assert error.code in CODES
        assert error.message
        assert len(error.message) < 300
        error.message.encode()
    else:
        hash(message)  # frozen, with nothing in it that could change


@given(message=messages)
def test_a_message_of_any_fields_is_decoded_or_a_client_error(message: dict[str, object]) -> None:
    check(msgpack.packb(message), Encoding.MSGPACK)
    check(json.dumps(message, default=lambda value: base64.b64encode(value).decode()), Encoding.JSON)


@given(data=st.binary(max_size=200), flips=st.lists(st.tuples(st.integers(0, 90), st.integers(0, 255))))
@example(data=b"", flips=[])
@example(data=b"\xdf\xff\xff\xff\xff", flips=[])
def test_bytes_of_any_kind_are_decoded_or_a_client_error(data: bytes, flips: list[tuple[int, int]]) -> None:
    check(data, Encoding.MSGPACK)
    check(data.decode("latin-1"), Encoding.JSON)
    good = {"type": "audio_chunk", "chunk_id": "a", "speed": 1.5, "audio_data": b"\x00" * 32}
    spoiled = bytearray(msgpack.packb(good))
    for place, byte in flips:
        spoiled[place % len(spoiled)] = byte
    check(bytes(spoiled), Encoding.MSGPACK)
    text = bytearray(json.dumps({**good, "audio_data": "AAAA"}).encode())
    for place, byte in flips:
        text[place % len(text)] = byte
    check(text.decode("latin-1"), Encoding.JSON)


@given(data=st.text(st.characters(exclude_categories=()), max_size=60))
def test_texts_of_any_characters_are_decoded_or_a_client_error(data: str) -> None:
    check(data, Encoding.JSON)
    check(data, Encoding.MSGPACK)
    check(json.dumps({"type": "text", "text": data}, ensure_ascii=False), Encoding.JSON)


@given(audio_data=st.binary(min_size=1, max_size=4000), end=st.none() | st.booleans())
def test_the_audio_that_comes_out_is_the_audio_that_went_in(audio_data: bytes, end: bool | None) -> None:
    expected = AudioChunk(audio_data, end_of_utterance=end)
    text = base64.b64encode(audio_data).decode()
    assert from_json(type="audio_chunk", audio_data=text, end_of_utterance=end) == expected
    assert from_msgpack(type="audio_chunk", audio_data=audio_data, end_of_utterance=end) == expected
