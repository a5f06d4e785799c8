from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deploy.cli.waterfall import Step, waterfall


def test_each_bar_begins_where_the_one_before_it_ended() -> None:
    steps = [
        Step("first token", 100.0, 99.6),
        Step("first word", 150.0, 149.7),
        Step("first audio", 200.0, 198.2),
        Step("last frame", 400.0),
    ]
    assert waterfall(steps, blocks=False) == [
        "first token  ##########                                100 ms        server 100 ms",
        "first word             #####                           150 ms   +50  server 150 ms",
        "first audio                 #####                      200 ms   +50  server 198 ms",
        "last frame                       ####################  400 ms  +200",
    ]


def test_what_did_not_happen_is_left_out() -> None:
    (line,) = waterfall([Step("first token", 80.0), Step("first audio", None)])
    assert line.startswith("first token  █")
    assert waterfall([Step("first token", None)]) == []


def test_what_took_no_time_is_still_seen() -> None:
    lines = waterfall([Step("first token", 0.0), Step("first audio", 10_000.0), Step("last", 10_001.0)])
    assert all("█" in line for line in lines)


def test_a_turn_of_no_time_at_all_has_a_waterfall_too() -> None:
    assert len(waterfall([Step("first token", 0.0), Step("first word", 0.0)])) == 2


@given(
    st.lists(st.one_of(st.none(), st.floats(0, 1e6)), max_size=6),
    st.integers(60, 200),
)
def test_lines_are_as_long_as_allowed_at_the_most(moments: list[float | None], width: int) -> None:
    lines = waterfall([Step("first token", ms) for ms in moments], width=width)
    assert len(lines) == sum(ms is not None for ms in moments)
    assert all(len(line) <= width for line in lines)
