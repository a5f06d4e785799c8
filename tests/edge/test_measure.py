from __future__ import annotations

from edge.intake import Slice
from edge.measure import PIECE_BYTES, Measure
from shared.wire import Chunk

SECOND = bytes(range(250)) * 128


def measure(max_utterance_s: float) -> Measure:
    measure = Measure(max_utterance_s)
    measure.begin()
    return measure


def test_a_long_slice_becomes_several_entries() -> None:
    chunks = measure(60.0).entries(Slice(5, SECOND * 7))
    assert all(len(chunk.pcm) <= PIECE_BYTES for chunk in chunks)
    assert b"".join(chunk.pcm for chunk in chunks) == SECOND * 7
    assert [chunk.offset_samples for chunk in chunks] == [5 + i * PIECE_BYTES // 2 for i in range(4)]


def test_a_slice_of_nothing_becomes_no_entry() -> None:
    assert measure(60.0).entries(Slice(5, b"")) == []


def test_an_utterance_is_full_at_its_longest_and_takes_no_more() -> None:
    short = measure(0.1)
    assert short.entries(Slice(0, SECOND[:3198])) == [Chunk(0, SECOND[:3198])]
    assert (short.full, short.left_samples) == (False, 1)
    assert short.entries(Slice(1599, SECOND)) == [Chunk(1599, SECOND[:2])]
    assert short.full
    assert short.entries(Slice(1600, SECOND)) == []


def test_the_next_utterance_has_all_the_room_and_one_that_goes_on_what_is_left() -> None:
    short = measure(0.1)
    short.entries(Slice(0, SECOND))
    short.begin()
    assert short.left_samples == 1600
    short.begin(1500)
    assert short.left_samples == 100
    short.begin(2000)
    assert short.full
