from __future__ import annotations

import base64
import json
import math
import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.protocols.encoding import (
    MAX_CONTAINERS,
    MAX_DEPTH,
    MAX_MARKS,
    Encoding,
    encode,
    parse,
)
from shared.errors import ClientError

MIB = 1 << 20


def refused(data: str | bytes, encoding: Encoding, max_bytes: int = 4 * MIB) -> ClientError:
    with pytest.raises(ClientError) as caught:
        parse(data, encoding, max_bytes)
    return caught.value


def nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth - 1):
        value = {"in": value}
    return value


def peak_bytes(data: str | bytes, encoding: Encoding) -> int:
    """The most memory that refusing `data` took at any time."""
    tracemalloc.start()
    try:
        refused(data, encoding)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_message_of_exactly_the_limit_is_taken_and_one_byte_more_is_too_large() -> None:
    data = '{"type":"é"}'  # 13 bytes of 12 characters
    assert parse(data, Encoding.JSON, 13) == {"type": "é"}
    assert refused(data, Encoding.JSON, 12).code == "too_large"
    packed = msgpack.packb({"type": "é"})
    assert parse(packed, Encoding.MSGPACK, len(packed)) == {"type": "é"}
    assert refused(packed, Encoding.MSGPACK, len(packed) - 1).code == "too_large"


def test_length_comes_before_everything_else() -> None:
    assert refused("[" * 100, Encoding.JSON, 99).code == "too_large"
    assert refused(b"\xc1" * 100, Encoding.MSGPACK, 99).code == "too_large"
    assert refused(b"{}", Encoding.JSON, 1).code == "too_large"


def test_json_comes_in_text_frames_and_msgpack_in_binary_ones() -> None:
    binary = refused(b'{"type":"ping"}', Encoding.JSON)
    assert (binary.code, "text frames" in binary.message) == ("bad_message", True)
    text = refused('{"type":"ping"}', Encoding.MSGPACK)
    assert (text.code, "binary frames" in text.message) == ("bad_message", True)


@pytest.mark.parametrize("value", [[], "ping", 1, 1.5, True, None])
def test_what_is_not_a_map_is_a_bad_message(value: object) -> None:
    assert refused(json.dumps(value), Encoding.JSON).code == "bad_message"
    assert "expected a map" in refused(msgpack.packb(value), Encoding.MSGPACK).message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ping",
        "{",
        '{"type":"ping"',
        '{"type":"ping"}}',
        '{"type":"ping"} x',
        "{'type':'ping'}",
        '{"type":"ping",}',
        '\ufeff{"type":"ping"}',
        '{"type":"\x01"}',
        '{"a":NaN}',
        '{"a":[Infinity]}',
        '{"a":-Infinity}',
        '{"a":1,"a":1}',
        '{"a":{"b":1,"b":2}}',
        '{"a":' + "1" * 5000 + "}",
    ],
)
def test_what_is_not_one_plain_json_map_is_a_bad_message(text: str) -> None:
    assert refused(text, Encoding.JSON).code == "bad_message"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x81\xa1a",  # a map whose value is missing
        b"\x80\x80",
        b"\x81\x01\x01",  # a key that is a number
        b"\x81\xc4\x01a\x01",  # a key that is bytes
        b"\x81\xc0\x01",  # a key that is nil
        b"\x82\xa1a\x01\xa1a\x01",
        b"\x81\xa1a\x82\xa1b\x01\xa1b\x02",
        b"\x81\xa1a\xa1\xff",  # a text that is not UTF-8
        b"\x81\xa1a\xa3\xed\xa0\x80",  # half a surrogate pair
        b"\x81\xa1a\xd4\x05\x00",  # an extension
        b"\x81\xa1a\xc7\x00\x05",  # an extension of no bytes
        b"\x81\xa1a\xd6\xff\x00\x00\x00\x00",  # a timestamp
        b"\xdf\xff\xff\xff\xff",  # a map of four billion members
        b"\xdd\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
    ],
)
def test_what_is_not_one_plain_msgpack_map_is_a_bad_message(data: bytes) -> None:
    assert refused(data, Encoding.MSGPACK).code == "bad_message"


@pytest.mark.parametrize("encoding", Encoding)
def test_maps_may_lie_so_deep_and_no_deeper(encoding: Encoding) -> None:
    assert parse(encode(nested(MAX_DEPTH), encoding), encoding, MIB) == nested(MAX_DEPTH)
    assert "deep" in refused(encode(nested(MAX_DEPTH + 1), encoding), encoding).message


@pytest.mark.parametrize("depth", [500, 5000, 200_000])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_a_deep_json_message_is_refused_without_exhausting_the_stack(depth: int, opening: str) -> None:
    assert refused('{"a":' + opening * depth, Encoding.JSON).code == "bad_message"
    closing = "]" if opening == "[" else "}"
    whole = '{"a":' + opening * depth + "1" + closing * depth + "}"
    assert refused(whole, Encoding.JSON).code == "bad_message"


