"""The port of a running server, announced in a file that readers can trust.

The announcing process holds a lock (`flock`) on the very file that says the port: it ends with the process,
so a file that a crash left behind is never taken for a living server. Knows nothing of what the port serves.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO


class PortFile:
    """A file with one decimal number in it. Either side of it: the announcing process, or a reader."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._announced: IO[str] | None = None

    def announce(self, port: int) -> None:
        """Write the file, whole and locked from the first moment that it can be seen."""
        draft = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        handle = draft.open("w", encoding="ascii")
        handle.write(f"{port}\n")
        handle.flush()
        fcntl.flock(handle, fcntl.LOCK_EX)
        draft.replace(self.path)
        self._announced, before = handle, self._announced
        if before is not None:
            before.close()

    def withdraw(self) -> None:
        """Remove the file, if this object announced it."""
        if self._announced is not None:
            self.path.unlink(missing_ok=True)
            self._announced.close()
            self._announced = None

    def read(self) -> int | None:
        """The port, if its process lives."""
        return self._read(of_the_living=True)

    def read_stale(self) -> int | None:
        """The port that a process announced which has since died without withdrawing it."""
        return self._read(of_the_living=False)

    def _read(self, *, of_the_living: bool) -> int | None:
        try:
            with self.path.open(encoding="ascii") as handle:
                text = handle.read(16).strip()
                living = _is_locked(handle)
        except (FileNotFoundError, UnicodeDecodeError):
            return None
        return int(text) if text.isdigit() and living is of_the_living else None


def _is_locked(handle: IO[str]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
