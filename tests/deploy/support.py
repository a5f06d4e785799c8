"""Processes to try the supervision on: started, watched and cleaned up."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
WITHIN_S = 30.0


def wait_until(holds: Callable[[], bool], what: str, within_s: float = WITHIN_S) -> None:
    """Return as soon as `holds()`; fail with `what` if it never does."""
    give_up_at = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < give_up_at, f"never came true: {what}"
        time.sleep(0.005)


def lives(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked about yet does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def descendants(pid: int) -> set[int]:
    """Every process below this one."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


OUTER = {"HONCHO_PROCESS_NAME", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
"""What a Honcho or a `make` that runs the tests leaves in the environment."""


class Running:
    """A command running as a process in a session of its own, its output in a file."""

    def __init__(
        self, command: Sequence[str], folder: Path, output: Path, environ: Mapping[str, str]
    ) -> None:
        self._output = output
        inherited = {name: value for name, value in os.environ.items() if name not in OUTER}
        with self._output.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env={**inherited, **environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.pid = self.process.pid

    @property
    def output(self) -> str:
        """What it has written."""
        return self._output.read_text()

    def ended(self) -> int:
        """Its exit code, once it has ended."""
        return self.process.wait(WITHIN_S)

    def wait_for(self, text: str) -> None:
        """Wait until it has written `text`."""
        wait_until(lambda: text in self.output, f"{text!r} in the output")


@contextmanager
def running(folder: Path, *words: str, **environ: str) -> Iterator[Running]:
    """Run `python -m words…` in `folder`, whose modules it can import; killed at the end if it still runs."""
    path = os.pathsep.join((str(folder), str(ROOT)))
    command = [sys.executable, "-m", *words]
    with ended_at_last(
        Running(command, folder, folder / f"output-{time.monotonic_ns()}", {"PYTHONPATH": path, **environ})
    ) as run:
        yield run


@contextmanager
def ended_at_last(run: Running) -> Iterator[Running]:
    """Kill it at the end of the block, if it still runs."""
    try:
        yield run
    finally:
        if run.process.poll() is None:
            run.process.kill()
            run.process.wait()