@pytest.mark.parametrize("depth", [50, 500, 5000, 200_000])
def test_a_deep_msgpack_message_is_refused_without_exhausting_the_stack(depth: int) -> None:
    assert refused(b"\x81\xa1a" + b"\x91" * depth + b"\x01", Encoding.MSGPACK).code == "bad_message"
    assert refused(b"\x81\xa1a" * depth + b"\x01", Encoding.MSGPACK).code == "bad_message"


def test_a_megabyte_of_empty_maps_does_not_become_many_megabytes() -> None:
    assert peak_bytes('{"a":[' + "{}," * (MIB // 3) + "{}]}", Encoding.JSON) < MIB
    assert peak_bytes('{"a":[' + "[]," * (MIB // 3) + "[]]}", Encoding.JSON) < MIB
    wide = ",".join(f'"{n}":{n}' for n in range(60_000))
    assert peak_bytes("{" + wide + "}", Encoding.JSON) < 4 * MIB
    many = b"\x81\xa1a\xdc\x00\x40" + (b"\xdc\x00\x40" + b"\x80" * 64) * 64
    assert peak_bytes(many + b"\x80" * MIB, Encoding.MSGPACK) < MIB


def test_the_bounds_of_members_leave_room_for_a_prompt_of_nothing_but_commas() -> None:
    commas = {"prompt": "," * (MAX_MARKS - 1)}
    assert parse(json.dumps(commas), Encoding.JSON, MIB) == commas
    assert refused(json.dumps({"prompt": "," * MAX_MARKS}), Encoding.JSON).code == "bad_message"


def test_the_bounds_of_members_of_a_msgpack_map_hold() -> None:
    most = {str(n): n for n in range(MAX_CONTAINERS)}
    assert parse(msgpack.packb(most), Encoding.MSGPACK, MIB) == most
    assert refused(msgpack.packb({**most, "one": "more"}), Encoding.MSGPACK).code == "bad_message"
    lists: dict[str, object] = {"a": [[]] * (MAX_CONTAINERS - 2)}
    assert parse(msgpack.packb(lists), Encoding.MSGPACK, MIB) == lists
    assert refused(msgpack.packb({"a": [[]] * (MAX_CONTAINERS - 1)}), Encoding.MSGPACK).code == "bad_message"


def test_bytes_become_base64_in_json_and_stay_raw_in_msgpack() -> None:
    message = {"type": "sequential_audio", "audio_data": b"\x00\xff\x80", "turn": 3}
    assert json.loads(encode(message, Encoding.JSON)) == {**message, "audio_data": "AP+A"}
    assert parse(encode(message, Encoding.MSGPACK), Encoding.MSGPACK, MIB) == message
    assert encode({"a": b""}, Encoding.JSON) == '{"a":""}'
    assert encode({"a": b"\x00", "b": b"\x01"}, Encoding.JSON) == '{"a":"AA==","b":"AQ=="}'


def test_json_is_compact_and_keeps_letters_readable() -> None:
    assert encode({"type": "token_chunk", "text": "žluť 你"}, Encoding.JSON) == (
        '{"type":"token_chunk","text":"žluť 你"}'
    )
    assert encode({}, Encoding.JSON) == "{}"


def test_a_message_that_cannot_be_encoded_raises_and_spoils_none_after_it() -> None:
    for encoding in Encoding:
        with pytest.raises(TypeError):
            encode({"a": "before", "b": object()}, encoding)
        assert parse(encode({"a": 1}, encoding), encoding, MIB) == {"a": 1}
    with pytest.raises(ValueError, match="JSON"):
        encode({"a": math.nan}, Encoding.JSON)


plain = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text()
finite = plain.filter(lambda value: not isinstance(value, float) or math.isfinite(value))


@given(message=st.dictionaries(st.text(), finite | st.binary() | st.lists(finite, max_size=5), max_size=20))
def test_what_is_encoded_is_parsed_again(message: dict[str, object]) -> None:
    assert parse(encode(message, Encoding.MSGPACK), Encoding.MSGPACK, MIB) == message
    as_json = {
        name: base64.b64encode(value).decode() if isinstance(value, bytes) else value
        for name, value in message.items()
        if name.isidentifier()  # the names of fields are ours: no quote, no backslash
    }
    frame = encode({name: message[name] for name in as_json}, Encoding.JSON)
    assert parse(frame, Encoding.JSON, MIB) == as_json


@given(data=st.text() | st.binary())
def test_parsing_raises_nothing_but_a_client_error(data: str | bytes) -> None:
    for encoding in Encoding:
        try:
            assert isinstance(parse(data, encoding, 64), dict)
        except ClientError as error:
            assert error.code in ("bad_message", "too_large")
