from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.playout import KEPT_TURNS, Playout
from shared.wire import Address

LEAD_MS = 300.0
FRAME_MS = 100.0


def filled(count: int, *, turn: int = 1, paced: bool = True, lead_ms: float = LEAD_MS) -> Playout[str]:
    """A playout with that many frames of 100 ms in line, called `1-0`, `1-1` …"""
    playout: Playout[str] = Playout(lead_ms, paced=paced)
    add(playout, turn, range(count))
    return playout


def add(playout: Playout[str], turn: int, seqs: range) -> None:
    for seq in seqs:
        assert playout.push(Address(turn, seq), f"{turn}-{seq}", FRAME_MS)


def play(playout: Playout[str], now_ms: float) -> Iterator[tuple[float, str]]:
    """Every item with the time it leaves at, each taken at the moment it is due."""
    while (due_ms := playout.next_due_ms(now_ms)) is not None:
        now_ms = due_ms
        yield from ((now_ms, item) for item in playout.due(now_ms))


# ---- order and dedupe


def test_frames_leave_in_the_order_of_their_addresses() -> None:
    playout = filled(3, paced=False)
    add(playout, 2, range(2))
    assert playout.due(0.0) == ["1-0", "1-1", "1-2", "2-0", "2-1"]
    assert playout.due(1000.0) == []


def test_a_frame_that_was_there_before_is_dropped_and_so_is_one_from_before_it() -> None:
    playout = filled(3)
    assert not playout.push(Address(1, 2), "again", FRAME_MS)
    assert not playout.push(Address(1, 0), "again", FRAME_MS)
    assert not playout.push(Address(0, 9), "older", FRAME_MS)
    assert playout.frames == 3
    assert [item for _, item in play(playout, 0.0)] == ["1-0", "1-1", "1-2"]
    assert not playout.push(Address(1, 2), "again", FRAME_MS)


def test_addresses_may_have_holes_for_entries_that_are_no_frames() -> None:
    playout: Playout[str] = Playout(LEAD_MS, paced=False)
    assert playout.push(Address(1, 1), "a", FRAME_MS) and playout.push(Address(1, 5), "b", FRAME_MS)
    assert playout.due(0.0) == ["a", "b"]


# ---- pace


def test_paced_frames_leave_at_most_the_lead_ahead_of_real_time() -> None:
    times = [when for when, _ in play(filled(6), 1000.0)]
    assert times == [1000.0, 1000.0, 1000.0, 1100.0, 1200.0, 1300.0]


def test_without_pacing_everything_leaves_at_once() -> None:
    assert [when for when, _ in play(filled(6, paced=False), 1000.0)] == [1000.0] * 6


def test_without_a_lead_each_frame_leaves_when_the_one_before_it_was_heard() -> None:
    assert [when for when, _ in play(filled(4, lead_ms=0.0), 0.0)] == [0.0, 100.0, 200.0, 300.0]


def test_a_frame_longer_than_the_lead_leaves_when_the_listener_has_nothing_left() -> None:
    playout: Playout[str] = Playout(LEAD_MS)
    for seq in range(3):
        playout.push(Address(1, seq), str(seq), 1000.0)
    assert [when for when, _ in play(playout, 0.0)] == [0.0, 1000.0, 2000.0]


def test_a_caller_that_wakes_late_does_not_let_the_clock_drift() -> None:
    playout = filled(6)
    playout.due(0.0)
    assert playout.due(130.0) == ["1-3"]  # 30 ms late, and the listener still had 170 ms
    assert playout.next_due_ms(130.0) == 200.0
    assert playout.next_due_ms(250.0) == 250.0


def test_what_leaves_at_once_neither_waits_for_its_time_nor_is_waited_for() -> None:
    playout = filled(3)
    assert playout.push(Address(2, 0), "whole", 8000.0, at_once=True)
    add(playout, 3, range(4))
    assert playout.due(0.0) == ["1-0", "1-1", "1-2", "whole"]
    assert list(play(playout, 0.0)) == [(100.0, "3-0"), (200.0, "3-1"), (300.0, "3-2"), (400.0, "3-3")]
    # To be heard it needs its time all the same, behind what played when it left.
    assert [playout.heard_ms(2, now_ms) for now_ms in (300.0, 1300.0, 9000.0)] == [0.0, 1000.0, 8000.0]
    assert (playout.heard_out_ms(2, 400.0), playout.sounds_until_ms) == (8300.0, 8300.0)


