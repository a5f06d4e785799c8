"""A conversation's three logs as one timeline, and what each turn came to. Pure.

Entries are ordered by `at`, which is their writer's clock; within a log their own order always holds.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from shared.audio import INPUT_RATE, OUTPUT_RATE, SAMPLE_BYTES
from shared.wire import (
    Chunk,
    Closed,
    Entry,
    Frame,
    Log,
    Open,
    Pause,
    Payload,
    ReplyEnd,
    Semantic,
    SpeechEnd,
    Take,
    Token,
    UtteranceEnd,
)


@dataclass(frozen=True, slots=True)
class Row:
    """One entry, or several of one kind that follow each other: `count` of them, from `first` to `last`."""

    log: Log
    first: Entry
    last: Entry
    count: int
    pcm_bytes: int

    @classmethod
    def of(cls, log: Log, entries: Sequence[Entry]) -> Row:
        """The row for entries that stand together."""
        return cls(log, entries[0], entries[-1], len(entries), sum(map(_pcm_bytes, entries)))


def merged(logs: Mapping[Log, Sequence[Entry]]) -> Iterator[tuple[Log, Entry]]:
    """All entries in the order in which they were written, as far as clocks agree."""
    return ((log, entry) for _, _, log, entry in heapq.merge(*map(_dated, logs, logs.values()), key=_date))


def rows(entries: Iterable[tuple[Log, Entry]], *, together: bool = True) -> Iterator[Row]:
    """The rows of a timeline. `together`: audio of one writer that nothing interrupts is one row."""
    numbered = enumerate(entries)
    for _, group in groupby(numbered, key=lambda each: _run(each[0], *each[1], together=together)):
        found = [each for _, each in group]
        yield Row.of(found[0][0], [entry for _, entry in found])


def details(row: Row) -> str:
    """What the entry says, in a few words: the text, or how much sound."""
    match row.first.payload:
        case Take(cause=cause, worker=worker):
            return f"{cause}{f' by {worker}' if worker else ''}"
        case Closed() as closed:
            return _closed(closed)
        case Open() as opening:
            return _opening(opening)
        case Chunk(offset_samples=offset):
            return f"{_sound(row, INPUT_RATE)} at {offset / INPUT_RATE:.2f} s of the input"
        case Pause(offset_samples=offset):
            return f"at {offset / INPUT_RATE:.2f} s of the input"
        case UtteranceEnd(reason=reason, input_samples=samples):
            return f"{reason}, at {samples / INPUT_RATE:.2f} s of the input"
        case Token(text=text, ids=ids):
            return repr(text) + (f" ids {' '.join(map(str, ids))}" if ids else "")
        case Semantic(text=text, boundary=boundary):
            return f"{text!r} {boundary}"
        case ReplyEnd(reason=reason, tokens=tokens, chunks=chunks):
            return f"{reason}, {tokens} tokens, {chunks} chunks"
        case Frame(chunk=chunk, last=last):
            whole = row.last.payload.last if isinstance(row.last.payload, Frame) else last
            return f"{_sound(row, OUTPUT_RATE)} of chunk {chunk}{', its last' if whole else ''}"
        case SpeechEnd(reason=reason, samples=samples):
            return f"{reason}, {samples / OUTPUT_RATE:.2f} s"
        case other:
            return other.kind


@dataclass(slots=True)
class Summary:
    """One turn. Times are from the end of the utterance, by the writers' clocks; `None`: it did not happen.

    `takes`: who took which log over, and why, beyond the first claim. `ended`: how each log ended.
    """

    turn: int
    typed: bool = False
    utterance_s: float = 0.0
    tokens: int = 0
    chunks: int = 0
    speech_s: float = 0.0
    first_token_ms: float | None = None
    first_frame_ms: float | None = None
    takes: tuple[str, ...] = ()
    ended: str = "open"


def summaries(logs: Mapping[Log, Sequence[Entry]]) -> list[Summary]:
    """Every turn of which something stands in the logs, in order."""
    turns = sorted({entry.address.turn for entries in logs.values() for entry in entries})
    return [
        _summary(turn, {log: [e for e in entries if e.address.turn == turn] for log, entries in logs.items()})
        for turn in turns
    ]


def _summary(turn: int, logs: Mapping[Log, Sequence[Entry]]) -> Summary:
    audio, text, speech = (logs.get(log, ()) for log in Log)
    end_us = next((entry.at_us for entry in audio if isinstance(entry.payload, UtteranceEnd)), None)
    return Summary(
        turn,
        typed=any(isinstance(entry.payload, Open) and entry.payload.text is not None for entry in audio),
        utterance_s=_seconds(audio, INPUT_RATE),
        tokens=sum(isinstance(entry.payload, Token) for entry in text),
        chunks=sum(isinstance(entry.payload, Semantic) for entry in text),
        speech_s=_seconds(speech, OUTPUT_RATE),
        first_token_ms=_since(end_us, text, Token),
        first_frame_ms=_since(end_us, speech, Frame),
        takes=tuple(_takes(logs)),
        ended=_ended(audio, text, speech),
    )


def _takes(logs: Mapping[Log, Sequence[Entry]]) -> Iterator[str]:
    for log, entries in logs.items():
        for entry in entries:
            if isinstance(entry.payload, Take) and entry.address.seq > 0:
                worker = entry.payload.worker or entry.writer[:8]
                yield f"{log.value} at {entry.address.seq} by {worker} ({entry.payload.cause})"


def _ended(audio: Sequence[Entry], text: Sequence[Entry], speech: Sequence[Entry]) -> str:
    closed = _last_closed(speech) or _last_closed(text) or _last_closed(audio)
    if any(isinstance(entry.payload, SpeechEnd) for entry in speech):
        return f"answered; {_closed(closed)}" if closed else "answered"
    if closed is not None:
        return _closed(closed)
    if any(isinstance(entry.payload, UtteranceEnd) for entry in audio):
        return "being answered"
    return "being spoken"


def _last_closed(entries: Sequence[Entry]) -> Closed | None:
    last = entries[-1].payload if entries else None
    return last if isinstance(last, Closed) else None


def _closed(closed: Closed) -> str:
    words = closed.reason
    if closed.code is not None:
        words += f": {closed.code}: {closed.message}"
    if closed.heard_ms is not None:
        words += f", {closed.heard_ms / 1000:.2f} s heard"
    if closed.heard_text:
        words += f": {closed.heard_text!r}"
    return words


def _opening(opening: Open) -> str:
    if opening.text is not None:
        return f"typed: {opening.text!r}"
    given = {"voice": opening.voice, "language": opening.language, "prompt": opening.prompt}
    return ", ".join(f"{name} {value!r}" for name, value in given.items() if value is not None)


def _sound(row: Row, rate: int) -> str:
    many = f"{row.count} x " if row.count > 1 else ""
    each = _pcm_bytes(row.first)
    return f"{many}{each:,} bytes, {row.pcm_bytes / SAMPLE_BYTES * 1000 / rate:,.0f} ms"


def _seconds(entries: Sequence[Entry], rate: int) -> float:
    return sum(map(_pcm_bytes, entries)) / SAMPLE_BYTES / rate


def _since(end_us: int | None, entries: Sequence[Entry], kind: type[Payload]) -> float | None:
    first = next((entry.at_us for entry in entries if isinstance(entry.payload, kind)), None)
    return None if end_us is None or first is None else (first - end_us) / 1000


def _pcm_bytes(entry: Entry) -> int:
    return len(entry.payload.pcm) if isinstance(entry.payload, Chunk | Frame) else 0


def _run(number: int, log: Log, entry: Entry, *, together: bool) -> object:
    match entry.payload:
        case Chunk() if together:
            return log, entry.writer, entry.address.turn
        case Frame(chunk=chunk) if together:
            return log, entry.writer, entry.address.turn, chunk
        case _:
            return number


def _dated(log: Log, entries: Iterable[Entry]) -> Iterator[tuple[int, int, Log, Entry]]:
    """With a time that never goes back, so that one slow clock cannot turn a log upside down."""
    latest_us, place = 0, list(Log).index(log)
    for entry in entries:
        latest_us = max(latest_us, entry.at_us)
        yield latest_us, place, log, entry


def _date(dated: tuple[int, int, Log, Entry]) -> tuple[int, int]:
    return dated[:2]
