"""The pulse tells a loop that hangs from a process that was stopped and woken."""

from __future__ import annotations

import pytest

from workers.pulse import ALARM_S, AWAKE_S, Pulse


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def _look(pulse: Pulse, clock: Clock, after_s: float) -> float:
    clock.now_s += after_s
    return pulse.silent_s()


def test_a_loop_that_beats_is_never_silent() -> None:
    clock = Clock()
    pulse = Pulse(clock)
    for _ in range(10):
        pulse.beat()
        assert _look(pulse, clock, 0.5) == 0


def test_silence_adds_up_until_the_next_beat() -> None:
    clock = Clock()
    pulse = Pulse(clock)
    assert [_look(pulse, clock, 0.5) for _ in range(4)] == [0.5, 1.0, 1.5, 2.0]
    pulse.beat()
    assert _look(pulse, clock, 0.5) == 0
    assert _look(pulse, clock, 0.5) == 0.5


def test_a_long_silence_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    pulse = Pulse(clock)
    while _look(pulse, clock, 0.5) <= 2 * ALARM_S:
        pass
    assert [record.getMessage() for record in caplog.records] == [
        f"the event loop has made no pass for {ALARM_S + 0.5:.1f} s"
    ]


def test_a_process_that_was_stopped_has_not_hung() -> None:
    clock = Clock()
    pulse = Pulse(clock)
    pulse.beat()
    _look(pulse, clock, 0.5)
    assert _look(pulse, clock, 3600.0) == AWAKE_S
    pulse.beat()
    assert _look(pulse, clock, 0.5) == 0
