"""The garbage collector, told what is not garbage."""

from __future__ import annotations

import gc


def settle() -> None:
    """Call it once, when a process is set up: what lives now lives for good and is not looked at again.

    A full collection walks every object, and the modules and tables of a process are most of them: some ten
    milliseconds, in the middle of somebody's answer.
    """
    gc.collect()
    gc.freeze()
