"""Whose speech is next, on a clock that stands still until it is moved."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from workers.tts.engines.kokoro.desk import Desk


class Clock:
    """Shows what it was set to."""

    def __init__(self, now_s: float = 1000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


def drain(desk: Desk[str]) -> list[str]:
    """All that waits, in the order in which it is taken."""
    taken = []
    while (ticket := desk.take()) is not None:
        taken.append(ticket.work)
    return taken


def test_of_forty_later_chunks_and_one_first_the_first_is_next() -> None:
    clock = Clock(10.0)
    desk: Desk[str] = Desk(clock)
    for number in range(40):
        # Half of their listeners are in silence already, and have been for long.
        desk.put(f"later {number}", clock.now_s - 20 + number)
    desk.put("first", None)
    ticket = desk.take()
    assert ticket is not None and ticket.work == "first"
    assert drain(desk) == [f"later {number}" for number in range(40)]


def test_later_chunks_go_in_the_order_in_which_their_listeners_run_dry() -> None:
    desk: Desk[str] = Desk(Clock())
    for work, dry_at_s in (("c", 1003.0), ("a", 1000.5), ("d", 1010.0), ("b", 1001.0)):
        desk.put(work, dry_at_s)
    assert drain(desk) == ["a", "b", "c", "d"]


def test_first_chunks_go_in_the_order_in_which_they_came() -> None:
    desk: Desk[str] = Desk(Clock())
    for work in "dacb":
        desk.put(work, None)
    assert drain(desk) == list("dacb")


def test_one_that_comes_later_and_is_more_urgent_overtakes() -> None:
    desk: Desk[str] = Desk(Clock())
    desk.put("in ten seconds", 1010.0)
    desk.put("in nine", 1009.0)
    assert [ticket.work for ticket in [desk.take()] if ticket] == ["in nine"]
    desk.put("in one", 1001.0)
    assert drain(desk) == ["in one", "in ten seconds"]


def test_the_rest_of_a_first_chunk_waits_until_what_was_made_is_heard() -> None:
    clock = Clock()
    desk: Desk[str] = Desk(clock)
    desk.put("long", None)
    ticket = desk.take()
    assert ticket is not None
    clock.now_s += 2
    assert desk.put_back(ticket, made_s=5.0).dry_at_s == 1007.0
    desk.put("before it", 1006.9)
    desk.put("after it", 1007.1)
    assert drain(desk) == ["before it", "long", "after it"]


def test_the_rest_of_a_later_chunk_is_due_when_all_before_it_is_heard() -> None:
    clock = Clock()
    desk: Desk[str] = Desk(clock)
    ahead, late = desk.put("ahead", 1004.0), desk.put("late", 999.0)
    for _ in (ahead, late):
        desk.take()
    assert desk.put_back(ahead, made_s=3.0).dry_at_s == 1007.0
    assert desk.put_back(late, made_s=3.0).dry_at_s == 1003.0  # its listener hears it from now on


def test_what_nobody_wants_any_more_is_not_taken() -> None:
    desk: Desk[str] = Desk(Clock())
    dropped = desk.put("a", None)
    desk.put("b", 1.0)
    desk.drop(dropped)
    desk.drop(dropped)
    assert len(desk) == 1
    assert drain(desk) == ["b"]
    desk.drop(dropped)
    assert desk.take() is None


@given(st.lists(st.none() | st.floats(0, 100), max_size=50))
def test_nothing_is_lost_doubled_or_taken_before_what_is_more_urgent(dry_at_s: list[float | None]) -> None:
    desk: Desk[str] = Desk(Clock())
    for number, dry in enumerate(dry_at_s):
        desk.put(str(number), dry)
    taken = [dry_at_s[int(number)] for number in drain(desk)]
    firsts = sum(dry is None for dry in dry_at_s)
    assert taken[:firsts] == [None] * firsts
    assert taken[firsts:] == sorted(dry for dry in dry_at_s if dry is not None)
