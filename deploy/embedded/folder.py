"""The lock of a server's folder: at most one server ever runs over it.

A server process inherits the lock, so it is held until that process is gone too, however its parent ended.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

from deploy.embedded.errors import FolderInUse


class FolderLock:
    """One holder's side of the lock of `directory`, which is made if it does not exist."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file: IO[str] | None = None

    def acquire(self) -> int:
        """Hold the lock, or go on holding it; returns the descriptor to inherit. Raises `FolderInUse`."""
        if self._file is None:
            self._file = self._open()
        return self._file.fileno()

    def release(self) -> None:
        """Let go of it; a server that inherited it still holds it."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> IO[str]:
        self._directory.mkdir(parents=True, exist_ok=True)
        file = (self._directory / "server.lock").open("a+", encoding="ascii")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(16).strip()
            file.close()
            raise FolderInUse(f"another server runs over {self._directory} (process {holder})") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        return file
