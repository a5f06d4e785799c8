"""`make run` as a person has it: the real roles and embedded engines, in the environment that `make` made."""

from __future__ import annotations

import os
import shutil
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.embedded.probe import is_free
from shared.settings import EX_CONFIG
from tests.deploy.support import ROOT, Running, descendants, ended_at_last, lives, wait_until

pytestmark = [
    pytest.mark.skipif(shutil.which("make") is None, reason="there is no make on this machine"),
    pytest.mark.skipif(not (ROOT / ".venv" / "base").exists(), reason="make has installed nothing here"),
]

STOPS_WITHIN_S = 10


@pytest.fixture
def port() -> int:
    return next(port for port in range(12_000, 13_000) if is_free(port) and is_free(port + 500))


def make_run(tmp_path: Path, port: int, *variables: str) -> Running:
    settings = {"PARLEY_DATA": str(tmp_path / "data"), "PARLEY_REDIS_PORT": str(port + 500), "REDIS_URL": ""}
    return Running(["make", "run", f"PORT={port}", *variables], ROOT, tmp_path / "output", settings)


@pytest.fixture
def server(tmp_path: Path, port: int) -> Iterator[Running]:
    """`make run`, ready."""
    with ended_at_last(make_run(tmp_path, port)) as run:
        wait_until(lambda: is_ready(port) or run.process.poll() is not None, "ready")
        assert is_ready(port), run.output
        started = descendants(run.pid)
        yield run
    for pid in filter(lives, started):
        os.kill(pid, signal.SIGKILL)


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as reply:
            return bool(reply.status == 200)
    except urllib.error.HTTPError as error:
        error.close()
        return False
    except OSError:
        return False


@pytest.mark.parametrize("ctrl_c", [True, False], ids=["Ctrl-C", "SIGTERM"])
def test_it_gets_ready_and_a_stop_leaves_nothing_running(server: Running, ctrl_c: bool) -> None:
    started = descendants(server.pid)
    assert len(started) >= 5 * 2, "each role, and its supervisor"
    if ctrl_c:
        os.killpg(server.pid, signal.SIGINT)
    else:
        server.process.terminate()
    wait_until(lambda: not any(map(lives, started)), "no process is left", within_s=STOPS_WITHIN_S)
    server.ended()
    assert "Traceback" not in server.output and "was killed" not in server.output


def test_a_bad_setting_is_the_only_thing_it_says(tmp_path: Path, port: int) -> None:
    with ended_at_last(make_run(tmp_path, port, "CONCURRENCY=llm=many")) as run:
        run.ended()
        said = run.output.splitlines()
    assert said[0].startswith("bad setting: CONCURRENCY is 'llm=many'; expected ")
    assert all(line.startswith("make: ") for line in said[1:]) and f"Error {EX_CONFIG}" in said[-1]
