"""Messages as hypothesis makes them out of the protocol's own schema, each with what may answer it.

    schema ─ a value for some of the fields: fitting, at its bound, beyond it, of another kind ─> message

Whether a value fits is said here a second time, from the bounds alone; the checks are not asked.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgpack
from hypothesis import strategies as st

from edge.protocols.fields import Check, Choice, Integer, Number, String, base64_audio, flag, raw_audio
from edge.protocols.native import SHAPES, Encoding, TurnDetection, after
from edge.protocols.turn_detection import SERVER_VAD, SILENCE_MS, silence_ms, turn_detection
from shared.audio import to_wav
from tests.edge.world import SECOND

LIMIT = 64_000
"""`MAX_MESSAGE_BYTES` of the edge that these messages are sent to: so that too much is soon made."""

CODES = {"bad_message", "bad_audio", "too_large", "unknown_type", "unsupported", "wrong_state", "busy"} | {
    "not_found", "overloaded", "engine_failed", "deadline",
}  # fmt: skip
"""The codes of the protocol, less `unauthorized`, which only a handshake is answered with."""

ANSWERS = {"ping": "pong", "status": "status", "configure": "configured"}
"""What answers a message that fits, unless an error of the moment does."""

OF_THE_MOMENT = {
    "configure": {"unsupported", "bad_message"},  # a voice that nobody has; a pause longer than the silence
    "audio_chunk": {"bad_audio", "wrong_state", "overloaded", "busy", "unsupported"},
    "end_of_utterance": {"wrong_state"},
    "text": {"wrong_state", "overloaded", "busy"},
    "user_interrupt": {"wrong_state"},
    "resume": {"wrong_state", "not_found"},
}
"""Errors that may answer a message in which nothing is wrong."""


@dataclass(frozen=True, slots=True, repr=False)
class Case:
    """Something to send, and what may come of it.

    `errors`: the codes that may answer it, and one of them does if it is `wrong`. `answer`: the type of the
    message that does unless an error does. `closes`: the socket is closed, with one of these codes.
    `raw`: the data is written past the client's own framing.
    """

    data: str | bytes
    errors: frozenset[str] = frozenset()
    wrong: bool = False
    answer: str | None = None
    closes: frozenset[int] = frozenset()
    raw: bool = False

    def __repr__(self) -> str:
        shown = (
            self.data if len(self.data) < 300 else f"{self.data[:100]!r} and more, {len(self.data)} in all"
        )
        return f"Case({shown!r}, errors={sorted(self.errors)}, closes={sorted(self.closes)})"


# ---- values


def fits(check: Check, value: object) -> bool:
    """Whether a value is what the schema asks for."""
    match check:
        case Integer(low, high):
            return type(value) is int and low <= value <= high
        case Number(low, high, above):
            within = type(value) in (int, float) and low <= value <= high  # type: ignore[operator]
            return within and not (above and value == low)
        case String(shortest, longest, blank):
            if not isinstance(value, str) or not shortest <= len(value) <= longest:
                return False
            return not re.search("[\ud800-\udfff]", value) and (blank or not value.isspace())
        case Choice(options):
            return isinstance(value, str) and value in list(options)
    return bool(_FITS[check](value))


def _fits_audio(value: object) -> bool:
    plain = r"([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"
    return isinstance(value, str) and re.fullmatch(plain, value) is not None


def _fits_silence(value: object) -> bool:
    return value == "auto" or fits(SILENCE_MS, value)


def _fits_turn_detection(value: object) -> bool:
    if not isinstance(value, dict):
        return isinstance(value, str) and value in list(TurnDetection)
    if value.get("type") != TurnDetection.SERVER_VAD:
        return value.get("type") == TurnDetection.NONE
    return all(value.get(name) is None or fits(check, value[name]) for name, check in SERVER_VAD.items())


def _fits_after(value: object) -> bool:
    return isinstance(value, dict) and all(
        value.get(log) is None
        or (
            isinstance(value[log], str)
            and re.fullmatch(r"0-0|(?!0+-)\d{1,15}-\d{1,15}", value[log], re.ASCII)
        )
        for log in ("text", "speech")
    )


_FITS: dict[Check, Any] = {
    flag: lambda value: isinstance(value, bool),
    raw_audio: lambda value: isinstance(value, bytes),
    base64_audio: _fits_audio,
    silence_ms: _fits_silence,
    turn_detection: _fits_turn_detection,
    after: _fits_after,
}

JUNK: list[object] = [
    True, False, 0, 1, -1, 2**53, 2**63, 2**64 - 1, -(2**63), 0.5, -0.0, 5e-324, 1e300,
    math.nan, math.inf, -math.inf, "", " ", "1", "auto", "none", "\0", "\ud800", "a\udc80", "x" * 5000,
    [], [1], {}, {"type": 1}, {"a": {"b": [None]}}, None,
]  # fmt: skip
ONLY: Mapping[Encoding, list[Any]] = {
    Encoding.JSON: [2**64, -(2**64), 10**400],
    Encoding.MSGPACK: [b"", b"\xff", b"none"],
}
"""Values that only one of the encodings can carry."""

SOUNDS = [
    b"", b"\0", bytes(640), bytes(641), SECOND, b"\x00\x00\xc0\x7f" * 100, b"\xff\x7f" * 4000, b"RIFF",
    to_wav(bytes(640), 24_000), to_wav(bytes(641), 7_999), to_wav(b"\x88\x13" * 8000, 44_100)[:-1],
]  # fmt: skip

KNOWN: Mapping[str, list[object]] = {"voice": ["tone", "hum", ""], "language": ["en", "de-AT", "", "it"]}
"""Values that mean something to the workers of these tests."""


def valid(name: str, check: Check) -> st.SearchStrategy[Any]:
    """Values of a field that fit, most of them at a bound."""
    match check:
        case Integer(low, high):
            return st.sampled_from([low, high]) | st.integers(low, high)
        case Number(low, high, above):
            return st.sampled_from([high]) | st.floats(low, high, exclude_min=above)
        case String() if name in KNOWN:
            return st.sampled_from(KNOWN[name])
        case String(shortest, longest):
            return st.sampled_from(["x" * (shortest or 1), "你" * longest, "," * longest]) | st.text()
        case Choice(options):
            return st.sampled_from([option.value for option in options])
    if check is raw_audio or check is base64_audio:
        sounds = st.sampled_from(SOUNDS) | st.binary(max_size=100)
        as_text = sounds.map(lambda sound: base64.b64encode(sound).decode())
        return sounds if check is raw_audio else as_text
    return _VALID[check]


_PLACES = st.sampled_from(["0-0", "1-0", "1-2", "3-17", "999999999999999-999999999999999"])
_VALID: dict[Check, st.SearchStrategy[Any]] = {
    flag: st.booleans(),
    silence_ms: st.just("auto") | valid("silence_ms", SILENCE_MS),
    after: st.fixed_dictionaries({}, optional={"text": _PLACES, "speech": _PLACES, "audio": _PLACES}),
}
_VALID[turn_detection] = st.sampled_from(["none", "server_vad", {"type": "none", "pause_ms": "long"}]) | (
    st.fixed_dictionaries(
        {"type": st.just("server_vad")},
        optional={name: valid(name, check) for name, check in SERVER_VAD.items()},
    )
)


def beyond(check: Check, encoding: Encoding) -> st.SearchStrategy[Any]:
    """Values that do not fit, or only just do: past a bound, or of another kind."""
    junk: list[Any] = [*JUNK, *ONLY[encoding]]
    match check:
        case Integer(low, high):
            junk += [low - 1, high + 1, float(low), str(low)]
        case Number(low, high):
            junk += [low, math.nextafter(low, -math.inf), math.nextafter(high, math.inf), str(high)]
        case String(shortest, longest):
            junk += [
                "x" * longest,
                "x" * max(0, shortest - 1),
                "x" * (longest + 1),
                "é" * (longest + 1),
                ["x"],
            ]
        case Choice(options):
            junk += [next(iter(options)).value.upper(), [next(iter(options)).value]]
    if check is base64_audio:
        junk += ["A", "AA=", "AAAA=", "====", "AA==AA==", "AAA_", "é" * 4, " AAAA"]
    if check is turn_detection:
        names = st.sampled_from(sorted(SERVER_VAD))
        one_wrong = names.flatmap(
            lambda name: beyond(SERVER_VAD[name], encoding).map(
                lambda value: {"type": "server_vad", name: value}
            )
        )
        return st.sampled_from(junk) | one_wrong
    if check is after:
        wrong = st.sampled_from(
            ["", "3", "-1-0", "0-1", "1-" + "1" * 16, "\N{FULLWIDTH DIGIT THREE}-1", "1-1-1", 3, [1, 2]]
        )
        return st.sampled_from(junk) | wrong.map(lambda place: {"text": place})
    return st.sampled_from(junk)


# ---- messages


@st.composite
def messages(draw: st.DrawFn, encoding: Encoding) -> Case:
    """A message of the schema, most with some fields, about a third of them with one that does not fit."""
    kind = draw(st.sampled_from(sorted(SHAPES[encoding])))
    shape = SHAPES[encoding][kind]
    names = draw(st.sets(st.sampled_from(sorted(shape.fields)), max_size=4)) if shape.fields else set()
    if draw(st.integers(0, 9)):
        names |= {*shape.required, *({"audio_data"} if kind == "audio_chunk" else ())}
    message: dict[str, object] = {"type": kind}
    for name in sorted(names):
        check = shape.fields[name]
        message[name] = draw(beyond(check, encoding) if draw(st.integers(0, 7)) == 0 else valid(name, check))
    for name in draw(st.sets(st.sampled_from(["self", "cls", "extra", "audio", "x" * 200]), max_size=1)):
        message[name] = draw(st.sampled_from(JUNK))
    return case_of(kind, message, encoding, escaped=draw(st.booleans()))


def case_of(kind: str, message: dict[str, object], encoding: Encoding, *, escaped: bool) -> Case:
    """The message as it is sent; what may answer it is said by what is wrong with it."""
    shape = SHAPES[encoding][kind]
    data = pack(message, encoding, escaped=escaped)
    wrong = {
        "bad_audio" if name == "audio_data" else "bad_message"
        for name, value in message.items()
        if name in shape.fields and value is not None and not fits(shape.fields[name], value)
    }
    if any(message.get(name) is None for name in shape.required):
        wrong.add("bad_message")
    if _unreadable(message, encoding):
        wrong = {"bad_message"}
    if len(data if isinstance(data, bytes) else data.encode()) > LIMIT:
        wrong = {"too_large"}
    if wrong:
        return Case(data, frozenset(wrong), wrong=True)
    if kind == "bye":
        return Case(data, closes=frozenset({1000}))
    return Case(data, frozenset(OF_THE_MOMENT.get(kind, ())), answer=ANSWERS.get(kind))


def pack(message: object, encoding: Encoding, *, escaped: bool = True) -> str | bytes:
    """The message in its encoding, and what that does not allow in some way that its parsers know."""
    if encoding is Encoding.MSGPACK:
        packed: bytes = msgpack.packb(message, unicode_errors="surrogatepass")
        return packed
    text = json.dumps(message)
    if not escaped:
        plain = json.dumps(message, ensure_ascii=False)
        text = text if re.search("[\ud800-\udfff]", plain) else plain
    return text


def _unreadable(value: object, encoding: Encoding) -> bool:
    """Whether there is something in it that the encoding does not have."""
    match value:
        case float():
            return encoding is Encoding.JSON and not math.isfinite(value)
        case str():
            return encoding is Encoding.MSGPACK and re.search("[\ud800-\udfff]", value) is not None
        case dict():
            return any(_unreadable(each, encoding) for pair in value.items() for each in pair)
        case list():
            return any(_unreadable(each, encoding) for each in value)
    return False
