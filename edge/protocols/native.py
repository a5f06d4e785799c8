"""Parley's own protocol, what a client may say: the messages, the bounds of every field, bytes to message.

    frame ─ parse (length, structure) ─> map ─ type ─> its fields, each checked ─> a frozen message

Owns the shapes and their bounds, and knows no conversation: whether a message comes at the right moment is
for the session to say. Fields that the protocol does not name are ignored, and `null` is as good as absent;
what is named has exactly the type that is written here. What the server says is in `messages`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from edge.endpointing import ServerVad, Silence
from edge.protocols.encoding import Encoding, encode, parse
from edge.protocols.fields import (
    MAX_INT,
    Check,
    Choice,
    Integer,
    Number,
    String,
    address,
    base64_audio,
    flag,
    raw_audio,
    shown,
    unfit,
)
from edge.protocols.turn_detection import TurnDetection, silence_ms, turn_detection
from shared.errors import ClientError
from shared.wire import Address

__all__ = [
    "AudioChunk",
    "Bye",
    "ClientMessage",
    "Configure",
    "Encoding",
    "EndOfUtterance",
    "InputFormat",
    "OutputFormat",
    "Pacing",
    "Ping",
    "Playback",
    "Resume",
    "Status",
    "Text",
    "TurnDetection",
    "UserInterrupt",
    "decode",
    "encode",
]

MAX_TEXT = 4000
"""Characters of a prompt or of a typed turn."""
MAX_NAME = 64
"""Characters of the name of a voice or a language."""
MAX_ID = 128
"""Characters of an id that a client chose, or holds from the server."""
DAY_MS = 86_400_000.0


class InputFormat(StrEnum):
    """What `audio_data` of a client is, unless it begins with a WAV header."""

    F32LE = "f32le"
    PCM16 = "pcm16"
    WAV = "wav"


class OutputFormat(StrEnum):
    """What `audio_data` of the server is: each a small WAV file, or the bare samples."""

    WAV = "wav"
    PCM16 = "pcm16"


class Pacing(StrEnum):
    """Whether frames leave as they are spoken, a little ahead, or as they are made."""

    REALTIME = "realtime"
    NONE = "none"


class Mode(StrEnum):
    """How an utterance is answered: streamed under either of two names, or in one piece."""

    CHUNKED_STREAMING = "chunked_streaming"
    STREAMING = "streaming"
    CONVERSATION = "conversation"


@dataclass(frozen=True, slots=True)
class Configure:
    """Settings from the next turn on; `None` leaves one as it is, an empty text goes back to its default.

    `turn_detection`: the settings of voice activity detection, or `TurnDetection.NONE`.
    """

    voice: str | None = None
    language: str | None = None
    speed: float | None = None
    prompt: str | None = None
    input_format: InputFormat | None = None
    input_sample_rate: int | None = None
    output_format: OutputFormat | None = None
    turn_detection: ServerVad | TurnDetection | None = None
    silence_ms: float | Silence | None = None
    interrupt: bool | None = None
    echo_cancelled: bool | None = None
    pacing: Pacing | None = None
    max_reply_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class AudioChunk:
    """A slice of input, or a whole utterance: `end_of_utterance` is `None` where the client did not say.

    `audio` is in the format that the conversation is configured for, and empty only together with
    `end_of_utterance: true`. `prompt`, `voice` and `speed` are `None` where the conversation's hold.
    """

    audio: bytes
    chunk_id: str | None = None
    streaming: bool = True
    mode: Mode = Mode.CHUNKED_STREAMING
    prompt: str | None = None
    voice: str | None = None
    speed: float | None = None
    end_of_utterance: bool | None = None
    offset_samples: int | None = None

    @property
    def batch(self) -> bool:
        """Whether the answer is to come in one piece: either of two fields asks for that."""
        return not self.streaming or self.mode is Mode.CONVERSATION


@dataclass(frozen=True, slots=True)
class EndOfUtterance:
    """Ends the utterance that is open."""


@dataclass(frozen=True, slots=True)
class Text:
    """A typed turn."""

    text: str


@dataclass(frozen=True, slots=True)
class UserInterrupt:
    """Barge-in by hand. `played_ms`: how much of the turn's audio was heard, if the client knows."""

    played_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Playback:
    """What the listener has really heard of a turn so far."""

    turn: int
    played_ms: float


@dataclass(frozen=True, slots=True)
class Resume:
    """The conversation that goes on here, after these addresses; `None`: from the start of what is kept."""

    conversation_id: str
    resume_token: str
    after_text: Address | None = None
    after_speech: Address | None = None


@dataclass(frozen=True, slots=True)
class Bye:
    """Ends the conversation now."""


@dataclass(frozen=True, slots=True)
class Ping:
    """Asks for a `pong`."""


@dataclass(frozen=True, slots=True)
class Status:
    """Asks for a `status`."""


ClientMessage = (
    Configure | AudioChunk | EndOfUtterance | Text | UserInterrupt | Playback | Resume | Bye | Ping | Status
)


