"""The processes of the whole pipeline: an embedded Redis, an edge, a worker of each model."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from deploy import child
from deploy.embedded import start_server
from tests.stack import ROOT, free_port, get, workers

ROLES = ("llm", "tts")


class Cast:
    """Processes that run. `url` is the edge's WebSocket."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self._folder = folder
        self._port = free_port()
        self._env = {**os.environ, **env, "PORT": str(self._port), "PYTHONPATH": _python_path()}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"ws://127.0.0.1:{self._port}/ws"

    def start(self, role: str, *command: str) -> None:
        """Start `python -m` of this command."""
        with self._log(role).open("wb") as output:
            self._processes[role] = child.start(
                [sys.executable, "-m", *command],
                environ={**self._env, "WORKER_NAME": f"bench.{role}"},
                output=output,
            )

    async def ready(self, within_s: float) -> None:
        """Wait until a turn would be answered. Raises `RuntimeError` with what the one said that is not."""
        deadline = time.monotonic() + within_s
        while True:
            status, body = await asyncio.to_thread(get, f"http://127.0.0.1:{self._port}/readyz")
            if status == 200 and all(workers(body, role) for role in ROLES):
                return
            for role, process in self._processes.items():
                if process.poll() is not None:
                    raise RuntimeError(
                        f"{role} {child.describe_end(process.poll() or 0)}:\n{self.said(role)}"
                    )
            if time.monotonic() > deadline:
                raise RuntimeError(f"not ready after {within_s:.0f} s: {status} {body!r}\n{self.said()}")
            await asyncio.sleep(0.1)

    def said(self, role: str | None = None) -> str:
        """The last words of a role, or of all."""
        names = [role] if role else list(self._processes)
        return "\n".join(f"--- {name}\n{self._log(name).read_text()[-2000:]}" for name in names)

    def stop(self) -> None:
        """End them all."""
        for process in self._processes.values():
            process.kill()
            process.wait()

    def _log(self, role: str) -> Path:
        return self._folder / f"{role}.log"


@contextmanager
def cast(folder: Path, size: str, env: Mapping[str, str]) -> Iterator[Cast]:
    """All processes, started, for the time of the block; Redis and workers keep their data in `folder`."""
    server = start_server(folder / "redis")
    processes = Cast(folder, {**env, "REDIS_URL": server.url, "PARLEY_DATA": str(folder)})
    try:
        processes.start("edge", "edge")
        for role in ROLES:
            processes.start(role, "tests.bench.models.worker", role, size)
        yield processes
    finally:
        processes.stop()
        server.stop()


def _python_path() -> str:
    """The repository first: a worker is started wherever this was."""
    return os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
