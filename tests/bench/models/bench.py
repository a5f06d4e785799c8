"""What every section is given, and where it puts its figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.bench.models.budget import Budget
from tests.bench.models.models import Models
from tests.bench.models.plan import Plan

Figures = dict[str, Any]
"""What a section found, as it goes into the JSON."""


@dataclass(slots=True)
class Bench:
    """One plan being carried out."""

    plan: Plan
    models: Models
    budget: Budget
    figures: dict[str, Figures] = field(default_factory=dict)
    """Of each section that has ended."""
    left_out: list[str] = field(default_factory=list)

    def say(self, line: str) -> None:
        """A line of progress."""
        print(f"[{self.budget.spent_s:5.0f} s] {line}", flush=True)

    def time_for(self, what: str, need_s: float) -> bool:
        """Whether there is time for what takes about so long; if not, it counts as left out."""
        if need_s <= self.budget.left_s:
            self.say(what)
            return True
        self.leave_out(f"{what}: no time ({need_s:.0f} s of {max(0.0, self.budget.left_s):.0f} s left)")
        return False

    def leave_out(self, what: str) -> None:
        """Say, here and in the report, what is not measured, and why."""
        self.left_out.append(what)
        self.say(f"left out: {what}")
