"""The garbage collector, told what is not garbage."""

from __future__ import annotations

import gc

THRESHOLDS = (2_000, 10, 15)
"""Of the three generations: all is looked at when 300,000 objects have been added, and not after 70,000 as by
Python's own (700, 10, 10), which are soon together where sockets come and go."""


def settle() -> None:
    """Call it once, when a process is set up: what lives now lives for good and is not looked at again.

    A full collection walks every object, and the modules and tables of a process are most of them: some ten
    milliseconds, in the middle of somebody's answer. Those that come later are walked less often.
    """
    gc.set_threshold(*THRESHOLDS)
    gc.collect()
    gc.freeze()
