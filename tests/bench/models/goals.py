"""What is aimed at, and where: a number is held against a goal only where the goal was meant for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Goal:
    """`path`: where the number stands among the figures of a run; `least`: it should be at least `bound`."""

    what: str
    path: tuple[str, ...]
    bound: float
    unit: str
    least: bool = False
    size: str = "full"
    device: str = "cuda"

    def judge(self, figures: Mapping[str, Any]) -> dict[str, Any]:
        """The goal beside what was measured; `met` is None where it was not."""
        value = at(figures, self.path)
        met = None if value is None else (value >= self.bound if self.least else value <= self.bound)
        bound = "at_least" if self.least else "at_most"
        return {"goal": self.what, bound: self.bound, "unit": self.unit, "measured": value, "met": met}


_ONE, _MANY = ("pipeline", "one"), ("pipeline", "many")

GOALS = (
    Goal("first token, one conversation, whole pipeline, p50", (*_ONE, "first_token_ms", "p50"), 50, "ms"),
    Goal("first audio, one conversation, whole pipeline, p50", (*_ONE, "first_audio_ms", "p50"), 120, "ms"),
    Goal("a token, alone, p50", ("batch", "token_ms", "1", "p50"), 6, "ms"),
    Goal("a token, 32 in the batch, p50", ("batch", "token_ms", "32", "p50"), 15, "ms"),
    Goal("first audio, 32 conversations, p95", (*_MANY, "first_audio_ms", "p95"), 250, "ms"),
    Goal(
        "8 in a batch against one after the other, tokens/s",
        ("batch", "race", "times_alone"),
        4,
        "times",
        least=True,
        size="tiny",
        device="cpu",
    ),
)
"""Those in milliseconds are for an H200 in bfloat16."""


def at(figures: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    """What stands there; None where nothing does."""
    value: Any = figures
    for name in path:
        if not isinstance(value, Mapping) or name not in value:
            return None
        value = value[name]
    return value
