from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from deploy.cli.inbox import Inbox

Message = Mapping[str, Any]


def word(turn: int, seq: int) -> Message:
    return {"type": "token_chunk", "turn": turn, "address": f"text:{turn}-{seq}"}


def frame(turn: int, seq: int) -> Message:
    return {"type": "sequential_audio", "turn": turn, "address": f"speech:{turn}-{seq}"}


def ending(kind: str, turn: int, seq: int | None = None) -> Message:
    """The last message of a turn; without a place in the log where an edge tells it of its own accord."""
    place = {} if seq is None else {"address": f"speech:{turn}-{seq}"}
    return {"type": kind, "turn": turn, **place}


def heard(*messages: Message) -> list[bool]:
    inbox = Inbox()
    return [inbox.hear(message) for message in messages]


def test_what_stands_in_a_log_is_told_once_and_in_order() -> None:
    assert heard(word(1, 0), frame(1, 0), word(1, 1), word(1, 0), word(1, 1), frame(1, 1)) == [
        True,
        True,
        True,
        False,
        False,
        True,
    ]


@pytest.mark.parametrize(
    "endings",
    [
        (ending("error", 1), ending("error", 1, 4)),
        (ending("error", 1), ending("audio_interrupted", 1, 4)),
        (ending("chunked_streaming_complete", 1, 4), ending("error", 1)),
        (ending("audio_response", 1, 4), ending("audio_interrupted", 1, 5)),
        (ending("error", 1), ending("error", 1)),
    ],
)
def test_a_turn_ends_once(endings: tuple[Message, Message]) -> None:
    assert heard(*endings) == [True, False]


def test_nothing_of_an_answer_comes_after_its_end() -> None:
    assert heard(word(1, 0), ending("error", 1), word(1, 1), frame(1, 0)) == [True, True, False, False]


def test_the_end_of_a_turn_ends_no_other() -> None:
    assert heard(ending("error", 2), word(1, 0), ending("audio_interrupted", 1, 1), word(3, 0)) == [True] * 4


def test_what_is_passed_over_is_asked_for_no_more() -> None:
    inbox = Inbox()
    for message in (word(1, 0), ending("error", 1), word(1, 1), ending("error", 1, 4)):
        inbox.hear(message)
    assert inbox.after == {"text": "1-1", "speech": "1-4"}


@pytest.mark.parametrize("kind", ["speech_stopped", "audio_ack"])
def test_of_an_utterance_everything_is_told(kind: str) -> None:
    message = {"type": kind, "turn": 1}
    assert heard(message, ending("error", 1), message) == [True] * 3


def test_errors_that_name_no_turn_answer_something_and_are_all_told() -> None:
    assert heard(*[{"type": "error", "turn": None, "code": "busy"}] * 2) == [True, True]
