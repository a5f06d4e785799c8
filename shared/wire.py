"""What stands in a log entry and in a work item, and how each becomes Redis fields and back.

Owns the shapes; knows nothing of connections, verdicts or who writes when. Every field is flat, readable
text, so that `redis-cli XRANGE` shows a conversation as it is; only `pcm` holds raw bytes.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import ClassVar, NamedTuple, Self

from shared.errors import EntryGarbled

Fields = Mapping[bytes, bytes]


class Log(StrEnum):
    """The three logs of a conversation."""

    AUDIO = "audio"
    TEXT = "text"
    SPEECH = "speech"


class Address(NamedTuple):
    """The place of an entry in its log: turns count from 1, seq from 0. Ordered as Redis orders ids."""

    turn: int
    seq: int

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """Read `3-17`. Raises `ValueError` on anything that is not two small decimal numbers."""
        if isinstance(text, bytes):
            text = text.decode("ascii")
        turn, dash, seq = text.partition("-")
        if not (dash and turn.isascii() and seq.isascii() and turn.isdigit() and seq.isdigit()):
            raise ValueError(f"not an address: {text[:40]!r}")
        if len(turn) > 15 or len(seq) > 15:
            raise ValueError(f"an address out of range: {text[:40]!r}")
        return cls(int(turn), int(seq))

    def __str__(self) -> str:
        return f"{self.turn}-{self.seq}"


def new_tag() -> str:
    """A writer's tag: 8 random bytes in hex, new at every claim attempt and every edge session."""
    return secrets.token_hex(8)


@dataclass(frozen=True, slots=True)
class Payload:
    """One kind of entry. Its dataclass fields are its Redis fields; a field that is `None` is not written."""

    kind: ClassVar[str]
    final: ClassVar[bool] = False

    def to_fields(self) -> list[bytes]:
        """The payload as a flat list: name, value, name, value … (without `w`, `kind`, `at` and `sum`)."""
        flat: list[bytes] = []
        for column in _columns(type(self)):
            value = getattr(self, column.attribute)
            if value is not None:
                flat += (column.name, _dump(value))
        return flat

    @classmethod
    def from_fields(cls, raw: Fields) -> Self:
        """The payload out of an entry's fields; unknown ones are ignored, absent ones take their default."""
        values = {}
        for column in _columns(cls):
            value = raw.get(column.name)
            if value is not None:
                values[column.attribute] = column.load(value)
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Take(Payload):
    """A new writer begins here; readers skip it.

    `cause`: `claim`, `handback`, `retry` (an attempt failed), `reclaim` (one ended, and is not to blame) or
    `contest` (another writer took the log, but has no claim).
    """

    kind = "take"
    cause: str = "claim"
    worker: str = ""


@dataclass(frozen=True, slots=True)
class Closed(Payload):
    """The last entry of a turn that was cancelled, failed or heard out.

    `reason`: `user_interrupt`, `barge_in`, `heard`, `superseded`, `abandoned`, `bye`, `failed`.
    `heard_ms` and `heard_text` say how far the listener got; `cleared_frames` how many frames the edge held
    back; `code` and `message` stand for `failed` only and go to the client as they are. `speech_seq` stands
    in `text` only: where the turn's closing stands in `speech`, which is not kept for as long.
    """

    kind = "closed"
    final = True
    reason: str
    heard_ms: float | None = None
    heard_text: str | None = None
    cleared_frames: int | None = None
    code: str | None = None
    message: str | None = None
    retryable: bool | None = None
    speech_seq: int | None = None


@dataclass(frozen=True, slots=True)
class Open(Payload):
    """`audio`, seq 0: the turn begins. The settings that hold for it; `text` is set for a typed turn.

    `batch`: it is answered in one piece, by the jobs process. `by_voice`: voice activity began the utterance,
    and finds its end.
    """

    kind = "open"
    voice: str | None = None
    language: str | None = None
    speed: float = 1.0
    prompt: str | None = None
    max_reply_tokens: int = 256
    temperature: float = 0.2
    top_p: float = 0.95
    seed: int | None = None
    text: str | None = None
    chunk_id: str | None = None
    batch: bool = False
    by_voice: bool = False


@dataclass(frozen=True, slots=True)
class Chunk(Payload):
    """`audio`: PCM16 mono at 16 kHz. `offset_samples` is its place in the conversation's whole input."""

    kind = "chunk"
    offset_samples: int
    pcm: bytes


@dataclass(frozen=True, slots=True)
class Pause(Payload):
    """`audio`: the utterance may have ended at `offset_samples`, which is where the audio in the log ends.

    `end` right behind it says that it has; another `chunk`, that the user goes on.
    """

    kind = "pause"
    offset_samples: int


