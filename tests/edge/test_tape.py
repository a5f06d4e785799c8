from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge.intake import Slice
from edge.tape import Tape


def pcm(start: int, end: int) -> bytes:
    """Samples that say where they lie."""
    return np.arange(start, end).astype("<i2").tobytes()


def test_what_is_asked_for_is_there_as_far_as_it_was_kept() -> None:
    tape = Tape(100)
    tape.add(pcm(100, 150))
    tape.add(pcm(150, 200))
    assert (tape.start, tape.end) == (100, 200)
    assert tape.between(120, 160) == Slice(120, pcm(120, 160))
    assert tape.between(0, 160) == Slice(100, pcm(100, 160))
    assert tape.between(150, 900) == Slice(150, pcm(150, 200))
    assert tape.between(150, 150) == tape.between(150, 40) == Slice(150, b"")
    tape.forget(130)
    assert tape.between(120, 160) == Slice(130, pcm(130, 160))


def test_what_was_forgotten_does_not_come_back() -> None:
    tape = Tape(0)
    tape.add(pcm(0, 50))
    tape.forget(30)
    tape.forget(10)
    assert (tape.start, tape.end) == (30, 50)
    tape.forget(900)
    assert (tape.start, tape.end) == (50, 50)


def test_after_a_restart_nothing_is_left() -> None:
    tape = Tape(0)
    tape.add(pcm(0, 50))
    tape.restart(400)
    assert (tape.start, tape.end) == (400, 400)
    assert tape.between(0, 900) == Slice(400, b"")


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 3000)), max_size=20))
def test_places_are_right_however_it_is_filled_and_emptied(steps: list[tuple[int, int]]) -> None:
    tape = Tape(0)
    for samples, forgotten in steps:
        tape.add(pcm(tape.end, tape.end + samples))
        tape.forget(min(forgotten, tape.end))
        assert tape.between(0, tape.end) == Slice(tape.start, pcm(tape.start, tape.end))
