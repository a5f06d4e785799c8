"""A child process that does not outlive its parent.

On Linux the kernel sees to it (`PR_SET_PDEATHSIG`), however the parent dies. Elsewhere there is no such
thing: a child is then stopped by an orderly end of its parent only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import IO

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def start(
    command: Sequence[str],
    *,
    death_signal: signal.Signals = signal.SIGKILL,
    environ: Mapping[str, str] | None = None,
    output: IO[bytes] | None = None,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start `command`; it gets `death_signal` when the calling thread ends (the main thread: the process).

    The child leads a session of its own, so a Ctrl-C in the terminal reaches the parent alone and there is
    one orderly stop, not two. `output` takes its stdout and stderr; without it they are the parent's.
    """
    return subprocess.Popen(
        command,
        env=None if environ is None else dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=pass_fds,
        start_new_session=True,
        preexec_fn=partial(_die_with_parent, os.getpid(), death_signal),
    )


def end_with_parent(death_signal: signal.Signals) -> None:
    """Have this process sent `death_signal` when its parent ends; at once, if it has ended already."""
    parent = os.getppid()
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:
            os.kill(os.getpid(), death_signal)


def describe_end(returncode: int) -> str:
    """How a process ended, in words."""
    if returncode >= 0:
        return f"ended with exit code {returncode}"
    try:
        return f"was killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was killed by signal {-returncode}"


def exit_code(returncode: int) -> int:
    """A child's end as this process's own exit code, as shells have it."""
    return returncode if returncode >= 0 else 128 - returncode


def _die_with_parent(parent: int, death_signal: signal.Signals) -> None:
    """Runs in the child, between fork and exec; the request outlives the exec."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:  # it died before the request: nothing would come any more
            os._exit(1)
