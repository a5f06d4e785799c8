from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.supervise import Backoff
from shared.settings import EX_CONFIG
from tests.deploy.support import lives, running, wait_until

STEADY = """
import os, pathlib, signal, sys, time

def note(word):
    with open("notes", "a") as notes:
        notes.write(f"{word} {os.getpid()} {time.monotonic()} {os.environ['WORKER_NAME']}\\n")

signal.signal(signal.SIGINT, lambda *_: note("SIGINT"))
signal.signal(signal.SIGTERM, lambda *_: (note("SIGTERM"), AT_SIGTERM()))
AT_SIGTERM = lambda: sys.exit(0)
"""
HOLDS = "\nnote('up')\nwhile True: signal.pause()\n"


@pytest.fixture
def role(tmp_path: Path) -> Callable[[str], Path]:
    """Write the module `role`, which notes what happens to it; returns the folder to run it in."""

    def write(code: str = "") -> Path:
        (tmp_path / "role.py").write_text(STEADY + code + HOLDS)
        return tmp_path

    return write


def notes(folder: Path, word: str) -> list[tuple[int, float, str]]:
    """Process id, time and worker's name of each note of `word`, those that are written in full."""
    if not (folder / "notes").exists():
        return []
    lines = [line.split() for line in (folder / "notes").read_text().splitlines(keepends=True)]
    return [(int(line[1]), float(line[2]), line[3]) for line in lines if line[0] == word and len(line) == 4]


def wait_for_starts(folder: Path, count: int) -> None:
    wait_until(lambda: len(notes(folder, "up")) >= count, f"{count} starts")


def test_a_role_that_is_killed_is_up_again_within_a_second_under_the_same_name(
    role: Callable[[str], Path],
) -> None:
    folder = role("")
    with running(folder, "deploy.supervise", "role", PARLEY_DATA="data") as supervisor:
        for count in (1, 2, 3):
            wait_for_starts(folder, count)
            killed_at = time.monotonic()
            os.kill(notes(folder, "up")[-1][0], signal.SIGKILL)
            wait_for_starts(folder, count + 1)
            assert notes(folder, "up")[-1][1] - killed_at < 1
        assert len({name for _, _, name in notes(folder, "up")}) == 1
        supervisor.wait_for("was killed by SIGKILL")
        assert "Traceback" not in supervisor.output


def test_a_role_that_ends_by_itself_is_started_again(role: Callable[[str], Path]) -> None:
    folder = role("note('up'); sys.exit(3)")
    with running(folder, "deploy.supervise", "role", PARLEY_DATA="data") as supervisor:
        wait_for_starts(folder, 3)
        assert "ended with exit code 3" in supervisor.output


def test_the_pause_before_a_start_grows_in_a_crash_loop_and_never_reaches_a_second() -> None:
    backoff = Backoff()
    assert [backoff.after(lived_s=0.1) for _ in range(6)] == [0.1, 0.2, 0.4, 0.8, 0.8, 0.8]
    assert backoff.after(lived_s=60) == 0.1


def test_a_role_with_a_bad_setting_takes_its_supervisor_with_it(role: Callable[[str], Path]) -> None:
    folder = role(f"note('up'); sys.exit({EX_CONFIG})")
    with running(folder, "deploy.supervise", "role", PARLEY_DATA="data") as supervisor:
        assert supervisor.ended() == EX_CONFIG
    assert len(notes(folder, "up")) == 1


def test_a_bad_setting_ends_the_supervisor_before_it_starts_anything(role: Callable[[str], Path]) -> None:
    folder = role("")
    with running(folder, "deploy.supervise", "role", PARLEY_DATA="data", DRAIN_S="soon") as supervisor:
        assert supervisor.ended() == EX_CONFIG
        assert supervisor.output.startswith("bad setting: DRAIN_S is 'soon'; expected ")
    assert notes(folder, "up") == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_whole_group_is_one_orderly_stop(
    role: Callable[[str], Path], number: signal.Signals
) -> None:
    folder = role("AT_SIGTERM = lambda: (time.sleep(0.1), note('finished'), sys.exit(0))")
    with running(folder, "deploy.supervise", "role", PARLEY_DATA="data") as supervisor:
        wait_for_starts(folder, 1)
        os.killpg(supervisor.pid, number)
        assert supervisor.ended() == 0
        assert supervisor.output == ""
    assert [len(notes(folder, word)) for word in ("up", "SIGTERM", "finished", "SIGINT")] == [1, 1, 1, 0]


