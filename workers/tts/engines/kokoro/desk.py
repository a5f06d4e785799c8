"""Whose speech is made next: of all that waits, what is most urgent.

Pure: no thread, no lock, no sound. First chunks, whose listeners wait in silence, come before all others, in
the order in which they were put; the others in the order in which their listeners run dry.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

Work = TypeVar("Work")


@dataclass(frozen=True, slots=True, eq=False)
class Ticket(Generic[Work]):
    """Work that was put on the desk. `dry_at_s`: as the desk's clock shows it; `None` for a first chunk."""

    work: Work
    dry_at_s: float | None
    number: int

    @property
    def place(self) -> tuple[bool, float, int]:
        """What it is ordered by; `number` keeps the order of those that are equally urgent."""
        return self.dry_at_s is not None, self.dry_at_s or 0.0, self.number


class Desk(Generic[Work]):
    """What waits to be done. One chunk of each turn at most, so few dozens: it is simply searched."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: set[Ticket[Work]] = set()
        self._number = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Work]:
        """What waits, in no order."""
        return (ticket.work for ticket in self._waiting)

    def put(self, work: Work, dry_at_s: float | None) -> Ticket[Work]:
        """Let work wait, `dry_at_s` as in `SpeechRequest`."""
        self._number += 1
        ticket = Ticket(work, dry_at_s, self._number)
        self._waiting.add(ticket)
        return ticket

    def put_back(self, ticket: Ticket[Work], made_s: float) -> Ticket[Work]:
        """Let the rest of taken work wait, now that its listener has `made_s` seconds more to hear."""
        now_s = self._clock()
        heard_s = now_s if ticket.dry_at_s is None else max(now_s, ticket.dry_at_s)
        return self.put(ticket.work, heard_s + made_s)

    def take(self) -> Ticket[Work] | None:
        """The most urgent, which waits no longer; `None` when nothing does."""
        ticket = min(self._waiting, key=lambda waiting: waiting.place, default=None)
        if ticket is not None:
            self._waiting.remove(ticket)
        return ticket

    def drop(self, ticket: Ticket[Work]) -> None:
        """Nobody wants it any more; nothing happens if it was taken already."""
        self._waiting.discard(ticket)
