"""The event loop's sign of life, for the thread beside it that answers for the process.

    event loop ── beat, beat, … ──> Pulse <── how long silent? ── heartbeat's thread

Counts only while the thread itself runs: a process that was stopped as a whole, and woken, has not hung.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

BEAT_S = 0.25
"""How often the event loop shows that it makes passes."""

ALARM_S = 5.0
"""After how long a silence there is a line in the log."""

AWAKE_S = 1.0
"""What a look counts for at the most: the thread may have slept since the one before, as the loop did."""


class Pulse:
    """How long the event loop has been silent. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._beats = 0
        self._seen = 0
        self._looked_at = clock()
        self._silent_s = 0.0

    async def run(self) -> None:
        """Beat, for ever."""
        while True:
            self.beat()
            await asyncio.sleep(BEAT_S)

    def beat(self) -> None:
        """The event loop has made a pass."""
        self._beats += 1

    def silent_s(self) -> float:
        """For how long it has made none, as far as the looks of the one thread that asks this can tell."""
        now = self._clock()
        passed_s = min(now - self._looked_at, AWAKE_S)
        silent_s = self._silent_s + passed_s if self._beats == self._seen else 0.0
        if self._silent_s <= ALARM_S < silent_s:
            log.warning("the event loop has made no pass for %.1f s", silent_s)
        self._looked_at, self._seen, self._silent_s = now, self._beats, silent_s
        return silent_s