def test_what_leaves_at_once_is_halted_and_flushed_like_the_rest() -> None:
    playout: Playout[str] = Playout(LEAD_MS)
    playout.push(Address(1, 0), "whole", 8000.0, at_once=True)
    playout.halt()
    assert (playout.due(0.0), playout.frames, playout.backlog_ms) == ([], 1, 8000.0)
    playout.go_on()
    assert playout.due(50.0) == ["whole"]
    playout.flush(1, 1050.0)
    assert (playout.heard_ms(1, 9000.0), playout.sounds_until_ms) == (1000.0, 1050.0)


def test_nothing_is_due_when_nothing_waits() -> None:
    playout: Playout[str] = Playout(LEAD_MS)
    assert playout.next_due_ms(5.0) is None
    assert playout.due(5.0) == []


def test_an_item_of_no_duration_leaves_right_behind_the_frames_before_it() -> None:
    playout = filled(5)
    playout.push(Address(1, 5), "end", 0.0)
    assert playout.frames == 5
    assert list(play(playout, 0.0))[-2:] == [(200.0, "1-4"), (200.0, "end")]
    assert playout.heard_ms(1, 10_000.0) == 500.0


def test_pacing_may_change_while_frames_wait() -> None:
    playout = filled(6)
    assert len(playout.due(0.0)) == 3
    playout.paced = False
    assert playout.next_due_ms(0.0) == 0.0
    assert playout.due(0.0) == ["1-3", "1-4", "1-5"]
    assert playout.heard_ms(1, 250.0) == 250.0


def test_the_backlog_is_the_speech_that_waits() -> None:
    playout = filled(5)
    assert (playout.backlog_ms, playout.frames) == (500.0, 5)
    playout.due(0.0)
    assert (playout.backlog_ms, playout.frames) == (200.0, 2)
    list(play(playout, 0.0))
    assert (playout.backlog_ms, playout.frames) == (0.0, 0)


# ---- what was heard


@pytest.mark.parametrize("paced", [True, False])
def test_what_has_left_is_heard_by_the_clock_and_not_before(paced: bool) -> None:
    playout = filled(3, paced=paced)
    playout.due(1000.0)
    heard = [playout.heard_ms(1, now_ms) for now_ms in (1000.0, 1050.0, 1299.0, 1300.0, 9000.0)]
    assert heard == [0.0, 50.0, 299.0, 300.0, 300.0]


def test_what_waits_is_not_heard_however_late_it_is() -> None:
    playout = filled(6)
    playout.due(0.0)
    assert playout.heard_ms(1, 5000.0) == 300.0


def test_after_an_underrun_the_clock_goes_on_from_the_late_frame() -> None:
    playout = filled(1)
    playout.due(0.0)
    add(playout, 1, range(1, 3))
    assert playout.due(500.0) == ["1-1", "1-2"]
    assert playout.heard_ms(1, 500.0) == 100.0
    assert playout.heard_ms(1, 550.0) == 150.0
    assert playout.heard_out_ms(1, 550.0) == 700.0


def test_turns_follow_each_other_on_one_clock() -> None:
    playout = filled(2, paced=False)
    add(playout, 2, range(2))
    playout.due(0.0)
    assert (playout.heard_ms(1, 250.0), playout.heard_ms(2, 250.0)) == (200.0, 50.0)
    assert (playout.heard_out_ms(1, 0.0), playout.heard_out_ms(2, 0.0)) == (200.0, 400.0)


def test_a_turn_is_finished_when_all_of_it_has_left_and_was_heard() -> None:
    playout = filled(4)
    playout.due(0.0)
    assert not playout.finished(1, 10_000.0)  # a frame still waits
    assert playout.heard_out_ms(1, 0.0) is None
    playout.due(100.0)
    assert not playout.finished(1, 399.0)
    assert playout.finished(1, 400.0)
    assert playout.heard_ms(1, 400.0) == 400.0


