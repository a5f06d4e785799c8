"""What a run shows, as people read it: a row for each fault, the verdicts below."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from tests.chaos.checker import Violation
from tests.chaos.history import History, Received, Sent, Struck
from tests.chaos.turns import ANSWER, ends

AFTER_S = 5.0
"""How long after a fault a pause may begin that is put down to it."""


COLUMNS = {
    "lost": {"lost-input", "lost-output", "no-ending"},
    "doubled": {"doubled", "two-endings"},
    "disordered": {"out-of-order", "crossed", "spliced"},
    "failed": {"failed-turn"},
}
"""The checks that are counted together."""


@dataclass
class _Row:
    times: int = 0
    stages: Counter[str] = field(default_factory=Counter)
    checks: Counter[str] = field(default_factory=Counter)
    pause_s: float = 0.0
    errors: int = 0


def table(history: History, violations: Sequence[Violation]) -> str:
    """A row for each fault: how often and where it hit, the longest pause of an answer, what became of turns.

    What came of a turn is put down to the last fault before its end. A pause is put down to the fault that is
    there when it begins, else to the first that strikes in it, else to the last one before it.
    """
    rows: defaultdict[str, _Row] = defaultdict(_Row)
    windows = list(_windows(history))
    for struck, _ in windows:
        row = rows[struck.fault]
        row.times += 1
        row.stages[struck.place.partition(":")[0]] += 1
    for begun_s, ended_s in _pauses(history):
        fault = _at_fault(windows, begun_s, ended_s)
        if fault is not None:
            rows[fault].pause_s = max(rows[fault].pause_s, ended_s - begun_s)
    ended: dict[tuple[str, int], float] = {}
    for message in history.of(Received):
        ended[message.conversation, message.turn] = message.at_s
        if message.kind == "error" and message.turn:
            rows[_before(windows, message.at_s)].errors += 1
    for violation in violations:
        at_s = ended.get((violation.conversation, violation.turn), math.inf)
        rows[_before(windows, at_s)].checks[violation.check] += 1
    width = max(map(len, rows), default=0)
    head = " ".join(f"{name:>{max(5, len(name))}}" for name in COLUMNS)
    lines = [f"{'fault':{width}} times  longest pause {head} errors  hit at"]
    return "\n".join([*lines, *(_line(f"{name:{width}}", rows[name]) for name in sorted(rows))])


def _line(name: str, row: _Row) -> str:
    counts = " ".join(
        f"{sum(row.checks[check] for check in checks):{max(5, len(column))}}"
        for column, checks in COLUMNS.items()
    )
    stages = ", ".join(f"{stage} {count}" for stage, count in row.stages.most_common())
    return f"{name} {row.times:5} {row.pause_s:12.2f} s {counts} {row.errors:6}  {stages}"


def _at_fault(windows: Sequence[tuple[Struck, float]], begun_s: float, ended_s: float) -> str | None:
    """The fault that a pause is put down to."""
    there = [struck for struck, over_s in windows if struck.at_s <= begun_s < over_s]
    within = [struck for struck, _ in windows if begun_s < struck.at_s <= ended_s]
    before = [struck for struck, over_s in windows if over_s <= begun_s < over_s + AFTER_S]
    return next((struck.fault for struck in (*there, *within, *reversed(before))), None)


def _before(windows: Sequence[tuple[Struck, float]], at_s: float) -> str:
    """The last fault that struck before."""
    return next((struck.fault for struck, _ in reversed(windows) if struck.at_s <= at_s), "(none)")


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
    """Each fault, and when it was over."""
    open_: dict[str, Struck] = {}
    for struck in history.of(Struck):
        if not struck.over:
            open_[struck.fault] = struck
        elif struck.fault in open_:
            yield open_.pop(struck.fault), struck.at_s


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
