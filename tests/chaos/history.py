"""What happened in a run, in order: what was said and told, what stands in the logs, what was broken.

One JSON object a line, so that a run that failed can be looked into, and checked again.

    {"event": "received", "at_s": 12.1, "conversation": "0123456789abcdef", "kind": "token_chunk", …}
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from tests.chaos.payload import Piece, heard, piece_of, pieces_of
from tests.story import Message


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened `at_s` seconds (monotonic)."""

    at_s: float


@dataclass(frozen=True, slots=True)
class Sent(Event):
    """A client said something. `kind`: `audio` (a slice), `end`, `text`, `interrupt`.

    `amount` and `checksum` are those of the whole turn, with its `end` or `text`. `speaker` keys the audio.
    """

    conversation: str
    speaker: str
    turn: int
    kind: str
    amount: int = 0
    checksum: int = 0
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Received(Event):
    """A message as it came off a socket. `pieces`: whose its audio is. `mark`: the counter it carries."""

    conversation: str
    kind: str
    turn: int
    address: str | None = None
    mark: int | None = None
    text: str | None = None
    pieces: tuple[Piece | None, ...] = ()
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One entry of a log."""

    seq: int
    writer: str
    kind: str
    text: str | None = None
    piece: Piece | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Read(Event):
    """One turn of one log, as it stood."""

    conversation: str
    log: str
    turn: int
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Struck(Event):
    """A fault began, or (`over`) was over. `place`: at which entry. `fails`: turns may end by an error."""

    fault: str
    place: str
    over: bool = False
    fails: bool = False


@dataclass(frozen=True, slots=True)
class Lost(Event):
    """A client gave its conversation up."""

    conversation: str
    reason: str


@dataclass(frozen=True, slots=True)
class Left(Event):
    """What was still there in the end, that should be gone: of a turn where it belongs to one."""

    what: str
    conversation: str = ""
    turn: int = 0


KINDS: dict[str, type[Event]] = {
    kind.__name__.lower(): kind for kind in (Sent, Received, Read, Struck, Lost, Left)
}


@dataclass
class History:
    """The events of one run."""

    events: list[Event] = field(default_factory=list)

    def add(self, event: Event) -> None:
        """Note what happened."""
        self.events.append(event)

    def received(self, conversation: str, message: Message, at_s: float) -> None:
        """Note a message that has a turn."""
        if message.get("turn") is not None:
            self.add(_received(conversation, message, at_s))

    def rename(self, before: str, conversation: str) -> None:
        """A conversation of which no server knew a turn was begun again under another name."""
        for place, event in enumerate(self.events):
            if isinstance(event, Sent) and event.conversation == before:
                self.events[place] = replace(event, conversation=conversation)

    def of(self, kind: type[Event]) -> Iterator[Any]:
        """The events of one kind."""
        return (event for event in self.events if isinstance(event, kind))

    def save(self, path: Path) -> None:
        """Write it down."""
        with path.open("w") as file:
            for event in self.events:
                file.write(json.dumps({"event": type(event).__name__.lower(), **asdict(event)}) + "\n")

    @classmethod
    def load(cls, lines: Iterable[str]) -> History:
        """Read it again."""
        return cls([_event(json.loads(line)) for line in lines])


def now_s() -> float:
    """The clock of the history."""
    return time.monotonic()


def whole(at_s: float, conversation: str, speaker: str, turn: int, kind: str, data: bytes | str) -> Sent:
    """A turn was said to its end."""
    said = heard(data)
    text = data if isinstance(data, str) else None
    return Sent(at_s, conversation, speaker, turn, kind, said.amount, said.checksum, text)


_MARKS = {
    "token_chunk": "chunk_sequence",
    "semantic_chunk": "chunk_sequence",
    "sequential_audio": "frame_index",
}
_TEXTS = {
    "token_chunk": "text",
    "semantic_chunk": "text",
    "chunked_streaming_complete": "response_text",
    "audio_response": "text",
    "error": "code",
}


def _received(conversation: str, message: Message, at_s: float) -> Received:
    kind, pcm = str(message["type"]), message.get("audio_data")
    pieces: tuple[Piece | None, ...] = ()
    if pcm is not None:
        pieces = tuple(pieces_of(pcm)) if kind == "audio_response" else (piece_of(pcm),)
    return Received(
        at_s,
        conversation,
        kind,
        int(message["turn"]),
        message.get("address"),
        message.get(_MARKS.get(kind, "")),
        message.get(_TEXTS.get(kind, "")),
        pieces,
        message.get("reason"),
    )


def _event(raw: dict[str, Any]) -> Event:
    kind = KINDS[raw.pop("event")]
    if "pieces" in raw:
        raw["pieces"] = tuple(piece and Piece(*piece) for piece in raw["pieces"])
    if "lines" in raw:
        raw["lines"] = tuple(_line(line) for line in raw["lines"])
    return kind(**{each.name: raw[each.name] for each in fields(kind)})


def _line(raw: dict[str, Any]) -> Line:
    piece = raw.pop("piece")
    return Line(**raw, piece=piece and Piece(*piece))