def test_a_turn_without_speech_is_finished_at_once() -> None:
    playout: Playout[str] = Playout(LEAD_MS)
    assert playout.finished(1, 5.0)
    playout.push(Address(1, 0), "end", 0.0)
    assert not playout.finished(1, 5.0)
    assert playout.due(5.0) == ["end"]
    assert playout.finished(1, 5.0)
    assert playout.heard_ms(1, 5.0) == 0.0


# ---- the client's own report


def test_a_report_puts_right_what_was_heard_and_the_clock_goes_on_from_it() -> None:
    playout = filled(3, paced=False)
    playout.due(0.0)
    assert playout.report(1, 50.0, 200.0)
    assert playout.heard_ms(1, 200.0) == 50.0
    assert playout.heard_ms(1, 300.0) == 150.0
    assert playout.heard_out_ms(1, 300.0) == 450.0
    assert playout.report(1, 280.0, 300.0)
    assert playout.heard_ms(1, 310.0) == 290.0


def test_a_report_is_never_believed_beyond_what_has_left() -> None:
    playout = filled(6)
    playout.due(0.0)
    assert playout.report(1, 86_400_000.0, 10.0)
    assert playout.heard_ms(1, 10.0) == 300.0
    assert playout.heard_ms(1, 10_000.0) == 300.0
    assert playout.due(100.0) == ["1-3"]
    assert playout.heard_ms(1, 10_000.0) == 400.0


def test_a_report_does_not_change_the_pace() -> None:
    playout = filled(6)
    playout.due(0.0)
    playout.report(1, 0.0, 90.0)
    assert playout.next_due_ms(90.0) == 100.0
    playout.report(1, 300.0, 95.0)
    assert playout.next_due_ms(95.0) == 100.0


def test_frames_that_leave_after_a_report_are_heard_after_those_before_it() -> None:
    playout = filled(4)
    playout.due(0.0)
    playout.report(1, 0.0, 90.0)  # the listener began 90 ms late: to be heard until 390
    playout.due(100.0)
    assert playout.heard_out_ms(1, 100.0) == 490.0


def test_a_report_on_an_unknown_turn_is_refused() -> None:
    assert not filled(1).report(2, 10.0, 0.0)
    assert filled(1).report(1, 10.0, 0.0)


# ---- flush


def test_a_flush_clears_what_waits_and_counts_its_frames() -> None:
    playout = filled(6)
    playout.push(Address(1, 6), "end", 0.0)
    playout.due(0.0)
    assert playout.flush(1, 50.0) == 3
    assert (playout.frames, playout.backlog_ms, playout.next_due_ms(50.0)) == (0, 0.0, None)
    assert playout.flush(1, 60.0) == 0


def test_what_was_not_heard_before_a_flush_is_never_heard() -> None:
    playout = filled(6)
    playout.due(0.0)
    playout.flush(1, 50.0)
    assert playout.heard_ms(1, 10_000.0) == 50.0
    assert playout.report(1, 300.0, 60.0)
    assert playout.heard_ms(1, 60.0) == 50.0
    assert playout.finished(1, 60.0)


def test_frames_of_a_flushed_turn_that_come_later_are_refused() -> None:
    playout = filled(2)
    playout.flush(1, 0.0)
    assert not playout.push(Address(1, 2), "late", FRAME_MS)
    assert playout.push(Address(2, 0), "2-0", FRAME_MS)
    assert playout.due(0.0) == ["2-0"]


def test_a_turn_can_be_flushed_before_its_first_frame() -> None:
    playout: Playout[str] = Playout(LEAD_MS)
    assert playout.flush(3, 0.0) == 0
    assert not playout.push(Address(3, 0), "late", FRAME_MS)
    assert not playout.push(Address(2, 0), "older", FRAME_MS)
    assert playout.push(Address(4, 0), "next", FRAME_MS)


def test_the_answer_after_a_flush_does_not_wait_for_what_was_cleared() -> None:
    playout = filled(6)
    playout.due(0.0)
    playout.flush(1, 50.0)
    add(playout, 2, range(4))
    assert playout.due(50.0) == ["2-0", "2-1", "2-2"]
    assert playout.heard_ms(2, 150.0) == 100.0


