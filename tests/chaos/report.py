"""What a run shows, as people read it: a row for each fault, the verdicts below."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from tests.chaos.checker import ANSWER, Violation, ends
from tests.chaos.history import History, Received, Sent, Struck

AFTER_S = 5.0
"""How long after a fault a pause is put down to it."""


@dataclass
class _Row:
    times: int = 0
    stages: Counter[str] = field(default_factory=Counter)
    pause_s: float = 0.0
    failed: int = 0


def table(history: History) -> str:
    """Fault, times, where it hit, the longest pause of an answer, turns that ended by an error."""
    rows: defaultdict[str, _Row] = defaultdict(_Row)
    windows = list(_windows(history))
    for struck, _ in windows:
        row = rows[struck.fault]
        row.times += 1
        row.stages[struck.place.partition(":")[0]] += 1
    for begun_s, ended_s in _pauses(history):
        for struck, over_s in windows:
            if begun_s <= over_s and struck.at_s <= ended_s:
                rows[struck.fault].pause_s = max(rows[struck.fault].pause_s, ended_s - begun_s)
    for message in history.of(Received):
        if message.kind == "error" and message.turn:
            hit = [struck.fault for struck, over_s in windows if struck.at_s <= message.at_s]
            if hit:
                rows[hit[-1]].failed += 1
    lines = [f"{'fault':22} {'times':>5} {'longest pause':>14} {'errors':>7}  hit at"]
    for name in sorted(rows):
        row = rows[name]
        stages = ", ".join(f"{stage} {count}" for stage, count in row.stages.most_common())
        lines.append(f"{name:22} {row.times:5} {row.pause_s:12.2f} s {row.failed:7}  {stages}")
    return "\n".join(lines)


def verdicts(history: History, violations: Sequence[Violation], deaths: Sequence[str]) -> str:
    """What was seen, and what of it was wrong."""
    said = {(each.conversation, each.turn) for each in history.of(Sent)}
    endings = Counter(each.kind for each in history.of(Received) if ends(each))
    found = Counter(violation.check for violation in violations)
    lines = [f"{len(said)} turns: " + ", ".join(f"{kind} {count}" for kind, count in endings.most_common())]
    if deaths:
        lines.append(f"ended by themselves: {', '.join(deaths)}")
    lines += [str(violation) for violation in violations]
    lines.append("violations: " + (", ".join(f"{name} {count}" for name, count in found.items()) or "none"))
    return "\n".join(lines)


def _windows(history: History) -> Iterator[tuple[Struck, float]]:
    open_: dict[str, Struck] = {}
    for struck in history.of(Struck):
        if not struck.over:
            open_[struck.fault] = struck
        elif struck.fault in open_:
            yield open_.pop(struck.fault), struck.at_s + AFTER_S


def _pauses(history: History) -> Iterator[tuple[float, float]]:
    """From the end of each utterance on, every stretch of its turn in which nothing came."""
    moments: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
    for event in history.events:
        match event:
            case Sent(kind="end" | "text"):
                moments[event.conversation, event.turn].append(event.at_s)
            case Received() if event.kind in ANSWER or ends(event):
                moments[event.conversation, event.turn].append(event.at_s)
    for at_s in moments.values():
        yield from pairwise(at_s)
