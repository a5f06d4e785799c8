from __future__ import annotations

import pytest

from edge.retention import PAST_AUDIO_TURNS, PAST_SPEECH_TURNS, PAST_TEXT_TURNS, Retention
from shared.wire import Chunk, Log, Open, UtteranceEnd

SECOND = 16_000


def after(*seconds: float, silence_s: float = 0.0) -> Retention:
    """What is known after utterances of these lengths, with so much other input between them."""
    retention, place = Retention(), 0
    for turn, length_s in enumerate(seconds, 1):
        place += int(silence_s * SECOND)
        retention.note(turn, Open())
        if length_s:
            retention.note(turn, Chunk(place, b""))
            retention.note(turn, Chunk(place + 320, b""))
        place += int(length_s * SECOND)
        retention.note(turn, UtteranceEnd("client", place))
    return retention


@pytest.mark.parametrize(
    ("seconds", "audio_s", "first"),
    [
        ((), 10, 1),
        ((4,), 10, 1),
        ((4, 3, 3), 10, 1),
        ((4, 3, 3.1), 10, 2),
        ((11,), 10, 2),
        ((11, 1), 10, 2),
        ((1, 11, 1), 10, 3),
        ((4, 0, 0, 3), 10, 1),
        ((1, 1, 1), 0, 4),
        ((1, 0, 0), 0, 2),
    ],
)
def test_audio_keeps_as_many_past_turns_as_hold_the_seconds(
    seconds: tuple[float, ...], audio_s: float, first: int
) -> None:
    assert after(*seconds).first_turns(len(seconds) + 1, audio_s)[Log.AUDIO] == first


def test_input_between_utterances_is_not_counted() -> None:
    assert after(3, 3, 3, silence_s=60).first_turns(4, 10)[Log.AUDIO] == 1


def test_a_turn_of_which_nothing_is_known_is_rather_kept() -> None:
    retention = after(3, 3)
    retention.note(4, Chunk(1000, b""))
    assert retention.first_turns(5, 6)[Log.AUDIO] == 1


def test_every_log_is_bounded_in_turns_too() -> None:
    retention = Retention()
    turn = 1000
    assert retention.first_turns(turn, 120) == {
        Log.AUDIO: turn - PAST_AUDIO_TURNS,
        Log.TEXT: turn - PAST_TEXT_TURNS,
        Log.SPEECH: turn - PAST_SPEECH_TURNS,
    }
    assert set(retention.first_turns(1, 120).values()) == {1}


def test_text_reaches_back_as_far_as_audio_and_farther() -> None:
    assert PAST_TEXT_TURNS > PAST_AUDIO_TURNS


def test_asking_again_gives_the_same_answer_and_later_turns_never_less() -> None:
    retention = after(*[2.5] * 30)
    firsts = [retention.first_turns(turn, 10)[Log.AUDIO] for turn in range(1, 32) for _ in range(2)]
    assert firsts[::2] == firsts[1::2] == sorted(firsts[::2])
    assert firsts[-1] == 27
