"""The time that a run may take."""

from __future__ import annotations

import time
from collections.abc import Callable


class Budget:
    """Counts from when it is made."""

    def __init__(self, minutes: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.minutes = minutes
        self._clock = clock
        self._began_s = clock()

    @property
    def spent_s(self) -> float:
        """Since the beginning."""
        return self._clock() - self._began_s

    @property
    def left_s(self) -> float:
        """Until it is used up; negative beyond."""
        return self.minutes * 60 - self.spent_s