def decode(data: str | bytes, encoding: Encoding, max_bytes: int) -> ClientMessage:
    """The message in one frame of a client; a text frame is `str`, a binary one `bytes`.

    Raises `ClientError` and nothing else: `too_large`, `bad_message`, `unknown_type`, `bad_audio`, or
    `unsupported` for what the protocol has and this server does not. Its text names the field and what was
    expected.
    """
    raw = parse(data, encoding, max_bytes)
    kind = raw.get("type")
    if not isinstance(kind, str):
        raise ClientError("bad_message", f"type: {unfit('a string', kind).message}")
    shape = SHAPES[encoding].get(kind)
    if shape is None:
        raise ClientError("unknown_type", f"type: no message is called {shown(kind)}")
    values: dict[str, object] = {}
    for name, value in raw.items():
        check = shape.fields.get(name)
        if check is None or value is None:
            continue
        try:
            values[name] = check(value)
        except ClientError as error:
            raise ClientError(error.code, f"{kind}.{name}: {error.message}") from None
    for name in shape.required:
        if name not in values:
            raise ClientError("bad_message", f"{kind}.{name}: expected a value, got nothing")
    return shape.make(**values)


def after(value: object) -> dict[str, Address | None]:
    """What a client holds of each log: a map with an address, or none, for `text` and for `speech`."""
    if not isinstance(value, dict):
        raise unfit("a map with 'text' and 'speech'", value)
    found: dict[str, Address | None] = {}
    for name in ("text", "speech"):
        if value.get(name) is not None:
            try:
                found[name] = address(value[name])
            except ClientError as error:
                raise ClientError(error.code, f"{name}: {error.message}") from None
    return found


def _make_audio_chunk(audio_data: bytes = b"", **values: Any) -> AudioChunk:
    if not audio_data and not values.get("end_of_utterance"):
        raise ClientError(
            "bad_audio",
            "audio_chunk.audio_data: expected audio, got none; it may be empty with end_of_utterance: true",
        )
    return AudioChunk(audio_data, **values)


def _make_resume(
    conversation_id: str, resume_token: str, after: Mapping[str, Address | None] | None = None
) -> Resume:
    after = after or {}
    return Resume(conversation_id, resume_token, after.get("text"), after.get("speech"))


@dataclass(frozen=True, slots=True)
class Shape:
    """One message: the checks of its fields, those that must be there, and what is made of them."""

    make: Callable[..., ClientMessage]
    fields: Mapping[str, Check]
    required: tuple[str, ...] = ()


def _shapes(audio: Check) -> dict[str, Shape]:
    """Every message with its fields and their bounds; `audio` is how the encoding carries samples."""
    prompt = String(0, MAX_TEXT)
    name = String(0, MAX_NAME)
    speed = Number(0.5, 2.0)
    played_ms = Number(0.0, DAY_MS)
    configure: dict[str, Check] = {
        "voice": name,
        "language": name,
        "speed": speed,
        "prompt": prompt,
        "input_format": Choice(InputFormat),
        "input_sample_rate": Integer(8000, 192_000),
        "output_format": Choice(OutputFormat),
        "turn_detection": turn_detection,
        "silence_ms": silence_ms,
        "interrupt": flag,
        "echo_cancelled": flag,
        "pacing": Choice(Pacing),
        "max_reply_tokens": Integer(1, 4096),
        "temperature": Number(0.0, 2.0),
        "top_p": Number(0.0, 1.0, above=True),
        "seed": Integer(0, MAX_INT),
    }
    audio_chunk: dict[str, Check] = {
        "audio_data": audio,
        "chunk_id": String(1, MAX_ID),
        "mode": Choice(Mode),
        "streaming": flag,
        "prompt": prompt,
        "voice": name,
        "speed": speed,
        "end_of_utterance": flag,
        "offset_samples": Integer(0, MAX_INT),
    }
    playback: dict[str, Check] = {"turn": Integer(1, MAX_INT), "played_ms": played_ms}
    resume: dict[str, Check] = {
        "conversation_id": String(1, MAX_ID),
        "resume_token": String(1, MAX_ID),
        "after": after,
    }
    return {
        "configure": Shape(Configure, configure),
        "audio_chunk": Shape(_make_audio_chunk, audio_chunk),
        "end_of_utterance": Shape(EndOfUtterance, {}),
        "text": Shape(Text, {"text": String(1, MAX_TEXT, blank=False)}, ("text",)),
        "user_interrupt": Shape(UserInterrupt, {"played_ms": played_ms}),
        "playback": Shape(Playback, playback, ("turn", "played_ms")),
        "resume": Shape(_make_resume, resume, ("conversation_id", "resume_token")),
        "bye": Shape(Bye, {}),
        "ping": Shape(Ping, {}),
        "status": Shape(Status, {}),
    }


SHAPES: dict[Encoding, dict[str, Shape]] = {
    Encoding.JSON: _shapes(base64_audio),
    Encoding.MSGPACK: _shapes(raw_audio),
}
"""The schema: every message of a client by its type."""