def test_a_flush_leaves_a_later_turn_as_it_is() -> None:
    playout = filled(2)
    add(playout, 2, range(3))
    assert playout.due(0.0) == ["1-0", "1-1", "2-0"]
    assert playout.flush(1, 250.0) == 0
    assert (playout.heard_ms(1, 250.0), playout.heard_ms(2, 250.0)) == (200.0, 50.0)
    assert (playout.frames, playout.backlog_ms, playout.next_due_ms(0.0)) == (2, 200.0, 100.0)


# ---- halts


def test_nothing_leaves_while_halted_and_what_has_left_plays_on() -> None:
    playout = filled(6)
    playout.due(0.0)
    playout.halt()
    assert playout.next_due_ms(100.0) is None
    assert playout.due(5000.0) == []
    assert (playout.frames, playout.backlog_ms) == (3, 300.0)
    assert [playout.heard_ms(1, now_ms) for now_ms in (100.0, 300.0, 5000.0)] == [100.0, 300.0, 300.0]


def test_without_pacing_too_nothing_leaves_while_halted() -> None:
    playout = filled(3, paced=False)
    playout.halt()
    assert playout.next_due_ms(0.0) is None
    assert playout.due(0.0) == []
    playout.go_on()
    assert playout.due(0.0) == ["1-0", "1-1", "1-2"]


def test_after_a_halt_all_goes_on_in_order_with_the_lead_that_it_had() -> None:
    playout = filled(8)
    playout.due(0.0)
    playout.halt()
    assert playout.due(1000.0) == []
    playout.go_on()
    assert playout.next_due_ms(1000.0) == 1000.0
    assert list(play(playout, 1000.0)) == [
        (1000.0, "1-3"),
        (1000.0, "1-4"),
        (1000.0, "1-5"),
        (1100.0, "1-6"),
        (1200.0, "1-7"),
    ]
    assert playout.heard_ms(1, 1000.0) == 300.0  # the listener missed 700 ms, and not a sample
    assert playout.heard_ms(1, 1250.0) == 550.0
    assert playout.heard_out_ms(1, 1250.0) == 1500.0


def test_a_halt_shorter_than_the_lead_is_not_heard() -> None:
    playout = filled(6)
    playout.due(0.0)
    playout.halt()
    assert playout.due(200.0) == []
    playout.go_on()
    assert playout.due(200.0) == ["1-3", "1-4"]
    assert playout.heard_ms(1, 450.0) == 450.0


def test_what_comes_during_a_halt_waits_behind_what_waits() -> None:
    playout = filled(1)
    playout.halt()
    add(playout, 1, range(1, 3))
    assert not playout.push(Address(1, 2), "again", FRAME_MS)
    assert playout.push(Address(1, 3), "end", 0.0)
    assert playout.due(0.0) == []
    playout.go_on()
    assert playout.due(0.0) == ["1-0", "1-1", "1-2", "end"]


def test_an_item_of_no_duration_alone_is_held_back_as_well() -> None:
    playout = filled(3)
    playout.due(0.0)
    playout.halt()
    assert playout.push(Address(1, 3), "end", 0.0)
    assert playout.due(50.0) == []
    assert playout.heard_out_ms(1, 9000.0) is None
    playout.go_on()
    assert playout.due(50.0) == ["end"]
    assert playout.heard_out_ms(1, 50.0) == 300.0


def test_an_answer_of_which_something_is_halted_is_not_heard_out() -> None:
    playout = filled(4)
    playout.due(0.0)
    playout.halt()
    assert playout.heard_out_ms(1, 9000.0) is None
    assert not playout.finished(1, 9000.0)


def test_a_flush_clears_what_is_halted_and_does_not_end_the_halt() -> None:
    playout = filled(6)
    playout.due(0.0)
    playout.halt()
    assert playout.flush(1, 50.0) == 3
    assert playout.heard_ms(1, 9000.0) == 50.0
    add(playout, 2, range(2))
    assert playout.due(100.0) == []
    playout.go_on()
    assert playout.due(100.0) == ["2-0", "2-1"]


