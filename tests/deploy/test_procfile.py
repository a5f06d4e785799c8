"""The Procfile under Honcho, with small roles in the places of the real ones."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import redis

from deploy.embedded import start_server
from deploy.embedded.probe import is_free
from shared.portfile import PortFile
from shared.settings import EX_CONFIG
from tests.deploy.support import ROOT, Running, descendants, lives, running, wait_until

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="reads the processes in /proc")

STOPS_WITHIN_S = 10
ROLES = ("edge.1", "llm.1", "tts.1", "jobs.1")
ROLE = """
import os, signal, sys, redis
from shared import settings

client = redis.Redis.from_url(settings.redis_url(settings.load()))
me = os.environ["HONCHO_PROCESS_NAME"]

def leave(*_):
    client.set("last words of " + me, "written")
    sys.exit(0)

signal.signal(signal.SIGTERM, leave)
client.rpush("up:" + me, f"{os.getpid()} {os.environ['WORKER_NAME']} {os.environ['PORT']}")
while True: signal.pause()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in which the modules of the roles are small scripts."""
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "__init__.py").touch()  # or the real package would go before it
    for module in ("edge.py", "workers/llm.py", "workers/tts.py", "workers/jobs.py"):
        (tmp_path / module).write_text(ROLE)
    return tmp_path


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


class Honcho:
    """Honcho on the project's Procfile, its processes in `folder`."""

    def __init__(self, stack: ExitStack, folder: Path, *options: str, **environ: str) -> None:
        port = next(port for port in range(13_000, 14_000, 10) if is_free(port))
        settings = {"PARLEY_DATA": "data", "PARLEY_REDIS_PORT": str(port), "DRAIN_S": "3", "REDIS_URL": ""}
        self.folder = folder
        self.run: Running = stack.enter_context(
            running(
                folder,
                *("honcho", "start", "--procfile", str(ROOT / "Procfile"), "--port", "8000", *options),
                PATH=os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"])),
                **{**settings, **environ},
            )
        )
        self.processes: set[int] = {self.run.pid}
        stack.callback(self.kill)

    def redis(self) -> redis.Redis:
        """A connection to the embedded server, once it is announced."""
        port_file = PortFile(self.folder / "data" / "redis.port")
        wait_until(lambda: port_file.read() is not None, "a port is announced")
        return redis.Redis(port=port_file.read() or 0, decode_responses=True)

    def starts(self, process: str) -> list[list[str]]:
        """Process id, worker's name and port of each start of a process."""
        with self.redis() as client:
            return [start.split() for start in client.lrange(f"up:{process}", 0, -1)]

    def is_up(self, process: str) -> bool:
        """Whether a process has ever come up."""
        return bool(self.starts(process))

    def wait_for(self, *processes: str) -> None:
        """Wait until these are up, and remember everything that runs by then."""
        for process in processes:
            wait_until(partial(self.is_up, process), f"{process} is up")
        self.processes |= descendants(self.run.pid)

    def wait_until_gone(self) -> None:
        """Wait until nothing runs any more that ever ran."""
        wait_until(lambda: not any(map(lives, self.processes)), "no process is left", within_s=STOPS_WITHIN_S)

    def kill(self) -> None:
        """Leave nothing behind, also where a test has failed."""
        for pid in descendants(self.run.pid) | {pid for pid in self.processes if lives(pid)}:
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_ends_every_process_the_redis_last(
    stack: ExitStack, folder: Path, number: signal.Signals
) -> None:
    honcho = Honcho(stack, folder)
    honcho.wait_for(*ROLES)
    os.killpg(honcho.run.pid, number)
    honcho.run.ended()
    honcho.wait_until_gone()
    assert "Traceback" not in honcho.run.output and "was killed" not in honcho.run.output
    server = start_server(folder / "data" / "redis")
    stack.callback(server.kill)
    with redis.Redis.from_url(server.url) as client:
        assert client.exists(*(f"last words of {name}" for name in ROLES)) == len(ROLES)


def test_when_the_terminal_goes_away_everything_ends(stack: ExitStack, folder: Path) -> None:
    honcho = Honcho(stack, folder)
    honcho.wait_for(*ROLES)
    os.killpg(honcho.run.pid, signal.SIGHUP)
    honcho.wait_until_gone()


def test_a_process_that_dies_is_started_again_and_the_others_live_on(stack: ExitStack, folder: Path) -> None:
    honcho = Honcho(stack, folder)
    honcho.wait_for(*ROLES)
    before = {name: honcho.starts(name)[0] for name in ROLES}
    killed_at = time.monotonic()
    os.kill(int(before["llm.1"][0]), signal.SIGKILL)
    wait_until(lambda: len(honcho.starts("llm.1")) == 2, "the LLM worker is up again")
    assert time.monotonic() - killed_at < 2  # a start takes some of it; its supervisor's pause is 0.1 s
    assert honcho.starts("llm.1")[1][1] == before["llm.1"][1]
    for name in {*ROLES} - {"llm.1"}:
        assert honcho.starts(name) == [before[name]]
        assert lives(int(before[name][0]))


def test_roles_scale_each_process_with_a_name_and_each_edge_with_a_port(
    stack: ExitStack, folder: Path
) -> None:
    names = ("edge.1", "edge.2", "llm.1", "llm.2", "tts.1", "tts.2", "tts.3", "jobs.1")
    honcho = Honcho(stack, folder, "--concurrency", "edge=2,llm=2,tts=3")
    honcho.wait_for(*names)
    starts = {name: honcho.starts(name)[0] for name in names}
    assert len({worker for _, worker, _ in starts.values()}) == len(names)
    assert [starts[name][2] for name in ("edge.1", "edge.2")] == ["8000", "8001"]


def test_one_bad_setting_ends_everything_with_its_line(stack: ExitStack, folder: Path) -> None:
    honcho = Honcho(stack, folder, STALL_S="never")
    assert honcho.run.ended() == EX_CONFIG
    assert "bad setting: STALL_S is 'never'; expected a number from 0.5 to 600 s" in honcho.run.output
    honcho.wait_until_gone()


def test_a_role_alone_runs_on_another_redis(stack: ExitStack, folder: Path) -> None:
    server = start_server(folder / "elsewhere")
    stack.callback(server.kill)
    honcho = Honcho(stack, folder, "llm", REDIS_URL=server.url)
    with redis.Redis.from_url(server.url) as client:
        wait_until(lambda: bool(client.llen("up:llm.1")), "the worker is up")
        assert client.llen("up:edge.1") == 0
    honcho.processes |= descendants(honcho.run.pid)
    honcho.run.process.terminate()
    honcho.run.ended()
    honcho.wait_until_gone()
