"""The Procfile under Honcho: two hosts with one Redis, and `honcho start` as one process to be stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import eventually
from tests.pipeline.conftest import REPLY, WITNESSED, witness
from tests.stack import ROOT, free_port, get
from tests.story import check_whole, heard


@contextmanager
def honcho(folder: Path, *roles: str, port: int, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """`honcho start` for some lines of the Procfile, as on a host of its own. Stopped by SIGTERM."""
    folder.mkdir()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with (folder / "log").open("wb") as output:
        running = subprocess.Popen(
            [sys.executable, "-m", "honcho", "start", "--no-prefix", "--port", str(port), *roles],
            cwd=ROOT,
            env={**os.environ, "PATH": path, **WITNESSED, "PARLEY_DATA": str(folder), "DRAIN_S": "2", **env},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield running
    finally:
        running.send_signal(signal.SIGTERM)
        status = running.wait(20)
        print((folder / "log").read_text()[-3000:])  # noqa: T201 (pytest shows it where the test fails)
        assert status in (0, -signal.SIGTERM, 128 + signal.SIGTERM), f"honcho ended with {status}"


async def test_two_hosts_with_one_redis_answer_a_turn(redis_url: str, tmp_path: Path) -> None:
    port = free_port()
    here = honcho(tmp_path / "one", "edge", "llm", port=port, HOST="127.0.0.1", REDIS_URL=redis_url)
    there = honcho(tmp_path / "two", "tts", port=free_port(), HOST="127.0.0.2", REDIS_URL=redis_url)
    with here, there:
        await eventually(lambda: get(f"http://127.0.0.1:{port}/readyz")[0] == 200, "ready", 60)
        async with witness(f"ws://127.0.0.1:{port}/ws") as w:
            await w.ask(1)
        check_whole(w.conversation, heard(w.messages)[1], REPLY)


async def test_everything_comes_up_dies_singly_and_ends_together(tmp_path: Path) -> None:
    """The whole Procfile with its embedded Redis; a killed worker is replaced while the rest lives on."""
    port = free_port()
    redis_port = str(free_port())
    with honcho(tmp_path / "all", port=port, PARLEY_REDIS_PORT=redis_port) as running:
        ready = f"http://127.0.0.1:{port}/readyz"
        await eventually(lambda: get(ready)[0] == 200, "ready", 60)
        before = _processes(running.pid)
        victim = next(pid for pid, command in before.items() if "-m workers.tts" in command)
        os.kill(victim, signal.SIGKILL)

        def replaced() -> bool:
            workers = [pid for pid, command in _processes(running.pid).items() if "-m workers.tts" in command]
            return bool(workers) and victim not in workers

        await eventually(replaced, "the worker runs again")
        rest = {pid for pid in before if pid != victim}
        assert rest <= set(_processes(running.pid))
        async with witness(f"ws://127.0.0.1:{port}/ws") as w:
            await w.ask(1)
        check_whole(w.conversation, heard(w.messages)[1], REPLY)
        before = _processes(running.pid)
    assert not [command for pid, command in before.items() if _command(pid) == command]


def _processes(root: int) -> dict[int, str]:
    """The living descendants of a process, by pid, with their command lines."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                parents[int(entry.name)] = int(fields[1])
    found: set[int] = set()
    while more := {pid for pid, parent in parents.items() if parent in found | {root}} - found:
        found |= more
    return {pid: command for pid in found if (command := _command(pid))}


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""
