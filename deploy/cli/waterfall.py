"""The latencies of one turn as a few lines of text: what came when, and what it waited for. Pure.

first token  ███████                                    95 ms         server 95 ms
first word          ████                               135 ms   +40  server 135 ms
first audio             ████                           186 ms   +51  server 186 ms
last frame                  █████████████████████████  512 ms  +326  server 511 ms
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BAR_CELLS = 40
LEAST_CELLS = 16
GAP = "  "


@dataclass(frozen=True, slots=True)
class Step:
    """One moment of a turn, in ms after the end of the utterance: by the client's clock and by the server's;
    `None` for what did not happen, or is not told."""

    name: str
    client_ms: float | None
    server_ms: float | None = None


def waterfall(steps: Sequence[Step], *, width: int = 100, blocks: bool = True) -> list[str]:
    """The lines, each at most `width` cells: a bar from one moment to the next, drawn to one scale.

    Steps that did not happen at the client are left out. `blocks`: whether more than ASCII can be shown.
    """
    known = [(step, step.client_ms) for step in steps if step.client_ms is not None]
    if not known:
        return []
    names = max(len(step.name) for step, _ in known)
    labels = _labels(known)
    room = width - names - max(map(len, labels)) - 2 * len(GAP)
    cells = max(LEAST_CELLS, min(BAR_CELLS, room))
    scale = cells / max(1.0, *(ms for _, ms in known))
    lines = []
    before_ms = 0.0
    for (step, ms), label in zip(known, labels, strict=True):
        bar = _bar(before_ms * scale, ms * scale, cells, "█" if blocks else "#")
        lines.append(f"{step.name:<{names}}{GAP}{bar}{GAP}{label}")
        before_ms = max(before_ms, ms)
    return lines


def _bar(start: float, end: float, cells: int, block: str) -> str:
    """From `start` to `end`, in cells; at least one, so that nothing that happened is invisible."""
    first = min(round(start), cells - 1)
    last = max(first + 1, min(round(end), cells))
    return f"{' ' * first}{block * (last - first)}{' ' * (cells - last)}"


def _labels(known: Sequence[tuple[Step, float]]) -> list[str]:
    """When it was, how long after the step before, and what the server says: in columns."""
    rows = []
    before_ms = 0.0
    for number, (step, ms) in enumerate(known):
        since = "" if number == 0 else f"{ms - before_ms:+,.0f}"
        server = "" if step.server_ms is None else f"server {step.server_ms:,.0f} ms"
        rows.append((f"{ms:,.0f} ms", since, server))
        before_ms = ms
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = ((cell.rjust(width) for cell, width in zip(row, widths, strict=True) if width) for row in rows)
    return [GAP.join(cells).rstrip() for cells in padded]
