"""Python imports this as it starts, where this folder is on its path: then its wall clock can be set.

`CHAOS_CLOCK` names a file of eight bytes, a double: by so many seconds the clock is wrong, from then on.
"""

from __future__ import annotations

import mmap
import os
import struct
import time

_TRUE, _TRUE_NS = time.time, time.time_ns

if clock := os.environ.get("CHAOS_CLOCK"):
    with open(clock, "rb") as file:
        _wrong_by = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)

    def _wrong_s() -> float:
        wrong_s: float = struct.unpack("d", _wrong_by[:8])[0]
        return wrong_s

    time.time = lambda: _TRUE() + _wrong_s()
    time.time_ns = lambda: _TRUE_NS() + int(_wrong_s() * 1e9)
