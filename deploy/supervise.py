"""The process in front of each role: it starts the role again when it dies, and stops it when asked to.

`python -m deploy.supervise workers.llm` runs `python -m workers.llm`. A role that dies is up again within a
second; one that ends with `EX_CONFIG` has a bad setting, and takes its supervisor with it. SIGTERM and SIGINT
become one SIGTERM to the role, which then has `DRAIN_S` to finish. Knows nothing of what a role does.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from deploy import child
from deploy.names import WorkerName
from deploy.wakeups import Wakeups
from shared import logs, settings
from shared.settings import EX_CONFIG

logger = logging.getLogger(__name__)

KILL_MARGIN_S = 0.5
"""How much longer than `DRAIN_S` a role may take to end: with `DRAIN_S=3` less than the 5 s Honcho gives."""


class Backoff:
    """How long to wait before a process is started again: hardly, but longer while it keeps dying."""

    SHORTEST_S = 0.1
    LONGEST_S = 0.8
    CALM_S = 10.0
    """A process that has lived as long as this is not in a crash loop."""

    def __init__(self) -> None:
        self._next_s = self.SHORTEST_S

    def after(self, lived_s: float) -> float:
        """Seconds to wait, after a process that lived for `lived_s`."""
        if lived_s >= self.CALM_S:
            self._next_s = self.SHORTEST_S
        pause_s, self._next_s = self._next_s, min(self._next_s * 2, self.LONGEST_S)
        return pause_s


def supervise(command: Sequence[str], environ: Mapping[str, str], drain_s: float) -> int:
    """Keep `command` running until this process is asked to stop. Returns the exit code for it."""
    backoff = Backoff()
    with Wakeups() as wakeups:
        while not wakeups.stopping:
            role = child.start(command, environ=environ)
            started_at = time.monotonic()
            while role.poll() is None:
                wakeups.wait()
                if wakeups.stopping:
                    return _stop(role, wakeups, drain_s)
            if role.returncode == EX_CONFIG:
                return EX_CONFIG
            lived_s = time.monotonic() - started_at
            pause_s = backoff.after(lived_s)
            how = child.describe_end(role.returncode)
            logger.warning("%s after %.1f s; starting again in %.1f s", how, lived_s, pause_s)
            wakeups.pause(pause_s)
    return 0


def _stop(role: subprocess.Popen[bytes], wakeups: Wakeups, drain_s: float) -> int:
    role.terminate()
    until = time.monotonic() + drain_s + KILL_MARGIN_S
    while role.poll() is None and not wakeups.hurried and (left := until - time.monotonic()) > 0:
        wakeups.wait(left)
    if role.poll() is None:
        logger.warning("killed: it had not ended %.1f s after SIGTERM", drain_s + KILL_MARGIN_S)
        role.kill()
    return 0 if role.wait() == -signal.SIGTERM else child.exit_code(role.returncode)


def main(arguments: Sequence[str]) -> int:
    """The command line: one module, whose name's last part is the role's."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m deploy.supervise MODULE\n")
        return os.EX_USAGE
    module = arguments[0]
    process = os.environ.get("HONCHO_PROCESS_NAME")
    if process:
        child.end_with_parent(signal.SIGTERM)  # Honcho does not stop us when its terminal goes away
    configured = settings.load()
    role = module.rpartition(".")[2]
    logs.configure(configured.log_level, role)
    with WorkerName(configured, role, process) as name:
        environ = {**os.environ, "WORKER_NAME": str(name)}
        return supervise([sys.executable, "-m", module], environ, configured.drain_s)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
