"""The table of a run: what came of a turn stands in the row of the fault before its end."""

from __future__ import annotations

import pytest

from tests.chaos.checker import Violation
from tests.chaos.history import History, Received, Sent, Struck
from tests.chaos.report import table, verdicts

CONVERSATION = "0123456789abcdef"


def history() -> History:
    """Two faults, and a turn that waits for a token through the second and ends by an error."""
    return History(
        [
            Struck(1.0, "kill-llm", "audio:1-4"),
            Struck(1.0, "kill-llm", "audio:1-4", over=True),
            Sent(20.0, CONVERSATION, "client-1", 2, "text"),
            Received(20.5, CONVERSATION, "token_chunk", 2, "text:2-1", 0, "Heard"),
            Struck(21.0, "flush-all", "text:2-1", fails=True),
            Struck(21.0, "flush-all", "text:2-1", over=True, fails=True),
            Received(24.0, CONVERSATION, "error", 2, "text:2-2", None, "engine_failed"),
        ]
    )


def test_what_came_of_a_turn_is_put_down_to_the_last_fault_before_its_end() -> None:
    lost = Violation("lost-output", CONVERSATION, 2, "12 to 13 is missing")
    head, flushed, killed = (line.split() for line in table(history(), [lost]).splitlines())
    assert head[:4] == ["fault", "times", "longest", "pause"]
    assert flushed == ["flush-all", "1", "3.50", "s", "1", "0", "0", "0", "1", "text", "1"]
    assert killed == ["kill-llm", "1", "0.00", "s", "0", "0", "0", "0", "0", "audio", "1"]


@pytest.mark.parametrize(
    ("pause", "fault"),
    [
        ((9.0, 9.5), None),
        ((9.0, 11.0), "freeze-redis"),
        ((11.0, 21.0), "freeze-redis"),
        ((18.5, 20.5), "kill-llm"),
        ((22.0, 23.0), "kill-llm"),
        ((26.0, 27.0), None),
    ],
)
def test_a_pause_is_put_down_to_one_fault(pause: tuple[float, float], fault: str | None) -> None:
    said, heard = pause
    told = History(
        [
            Struck(10.0, "freeze-redis", "nowhere"),
            Struck(18.0, "freeze-redis", "nowhere", over=True),
            Struck(20.0, "kill-llm", "nowhere"),
            Struck(20.0, "kill-llm", "nowhere", over=True),
            Sent(said, CONVERSATION, "client-1", 1, "text"),
            Received(heard, CONVERSATION, "token_chunk", 1, "text:1-1", 0, "Heard"),
        ]
    )
    rows = {line.split()[0]: float(line.split()[2]) for line in table(told, []).splitlines()[1:]}
    assert rows == {name: (heard - said if name == fault else 0.0) for name in ("freeze-redis", "kill-llm")}


def test_the_verdicts_say_how_turns_ended_and_what_was_wrong() -> None:
    lost = Violation("lost-output", CONVERSATION, 2, "12 to 13 is missing")
    assert verdicts(history(), [lost], ["jobs.1.log"]).splitlines() == [
        "1 turns: error 1",
        "ended by themselves: jobs.1.log",
        f"lost-output in turn 2 of {CONVERSATION}: 12 to 13 is missing",
        "violations: lost-output 1",
    ]
    assert verdicts(history(), [], []).endswith("violations: none")