def test_reports_and_held_frames_count_during_a_halt() -> None:
    playout: Playout[str] = Playout(LEAD_MS)
    playout.halt()
    assert playout.held(Address(1, 0), FRAME_MS, 0.0)
    assert playout.heard_ms(1, 0.0) == 100.0
    add(playout, 1, range(1, 4))
    playout.go_on()
    playout.due(0.0)
    playout.halt()
    assert playout.report(1, 150.0, 200.0)
    assert playout.heard_ms(1, 200.0) == 150.0
    assert playout.heard_ms(1, 9000.0) == 400.0


def test_halting_twice_is_halting_once_and_going_on_unhalted_changes_nothing() -> None:
    playout = filled(6)
    playout.go_on()
    playout.halt()
    playout.halt()
    playout.go_on()
    assert playout.due(0.0) == ["1-0", "1-1", "1-2"]
    assert playout.next_due_ms(0.0) == 100.0


def test_items_can_be_taken_one_at_a_time() -> None:
    playout = filled(4)
    assert [playout.due(0.0, at_most=1) for _ in range(4)] == [["1-0"], ["1-1"], ["1-2"], []]
    assert playout.due(100.0, at_most=0) == []
    assert playout.due(100.0, at_most=2) == ["1-3"]


# ---- what sounds at the listener's


def test_nothing_sounds_before_the_first_frame() -> None:
    assert filled(3).sounds_until_ms == float("-inf")


def test_it_sounds_until_all_that_has_left_was_heard() -> None:
    playout = filled(6)
    playout.due(0.0)
    assert playout.sounds_until_ms == 300.0
    playout.due(100.0)
    assert playout.sounds_until_ms == 400.0
    add(playout, 2, range(1))
    list(play(playout, 100.0))
    assert playout.sounds_until_ms == 700.0


def test_a_flush_silences_what_plays_and_moves_no_earlier_end() -> None:
    playout = filled(6)
    playout.due(0.0)
    playout.flush(1, 50.0)
    assert playout.sounds_until_ms == 50.0
    playout.flush(1, 900.0)
    assert playout.sounds_until_ms == 50.0


def test_a_report_says_how_long_it_will_sound_or_that_it_is_over() -> None:
    playout = filled(3)
    playout.due(0.0)
    playout.report(1, 50.0, 200.0)
    assert playout.sounds_until_ms == 450.0
    playout.report(1, 300.0, 400.0)
    assert playout.sounds_until_ms == 400.0
    playout.report(1, 300.0, 800.0)
    assert playout.sounds_until_ms == 400.0


# ---- after a resume


def test_frames_that_the_client_holds_count_as_heard_and_are_not_sent() -> None:
    playout: Playout[str] = Playout(LEAD_MS)
    assert playout.held(Address(1, 0), FRAME_MS, 0.0) and playout.held(Address(1, 1), FRAME_MS, 0.0)
    assert not playout.held(Address(1, 1), FRAME_MS, 0.0)
    assert not playout.push(Address(1, 1), "1-1", FRAME_MS)
    assert playout.heard_ms(1, 0.0) == 200.0
    assert playout.finished(1, 0.0)
    add(playout, 1, range(2, 3))
    assert playout.due(0.0) == ["1-2"]
    assert playout.heard_ms(1, 40.0) == 240.0


def hold(playout: Playout[str], frames: int, **how: bool) -> None:
    for seq in range(frames):
        assert playout.held(Address(1, seq), FRAME_MS, 1000.0, **how)


@pytest.mark.parametrize(("paced", "until_ms"), [(True, 1000.0 + LEAD_MS), (False, 1900.0)])
def test_what_the_client_holds_may_still_sound_for_as_long_as_it_can_be_behind(
    paced: bool, until_ms: float
) -> None:
    playout: Playout[str] = Playout(LEAD_MS, paced=paced)
    hold(playout, 9)
    assert playout.sounds_until_ms == until_ms
    assert playout.finished(1, 1000.0)
    assert playout.report(1, 850.0, 1100.0)
    assert playout.sounds_until_ms == 1150.0
    assert playout.report(1, 900.0, 1120.0)
    assert playout.sounds_until_ms == 1120.0


