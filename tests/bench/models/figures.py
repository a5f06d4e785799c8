"""Many values as the few numbers that are reported of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

Spread = dict[str, float]
"""`p50`, `p95`, `p99`, `min`, `max` in the unit of the values, and `n`, how many they were."""

DIGITS = 4
"""Kept of a number in a file."""


def spread(values: Sequence[float]) -> Spread:
    """The spread of at least one value."""
    return {
        "p50": short(median(values)),
        "p95": short(percentile(values, 95)),
        "p99": short(percentile(values, 99)),
        "min": short(min(values)),
        "max": short(max(values)),
        "n": len(values),
    }


def percentile(values: Sequence[float], percent: float) -> float:
    """Between the two values that lie around that place of their order."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def short(value: float) -> float:
    """With so many digits as mean something."""
    return float(f"{value:.{DIGITS}g}")
