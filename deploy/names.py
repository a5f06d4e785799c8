"""The name of a worker: the same after each restart of it, and no other worker's.

Under Honcho it is made of the host, an id of this installation (kept in `PARLEY_DATA`) and the process's name
there, so that it outlives even a restart of everything. A lock holds it, for two Honchos may share a folder;
who finds it held, or runs alone, takes the supervisor's process id for the last part.
"""

from __future__ import annotations

import fcntl
import os
import re
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from shared.settings import Settings


class WorkerName:
    """Entered: a name that is held until the exit. `str()` gives it. `WORKER_NAME`, where set, is obeyed."""

    def __init__(self, settings: Settings, role: str, process: str | None) -> None:
        self._given = settings.worker_name
        self._data = settings.parley_data
        self._role = role
        self._process = process
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> Self:
        if self._given is None:
            self._given = self._make()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._lock is not None:
            self._lock.close()

    def __str__(self) -> str:
        return self._given or ""

    def _make(self) -> str:
        host = re.sub(r"[^A-Za-z0-9-]", "-", os.uname().nodename)[:40]
        alone = f"{self._role}.{os.getpid()}"
        try:
            instance = _instance(self._data)
            mine = self._process is not None and self._hold(self._process)
        except OSError:  # a folder that cannot be written costs the name its memory, nothing else
            return f"{host}-{os.urandom(4).hex()}.{alone}"
        return f"{host}-{instance}.{self._process if mine else alone}"

    def _hold(self, process: str) -> bool:
        folder = self._data / "names"
        folder.mkdir(exist_ok=True)
        lock = (folder / process.replace("/", "-")).open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return False
        self._lock = lock
        return True


def _instance(data: Path) -> str:
    """The id of the installation; whoever comes first makes it."""
    data.mkdir(parents=True, exist_ok=True)
    path = data / "instance"
    draft = data / f".instance.{os.getpid()}"
    if not path.exists():
        draft.write_text(os.urandom(4).hex() + "\n", encoding="ascii")
        with suppress(FileExistsError):  # somebody else came first
            path.hardlink_to(draft)
        draft.unlink()
    return re.sub(r"[^0-9a-f]", "", path.read_text(encoding="ascii"))[:16]