def test_less_than_the_lead_sounds_no_longer_than_it_is() -> None:
    playout: Playout[str] = Playout(LEAD_MS)
    hold(playout, 2)
    assert playout.sounds_until_ms == 1200.0


def test_what_left_in_one_piece_may_be_all_to_come_and_what_is_settled_is_silent() -> None:
    playout: Playout[str] = Playout(LEAD_MS)
    hold(playout, 9, settled=True)
    assert playout.sounds_until_ms == float("-inf")
    playout.held(Address(2, 0), 8000.0, 1000.0, at_once=True)
    assert playout.sounds_until_ms == 9000.0
    playout.flush(2, 1500.0)
    assert playout.sounds_until_ms == 1500.0


def test_how_far_old_turns_were_heard_is_forgotten() -> None:
    playout: Playout[str] = Playout(LEAD_MS, paced=False)
    for turn in range(1, KEPT_TURNS + 2):
        add(playout, turn, range(1))
        playout.due(0.0)
    assert playout.heard_ms(1, 10_000.0) == 0.0
    assert playout.heard_ms(2, 10_000.0) == FRAME_MS


def test_a_turn_of_which_frames_still_wait_is_not_forgotten() -> None:
    playout = filled(4, lead_ms=0.0)
    for turn in range(2, KEPT_TURNS + 3):
        add(playout, turn, range(1))
    assert [item for _, item in play(playout, 0.0)][:5] == ["1-0", "1-1", "1-2", "1-3", "2-0"]
    assert playout.heard_ms(1, 10_000.0) == 400.0


# ---- in general

durations = st.floats(1.0, 400.0, allow_nan=False)
arrivals = st.lists(st.tuples(st.integers(0, 2), durations, st.floats(0.0, 500.0)), min_size=1, max_size=40)


@given(arrivals=arrivals, lead_ms=st.floats(0.0, 1000.0), paced=st.booleans())
def test_every_frame_leaves_once_in_order_and_never_too_far_ahead(
    arrivals: list[tuple[int, float, float]], lead_ms: float, paced: bool
) -> None:
    """Frames of several turns come after pauses of any length; the caller wakes whenever something is due."""
    playout: Playout[tuple[Address, float]] = Playout(lead_ms, paced=paced)
    left: list[Address] = []
    pushed: list[Address] = []
    now_ms = plays_until_ms = 0.0
    turn = seq = 1

    def take(now_ms: float) -> None:
        nonlocal plays_until_ms
        for address, duration_ms in playout.due(now_ms):
            left.append(address)
            ahead_ms = max(plays_until_ms, now_ms) + duration_ms - now_ms
            if paced:
                assert ahead_ms <= max(lead_ms, duration_ms) + 1e-6
            plays_until_ms = now_ms + ahead_ms

    for turns_on, duration_ms, pause_ms in arrivals:
        later_ms = now_ms + pause_ms
        while (due_ms := playout.next_due_ms(now_ms)) is not None and due_ms <= later_ms:
            now_ms = due_ms
            take(now_ms)
        now_ms = later_ms
        turn, seq = turn + turns_on, seq + 1
        pushed.append(Address(turn, seq))
        assert playout.push(pushed[-1], (pushed[-1], duration_ms), duration_ms)
        take(now_ms)
    while (due_ms := playout.next_due_ms(now_ms)) is not None:
        now_ms = due_ms
        take(now_ms)
    assert left == pushed
    assert playout.backlog_ms == playout.frames == 0
    assert playout.heard_out_ms(turn, now_ms) == pytest.approx(max(now_ms, plays_until_ms))
    total_ms = sum(duration_ms for turns_on, duration_ms, _ in _last_turn(arrivals))
    assert playout.heard_ms(turn, plays_until_ms + 1e-6) == pytest.approx(total_ms)


