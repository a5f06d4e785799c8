"""Thousands of random schedules: the Functions hold, and with one rule taken out the schedules find a fault.

`PARLEY_SCHEDULES` says how many to play on each server.
"""

from __future__ import annotations

import os
import re
from itertools import islice

import pytest

from shared.store import libraries
from tests.raw import Raw
from tests.shared.calls import Functions
from tests.shared.schedules import faults

SCHEDULES = int(os.environ.get("PARLEY_SCHEDULES", "2000"))
CONTROL_SCHEDULES = 20_000

MUTANT = Functions("parley_append_mutant", "parley_take_mutant", "parley_close_mutant")

WITHOUT = {
    "the tail's owner": (
        "last.writer ~= writer or seq <= last.seq",
        "seq <= last.seq",
        "spliced",
    ),
    "one take a tag": ("if has_written(key, turn, writer)", "if false", "spliced"),
    "the gap": ("seq > last.seq + 1", "false", "hole"),
    "the gap at the start": ("if seq > 0 then", "if false then", "begins with"),
    "the payload of a duplicate": ("not is_same(found[i][2], writer, entry)", "false", "acknowledged"),
    "the bounds of a duplicate": ("{ 'DUP', next_seq }", "{ 'DUP', last.seq + 1 }", "acknowledged"),
    "the end of the turn before": ("if not last.final then", "if false then", "not final"),
    "the end, for takes": (
        "    if last.final then\n      return { 'CLOSED', 0 }\n    end\n    if last.writer == writer",
        "    if last.writer == writer",
        "stands after",
    ),
    "the one closing": ("last.kind == 'closed'", "false", "stands after closed"),
}
"""Rules that can be taken out of the library: what to replace by what, and the fault that must be found."""


def mutant(rule: str) -> str:
    """The library's source without one rule, under other names."""
    (source,) = (each for each in libraries() if "parley_log_2" in each)
    before, after, _ = WITHOUT[rule]
    assert before in source, f"the library has changed: {before!r} is not in it"
    return re.sub(
        r"parley_(log|append|take|close|trim)_2", r"parley_\1_mutant", source.replace(before, after)
    )


@pytest.mark.timeout(60 + SCHEDULES // 20)
def test_no_schedule_breaks_a_story(raw: Raw) -> None:
    found = [f"seed {seed}: {fault}" for seed, fault in islice(faults(raw, range(SCHEDULES)), 5)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("rule", WITHOUT)
def test_a_broken_story_is_found_without(rule: str, embedded: Raw) -> None:
    embedded.ask("FUNCTION", "LOAD", mutant(rule))
    expected = WITHOUT[rule][2]
    found = faults(embedded, range(CONTROL_SCHEDULES), MUTANT)
    assert any(expected in str(fault) for _, fault in found), f"{expected!r} was never found"
