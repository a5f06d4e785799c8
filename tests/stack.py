"""All roles as real processes on one Redis, to be talked to, killed and stopped. No supervisor in between."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy import child

ROOT = Path(__file__).parent.parent
MODULES = {"edge": "edge", "llm": "workers.llm", "tts": "workers.tts", "jobs": "workers.jobs"}
READY_S = 100.0
"""The models take seconds to import, and a minute the first time on a busy machine."""

SCRIPTED = {"LLM_ENGINE": "scripted", "TTS_ENGINE": "scripted"}


class Process:
    """One role, running. `pid` is its own: signals reach nobody else.

    `through`: a module, and its arguments, that is run in front of the role's and given its name.
    """

    def __init__(self, role: str, env: Mapping[str, str], log: Path, through: Sequence[str] = ()) -> None:
        self.role = role
        self.env = dict(env)
        self.log = log
        self.through = tuple(through)
        with log.open("ab") as output:
            # It ends with the test run, however that ends.
            self._popen = child.start(
                [sys.executable, "-m", *through, MODULES[role]], environ={**os.environ, **env}, output=output
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._popen.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs (or is stopped)."""
        return self._popen.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._popen.send_signal(number)

    def kill(self) -> None:
        """`kill -9`, and wait until it is gone."""
        self._popen.kill()
        self._popen.wait()

    def wait(self, timeout_s: float = READY_S) -> int:
        """Its exit status, once it has ended."""
        return self._popen.wait(timeout_s)

    def again(self) -> Process:
        """The same process once more, under the same name: what a supervisor does."""
        return Process(self.role, self.env, self.log, self.through)


class Stack:
    """Processes on one Redis. `env` holds for all of them; a name is given to each worker."""

    def __init__(self, redis_url: str, folder: Path, env: Mapping[str, str] = SCRIPTED) -> None:
        self.redis_url = redis_url
        self.processes: list[Process] = []
        self._folder = folder
        self._env = {
            "REDIS_URL": redis_url,
            "PARLEY_DATA": str(folder),
            "LOG_LEVEL": "debug",
            "DRAIN_S": "3",
            **env,
        }

    def start(self, role: str, *, through: Sequence[str] = (), **env: str) -> Process:
        """Start one more process of the role; an edge gets a free port. `through`: see `Process`."""
        number = sum(process.role == role for process in self.processes) + 1
        own = {"WORKER_NAME": f"test.{role}.{number}"} if role != "edge" else {"PORT": str(free_port())}
        log = self._folder / f"{role}.{number}.log"
        process = Process(role, {**self._env, **own, **env}, log, through)
        self.processes.append(process)
        return process

    def restart(self, process: Process) -> Process:
        """Start a dead process again in its place."""
        again = process.again()
        self.processes[self.processes.index(process)] = again
        return again

    def url(self, edge: Process) -> str:
        """The edge's WebSocket."""
        return f"ws://127.0.0.1:{edge.env['PORT']}/ws"

    async def ready(self, edge: Process, **at_least: int) -> None:
        """Wait until the edge can take conversations and sees at least so many workers of each role."""
        deadline = asyncio.get_running_loop().time() + READY_S
        while True:
            status, body = await asyncio.to_thread(get, f"http://127.0.0.1:{edge.env['PORT']}/readyz")
            if status == 200 and all(len(workers(body, role)) >= n for role, n in at_least.items()):
                return
            for process in self.processes:
                assert process.alive, f"{process.role} ended:\n{process.log.read_text()[-2000:]}"
            assert asyncio.get_running_loop().time() < deadline, f"not ready: {status} {body!r}"
            await asyncio.sleep(0.05)

    def logs(self) -> str:
        """What the processes said last, for a failing test."""
        return "\n".join(f"--- {p.log.name}\n{p.log.read_text()[-3000:]}" for p in self.processes)

    def stop(self) -> None:
        """End every process."""
        for process in self.processes:
            if process.alive:
                process.kill()


def workers(body: bytes, role: str) -> list[str]:
    """The names of the workers of a role that a `/readyz` lists."""
    names: list[str] = json.loads(body).get("workers", {}).get(role, [])
    return names


def free_port() -> int:
    """A TCP port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def get(url: str) -> tuple[int, bytes]:
    """Status and body of a GET; 0 where nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()
    except OSError:
        return 0, b""
