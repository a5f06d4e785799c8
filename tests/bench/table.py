"""Figures as people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median, quantiles

Summary = dict[str, float]


def summary(values: Sequence[float]) -> Summary:
    """Median, p99, least and most of the values, in their unit."""
    several = values if len(values) > 1 else [*values, *values]
    return {
        "p50": median(values),
        "p99": quantiles(several, n=100, method="inclusive")[98],
        "min": min(values),
        "max": max(values),
    }


def show(title: str, unit: str, rows: Mapping[str, Summary]) -> None:
    """Print a table, a row for each name."""
    width = max(len(name) for name in rows)
    print(f"\n{title} ({unit})\n{'':{width}}  {'p50':>9} {'p99':>9} {'min':>9} {'max':>9}")
    for name, row in rows.items():
        figures = " ".join(f"{row[key]:9.2f}" for key in ("p50", "p99", "min", "max"))
        print(f"{name:{width}}  {figures}")