def test_a_role_that_outlives_its_time_to_drain_is_killed(role: Callable[[str], Path]) -> None:
    folder = role("AT_SIGTERM = lambda: None")
    with running(folder, "deploy.supervise", "role", PARLEY_DATA="data", DRAIN_S="0.2") as supervisor:
        wait_for_starts(folder, 1)
        asked_at = time.monotonic()
        supervisor.process.terminate()
        assert supervisor.ended() == 128 + signal.SIGKILL
        assert time.monotonic() - asked_at > 0.2
        assert "killed: it had not ended" in supervisor.output
    assert not lives(notes(folder, "up")[0][0])


def test_a_second_ctrl_c_waits_no_longer(role: Callable[[str], Path]) -> None:
    folder = role("AT_SIGTERM = lambda: None")
    with running(folder, "deploy.supervise", "role", PARLEY_DATA="data", DRAIN_S="600") as supervisor:
        wait_for_starts(folder, 1)
        os.kill(supervisor.pid, signal.SIGINT)
        wait_until(lambda: bool(notes(folder, "SIGTERM")), "the role is asked to stop")
        os.kill(supervisor.pid, signal.SIGINT)
        assert supervisor.ended() == 128 + signal.SIGKILL


def test_a_second_sigterm_changes_nothing(role: Callable[[str], Path]) -> None:
    folder = role("AT_SIGTERM = lambda: (time.sleep(0.3), note('finished'), sys.exit(0))")
    with running(folder, "deploy.supervise", "role", PARLEY_DATA="data", DRAIN_S="600") as supervisor:
        wait_for_starts(folder, 1)
        supervisor.process.terminate()
        wait_until(lambda: bool(notes(folder, "SIGTERM")), "the role is asked to stop")
        supervisor.process.terminate()
        assert supervisor.ended() == 0
    assert len(notes(folder, "finished")) == 1


def test_a_stop_between_two_lives_of_a_role_starts_none(role: Callable[[str], Path]) -> None:
    folder = role("note('up'); sys.exit(3)")
    with running(folder, "deploy.supervise", "role", PARLEY_DATA="data") as supervisor:
        supervisor.wait_for("starting again in 0.8 s")
        supervisor.process.terminate()
        assert supervisor.ended() == 0


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="only Linux ends a child with its parent")
def test_a_role_dies_with_its_supervisor(role: Callable[[str], Path]) -> None:
    folder = role("AT_SIGTERM = lambda: None")
    with running(folder, "deploy.supervise", "role", PARLEY_DATA="data") as supervisor:
        wait_for_starts(folder, 1)
        pid = notes(folder, "up")[0][0]
        assert lives(pid)
        supervisor.process.kill()
        wait_until(lambda: not lives(pid), "the role is gone")


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="only Linux ends a child with its parent")
def test_under_honcho_a_supervisor_stops_in_order_when_honcho_is_gone(role: Callable[[str], Path]) -> None:
    folder = role("AT_SIGTERM = lambda: (note('finished'), sys.exit(0))")
    (folder / "parent.py").write_text(
        "import subprocess, sys\n"
        "subprocess.run([sys.executable, '-m', 'deploy.supervise', 'role'], start_new_session=True)\n"
    )
    with running(folder, "parent", PARLEY_DATA="data", HONCHO_PROCESS_NAME="role.1") as parent:
        wait_for_starts(folder, 1)
        parent.process.kill()
        wait_until(lambda: len(notes(folder, "finished")) == 1, "the role was asked to stop, and finished")
        wait_until(lambda: not lives(notes(folder, "up")[0][0]), "the role is gone")


def test_without_a_module_it_says_how_it_is_used(tmp_path: Path) -> None:
    with running(tmp_path, "deploy.supervise") as supervisor:
        assert supervisor.ended() == os.EX_USAGE
        assert supervisor.output.startswith("usage:")