@dataclass(frozen=True, slots=True)
class UtteranceEnd(Payload):
    """`audio`: the utterance ended after `input_samples`. `reason`: `client`, `silence`, `max_length`."""

    kind = "end"
    final = True
    reason: str
    input_samples: int


@dataclass(frozen=True, slots=True)
class Token(Payload):
    """`text`: a piece of the reply and the model's ids for it (empty `text` while UTF-8 is incomplete)."""

    kind = "token"
    text: str
    ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Semantic(Payload):
    """`text`: the smallest text worth speaking: characters `from_` to `upto` (exclusive) of the reply.

    `boundary`: `sentence_end`, `clause_break`, `time`, `max_length`, `end_of_stream`.
    """

    kind = "semantic"
    text: str
    from_: int
    upto: int
    boundary: str


@dataclass(frozen=True, slots=True)
class ReplyEnd(Payload):
    """`text`: the reply is whole. `reason`: `stop` or `length`."""

    kind = "end"
    final = True
    reason: str
    tokens: int
    chunks: int


@dataclass(frozen=True, slots=True)
class Frame(Payload):
    """`speech`: PCM16 mono at 24 kHz, 100 ms, or less for the `last` of its semantic chunk.

    `chunk` counts the turn's semantic chunks from 0; `offset_samples` is the frame's place in its chunk.
    """

    kind = "frame"
    chunk: int
    offset_samples: int
    last: bool
    pcm: bytes


@dataclass(frozen=True, slots=True)
class SpeechEnd(Payload):
    """`speech`: every chunk of the reply was spoken. `samples` of the whole turn, at 24 kHz."""

    kind = "end"
    final = True
    reason: str
    samples: int


def _by_kind(payloads: Iterable[type[Payload]]) -> dict[str, type[Payload]]:
    kinds: list[type[Payload]] = [Take, Closed, *payloads]
    return {payload.kind: payload for payload in kinds}


PAYLOADS: dict[Log, dict[str, type[Payload]]] = {
    Log.AUDIO: _by_kind((Open, Chunk, Pause, UtteranceEnd)),
    Log.TEXT: _by_kind((Token, Semantic, ReplyEnd)),
    Log.SPEECH: _by_kind((Frame, SpeechEnd)),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a log: where it stands, who wrote it, when (Unix microseconds) and what it says."""

    address: Address
    writer: str
    at_us: int
    payload: Payload

    @property
    def final(self) -> bool:
        """Whether nothing but `closed` may follow in this turn."""
        return self.payload.final

    @classmethod
    def from_fields(cls, log: Log, entry_id: bytes, flat: Sequence[bytes]) -> Self:
        """The entry out of a reply of `XRANGE` or a push: its id and its flat list of fields.

        Raises `EntryGarbled` where that is none of ours.
        """
        try:
            address = Address.parse(entry_id)
        except ValueError as error:
            raise EntryGarbled(f"{log}: {error}", None) from None
        try:
            raw = dict(zip(flat[::2], flat[1::2], strict=True))
            payload = PAYLOADS[log][raw[b"kind"].decode()]
            return cls(address, raw[b"w"].decode(), int(raw[b"at"]), payload.from_fields(raw))
        except (LookupError, TypeError, ValueError) as error:
            # Not what the error says: it may quote what somebody said.
            raise EntryGarbled(
                f"{log}: {address} cannot be read: {type(error).__name__}", address.turn
            ) from None


def _dump(value: object) -> bytes:
    match value:
        case bytes():
            return value
        case bool():
            return b"1" if value else b"0"
        case tuple():
            return " ".join(map(str, value)).encode()
        case _:
            return str(value).encode()


def _load_ids(raw: bytes) -> tuple[int, ...]:
    return tuple(map(int, raw.split()))


class _Column(NamedTuple):
    attribute: str
    name: bytes
    load: Callable[[bytes], object]


_COLUMNS: dict[type[Payload], tuple[_Column, ...]] = {}


def _columns(payload: type[Payload]) -> tuple[_Column, ...]:
    """How each field of a payload is called in Redis, and read from there. Asked for with every entry."""
    columns = _COLUMNS.get(payload)
    if columns is None:
        columns = _COLUMNS[payload] = tuple(
            _Column(field.name, field.name.rstrip("_").encode(), _LOADERS[str(field.type)])
            for field in fields(payload)
        )
    return columns


# Keyed by the annotation as written; optional fields load like their type, for an absent one is never loaded.
_LOADERS: dict[str, Callable[[bytes], object]] = {
    "bytes": bytes,
    "str": bytes.decode,
    "int": int,
    "float": float,
    "bool": lambda raw: raw == b"1",
    "tuple[int, ...]": _load_ids,
}
_LOADERS |= {f"{name} | None": load for name, load in _LOADERS.items()}
