"""The faults that matter most, some times each, and each broken rule; `make chaos` has all of them."""

from __future__ import annotations

from functools import partial

import pytest

from tests.chaos import campaign, controls, report

pytestmark = pytest.mark.timeout(300)

FAULTS = {
    "kill-llm": 2,
    "kill-tts": 2,
    "kill-edge": 2,
    "kill-redis": 1,
    "lose-redis-tail": 2,
    "lose-reply": 2,
    "stop-llm": 1,
}


async def test_no_word_is_lost_whatever_is_broken() -> None:
    faults = partial(campaign.by_count, FAULTS)
    outcome = await campaign.run(faults, seed=7, conversations=3, tell=print)
    assert not outcome.violations, report.verdicts(outcome.history, outcome.violations, outcome.deaths)


@pytest.mark.parametrize("broken", [True, False], ids=["broken", "whole"])
@pytest.mark.parametrize("control", controls.CONTROLS, ids=lambda control: control.rule)
async def test_a_rule_that_is_broken_is_noticed_and_named(control: controls.Control, broken: bool) -> None:
    outcome = await controls.run(control, broken=broken)
    if broken:
        assert controls.verdict(control, outcome) is None
    else:
        assert not outcome.violations
