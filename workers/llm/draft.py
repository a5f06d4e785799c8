"""The reply as it grows: its tokens, the chunks cut from them, and what of both is still to be written.

It may be begun before anybody knows that it is wanted. Until then its clock stands, so that the chunks are
cut as if all of it had come in the moment in which it is wanted. Pure: no log, no task; times are given.
"""

from __future__ import annotations

from collections.abc import Sequence

from shared.wire import Entry, Payload, ReplyEnd, Semantic, Token
from workers.llm.chunker import Chunker, Piece

AT_ONCE = 16
"""Payloads of one append. Each costs Redis some 30 us, and the first is pushed when the last is written."""


class Draft:
    """One reply, from whatever place of its log another worker left it at. Times are ms of any one clock.

    `entries` are the turn's in `text`; `entries_offset_ms` is what their Unix time is ahead of the clock.
    """

    def __init__(self, entries: Sequence[Entry], entries_offset_ms: float) -> None:
        self.tokens = sum(isinstance(entry.payload, Token) for entry in entries)
        """How many there are, those in the log included."""
        self._chunker, self._chunks = _rebuilt(entries, entries_offset_ms)
        self._spoken = self._chunks
        """Chunks that were taken to be written."""
        self._waiting: list[Payload] = []
        self._wanted = False
        self._stands_ms: float | None = None
        """Where the clock stands while it is not wanted: at the first token."""
        self._late_ms = 0.0
        """How far the chunker's clock is behind."""

    def add(self, token: Token, now_ms: float) -> None:
        """The next token, and with it the chunks that it completes."""
        if self._stands_ms is None:
            self._stands_ms = now_ms
        self.tokens += 1
        self._waiting.append(token)
        self._cut(self._chunker.feed(token.text, self._time_ms(now_ms)))

    def tick(self, now_ms: float) -> None:
        """Cut what is due by time."""
        self._cut(self._chunker.tick(self._time_ms(now_ms)))

    def end(self, reason: str) -> None:
        """The reply is whole: what is left of it, and its end."""
        self._cut(self._chunker.finish())
        self._waiting.append(ReplyEnd(reason, self.tokens, self._chunks))

    def want(self, now_ms: float) -> None:
        """It is wanted: from now on time passes."""
        self._wanted = True
        if self._stands_ms is not None and self._chunks:
            # What was cut begins to be heard now. With nothing cut, whoever waits for the first words has
            # waited since the first token.
            self._late_ms = now_ms - self._stands_ms
        self.tick(now_ms)

    def due_in_s(self, now_ms: float) -> float | None:
        """How long until a chunk is due by time alone."""
        due_ms = self._chunker.deadline_ms
        return None if due_ms is None else max(0.0, (due_ms - self._time_ms(now_ms)) / 1000)

    def take(self) -> list[Payload]:
        """What is to be written next, in one append. The first chunk waits for nothing behind it."""
        count = min(AT_ONCE, len(self._waiting))
        if not self._spoken:
            chunks = (place for place in range(count) if isinstance(self._waiting[place], Semantic))
            count = next(chunks, count - 1) + 1
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        self._spoken += sum(isinstance(payload, Semantic) for payload in taken)
        return taken

    def _time_ms(self, now_ms: float) -> float:
        if self._wanted or self._stands_ms is None:
            return now_ms - self._late_ms
        return self._stands_ms

    def _cut(self, pieces: Sequence[Piece]) -> None:
        self._chunks += len(pieces)
        self._waiting += [Semantic(piece.text, piece.from_, piece.upto, piece.boundary) for piece in pieces]


def _rebuilt(entries: Sequence[Entry], offset_ms: float) -> tuple[Chunker, int]:
    """The chunker as the dead peer had it, on this process's clock, and the number of its chunks."""
    tokens: list[tuple[str, float]] = []
    spoken: list[tuple[Piece, float]] = []
    for entry in entries:
        at_ms = entry.at_us / 1000 - offset_ms
        match entry.payload:
            case Token(text=text):
                tokens.append((text, at_ms))
            case Semantic() as chunk:
                spoken.append((Piece(chunk.text, chunk.from_, chunk.upto, chunk.boundary), at_ms))
    return Chunker.rebuild(tokens, spoken), len(spoken)
