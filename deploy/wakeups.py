"""The signals of a process as something to wait for: a child has ended, or somebody asks it to stop."""

from __future__ import annotations

import os
import select
import signal
import time
from types import FrameType, TracebackType
from typing import Any, Self

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Wakeups:
    """While it is entered, signals interrupt `wait` and nothing else. For the main thread."""

    def __init__(self) -> None:
        self.stopping = False
        """Whether a signal to stop has come."""
        self.hurried = False
        """Whether a second Ctrl-C has come: stop at once. A second SIGTERM means nothing: a service manager
        sends it to every process, and so does the parent."""
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        os.set_blocking(self._writing, False)
        self._fd_before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        # What was ignored from the start stays ignored, as SIGHUP is under nohup.
        heeded = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        for number in (*heeded, signal.SIGCHLD):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._fd_before)
        os.close(self._reading)
        os.close(self._writing)

    def wait(self, seconds: float | None = None) -> None:
        """Return at the next signal, or at once if one came since the last call; after `seconds` anyway."""
        if select.select([self._reading], [], [], seconds)[0]:
            os.read(self._reading, 4096)

    def pause(self, seconds: float) -> None:
        """Return after `seconds`, or as soon as there is a signal to stop."""
        until = time.monotonic() + seconds
        while not self.stopping and (left := until - time.monotonic()) > 0:
            self.wait(left)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.stopping:
            self.hurried = True
        if number in STOP_SIGNALS:
            self.stopping = True