def _last_turn(arrivals: list[tuple[int, float, float]]) -> list[tuple[int, float, float]]:
    begins = max((place for place, (turns_on, *_) in enumerate(arrivals) if turns_on), default=0)
    return arrivals[begins:]


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["push", "due", "report", "flush"]), st.floats(0.0, 400.0)), max_size=60
    )
)
def test_what_was_heard_never_exceeds_what_has_left(steps: list[tuple[str, float]]) -> None:
    playout: Playout[float] = Playout(LEAD_MS)
    turn, seq, now_ms, left_ms = 1, 0, 0.0, 0.0
    for step, value in steps:
        if step == "push":
            seq += 1
            assert playout.push(Address(turn, seq), value, value)
        elif step == "due":
            now_ms += value
            left_ms += sum(playout.due(now_ms))
        elif step == "report":
            playout.report(turn, value, now_ms)
        else:
            before_ms = playout.heard_ms(turn, now_ms)
            playout.flush(turn, now_ms)
            assert playout.heard_ms(turn, now_ms + value) == before_ms
            turn, seq, left_ms = turn + 1, 0, 0.0
        heard = [playout.heard_ms(turn, now_ms + later_ms) for later_ms in (0.0, 1.0, 50.0, 500.0)]
        assert heard == sorted(heard)
        assert -1e-6 <= heard[0] and heard[-1] <= left_ms + 1e-6


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["push", "end", "wait", "wait", "halt", "go on", "flush", "report", "pace"]),
            st.floats(0.0, 400.0),
        ),
        max_size=80,
    )
)
def test_whatever_is_halted_every_item_leaves_once_and_in_order(steps: list[tuple[str, float]]) -> None:
    """The caller wakes whenever something is due; in between anything may happen."""
    playout: Playout[tuple[Address, float]] = Playout(LEAD_MS)
    expected: list[Address] = []
    left: list[Address] = []
    left_ms: dict[int, float] = {}
    heard_ms = 0.0
    halted = False
    turn, seq, now_ms = 1, 0, 0.0

    def take() -> None:
        leaving = playout.due(now_ms)
        assert not (halted and leaving)
        for address, duration_ms in leaving:
            left.append(address)
            left_ms[address.turn] = left_ms.get(address.turn, 0.0) + duration_ms

    def wait(upto_ms: float) -> None:
        nonlocal now_ms
        while (due_ms := playout.next_due_ms(now_ms)) is not None and due_ms <= upto_ms:
            assert not halted
            now_ms = due_ms
            take()
        now_ms = upto_ms
        take()

    for step, value in steps:
        match step:
            case "push" | "end":
                seq += 1
                duration_ms = value if step == "push" else 0.0
                assert playout.push(Address(turn, seq), (Address(turn, seq), duration_ms), duration_ms)
                expected.append(Address(turn, seq))
            case "wait":
                wait(now_ms + value)
            case "halt":
                halted = True
                playout.halt()
            case "go on":
                halted = False
                playout.go_on()
            case "flush":
                take()
                before_ms = playout.heard_ms(turn, now_ms)
                playout.flush(turn, now_ms)
                assert playout.heard_ms(turn, now_ms + value) == before_ms
                expected = list(left)
                turn, seq, heard_ms = turn + 1, 0, 0.0
            case "report":
                playout.report(turn, value, now_ms)
                heard_ms = min(heard_ms, playout.heard_ms(turn, now_ms))  # only a report may take it back
            case "pace":
                playout.paced = not playout.paced
        assert left == expected[: len(left)]
        before_ms, heard_ms = heard_ms, playout.heard_ms(turn, now_ms)
        assert before_ms - 1e-6 <= heard_ms <= left_ms.get(turn, 0.0) + 1e-6
        waits = sum(1 for address in expected[len(left) :] if address.turn == turn)
        assert waits == 0 or playout.heard_out_ms(turn, now_ms) is None
    halted = False
    playout.go_on()
    while (due_ms := playout.next_due_ms(now_ms)) is not None:
        wait(due_ms)
    assert left == expected
    assert playout.backlog_ms == playout.frames == 0
    end_ms = playout.heard_out_ms(turn, now_ms)
    assert end_ms is not None
    assert playout.heard_ms(turn, end_ms + 1e-6) == pytest.approx(left_ms.get(turn, 0.0))
