"""A worker's loop round a chunker, with times of its own: what every test of the chunker runs."""

from __future__ import annotations

from collections.abc import Iterable

from workers.llm.chunker import Chunker, Piece

Token = tuple[str, float]
Said = tuple[Piece, float]
Entry = tuple[str | Piece, float]


def work(chunker: Chunker, tokens: Iterable[Token], end_ms: float) -> list[Entry]:
    """Feed `tokens` at their times, tick at each deadline in between, finish at `end_ms`.

    Returns its log: each token, and behind it the pieces that it or the time after it brought.
    """
    log: list[Entry] = []
    for text, at_ms in tokens:
        log += wait(chunker, at_ms)
        log.append((text, at_ms))
        log += [(piece, at_ms) for piece in chunker.feed(text, at_ms)]
    log += wait(chunker, end_ms)
    log += [(piece, end_ms) for piece in chunker.finish()]
    return log


def wait(chunker: Chunker, until_ms: float) -> list[Said]:
    """Tick at each deadline before `until_ms`; each must bring something."""
    said: list[Said] = []
    while (due_ms := chunker.deadline_ms) is not None and due_ms < until_ms:
        pieces = chunker.tick(due_ms)
        assert pieces, "a deadline brought nothing"
        said += [(piece, due_ms) for piece in pieces]
    return said


def tokens_of(log: list[Entry]) -> list[Token]:
    return [(what, at_ms) for what, at_ms in log if isinstance(what, str)]


def said_of(log: list[Entry]) -> list[Said]:
    return [(what, at_ms) for what, at_ms in log if isinstance(what, Piece)]


def pieces_of(log: list[Entry]) -> list[Piece]:
    return [what for what, _ in log if isinstance(what, Piece)]
