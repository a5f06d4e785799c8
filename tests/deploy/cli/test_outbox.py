from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.cli.outbox import Outbox
from shared.audio import to_wav

Message = Mapping[str, Any]

SLICE = bytes(640)
SAMPLES = 320


def said(outbox: Outbox) -> list[Message]:
    """Everything that is due on this socket."""
    messages = []
    while (message := outbox.next()) is not None:
        messages.append(message)
    return messages


def kinds(messages: list[Message]) -> list[str]:
    return [str(message["type"]) for message in messages]


def pcm16() -> Outbox:
    outbox = Outbox()
    outbox.configure({"input_format": "pcm16"})
    said(outbox)
    outbox.hear({"type": "configured"})
    return outbox


def speak(outbox: Outbox, slices: int) -> None:
    for _ in range(slices):
        outbox.audio(SLICE, ends=False, fields={})


def test_slices_say_where_they_lie_in_the_input() -> None:
    outbox = pcm16()
    speak(outbox, 3)
    assert [each["offset_samples"] for each in said(outbox)] == [0, 320, 640]


def test_places_count_at_16_khz_whatever_the_rate_is() -> None:
    outbox = Outbox()
    outbox.configure({"input_format": "pcm16", "input_sample_rate": 48_000})
    outbox.audio(bytes(960 * 2), ends=False, fields={})
    outbox.audio(bytes(2), ends=True, fields={})
    outbox.audio(bytes(2), ends=False, fields={})
    assert [each["offset_samples"] for each in said(outbox)[1:]] == [0, 320, 320]


def test_a_wav_file_counts_as_many_samples_as_it_holds() -> None:
    outbox = Outbox()
    outbox.audio(to_wav(bytes(8000 * 2), 8000), ends=True, fields={})
    outbox.audio(bytes(4), ends=False, fields={})
    assert [each["offset_samples"] for each in said(outbox)] == [0, 16_000]


def test_acknowledged_input_is_forgotten_and_the_rest_is_said_again() -> None:
    outbox = pcm16()
    speak(outbox, 4)
    said(outbox)
    outbox.hear({"type": "speech_started", "turn": 1, "audio_ms": 0.0})
    outbox.hear({"type": "audio_ack", "turn": 1, "input_samples": 640})
    assert len(outbox) == 2
    outbox.rewind(1, 960)
    assert [each["offset_samples"] for each in said(outbox)] == [960]


def test_input_that_was_never_acknowledged_is_pruned_by_what_the_server_says_on_resume() -> None:
    outbox = pcm16()
    speak(outbox, 3)
    said(outbox)
    outbox.rewind(1, 500)
    assert [each["offset_samples"] for each in said(outbox)] == [320, 640]


def test_the_end_of_an_utterance_is_said_again_until_something_proves_it() -> None:
    outbox = pcm16()
    speak(outbox, 1)
    outbox.end()
    said(outbox)
    outbox.rewind(1, SAMPLES)
    assert kinds(said(outbox)) == ["end_of_utterance"]
    outbox.hear({"type": "token_chunk", "turn": 1, "address": "text:1-0"})
    outbox.rewind(1, SAMPLES)
    assert said(outbox) == []


def test_a_whole_utterance_that_arrived_is_not_sent_again_but_its_end_is() -> None:
    outbox = pcm16()
    outbox.audio(SLICE, ends=True, fields={})
    said(outbox)
    outbox.rewind(1, SAMPLES)
    assert said(outbox) == [{"type": "end_of_utterance"}]


def test_the_end_of_an_older_utterance_is_not_said_into_a_newer_one() -> None:
    outbox = pcm16()
    speak(outbox, 1)
    outbox.end()
    speak(outbox, 2)
    said(outbox)
    outbox.rewind(2, 2 * SAMPLES)
    assert [(each["type"], each.get("offset_samples")) for each in said(outbox)] == [("audio_chunk", 640)]


def test_a_typed_turn_that_the_server_counts_is_not_asked_twice() -> None:
    outbox = Outbox()
    outbox.text("one")
    outbox.text("two")
    said(outbox)
    outbox.rewind(1, 0)
    assert [each["text"] for each in said(outbox)] == ["two"]


def test_an_interruption_does_not_hit_the_answer_that_follows() -> None:
    outbox = Outbox()
    outbox.text("one")
    said(outbox)
    outbox.hear({"type": "token_chunk", "turn": 1, "address": "text:1-0"})
    outbox.interrupt(None)
    said(outbox)
    outbox.rewind(1, 0)
    assert kinds(said(outbox)) == ["user_interrupt"]
    outbox.rewind(2, 0)
    assert said(outbox) == []


def test_an_interruption_is_forgotten_when_its_turn_has_ended() -> None:
    outbox = Outbox()
    outbox.text("one")
    said(outbox)
    outbox.hear({"type": "token_chunk", "turn": 1, "address": "text:1-0"})
    outbox.interrupt(None)
    said(outbox)
    outbox.hear({"type": "audio_interrupted", "turn": 1, "address": "speech:1-3"})
    assert len(outbox) == 0


def test_an_error_that_only_answers_a_repetition_is_not_passed_on() -> None:
    outbox = pcm16()
    speak(outbox, 1)
    outbox.end()
    said(outbox)
    outbox.rewind(1, SAMPLES)
    said(outbox)
    nothing_open = {"type": "error", "code": "wrong_state", "address": None}
    assert outbox.hear(nothing_open) is False
    assert outbox.hear(nothing_open) is True


def test_an_end_with_nothing_open_gets_its_error() -> None:
    outbox = Outbox()
    outbox.end()
    said(outbox)
    assert outbox.hear({"type": "error", "code": "wrong_state"}) is True
    assert len(outbox) == 0


def test_an_utterance_that_the_server_would_not_begin_is_neither_said_again_nor_gone_on_with() -> None:
    outbox = pcm16()
    speak(outbox, 2)
    said(outbox)
    assert outbox.hear({"type": "error", "code": "overloaded"}) is True
    speak(outbox, 1)
    outbox.end()
    assert len(outbox) == 0
    outbox.text("then typed")
    assert kinds(said(outbox)) == ["text"]
    outbox.rewind(1, 0)
    assert len(outbox) == 0, "the refused utterance must not count as a turn"


def test_settings_that_were_refused_are_not_said_again() -> None:
    outbox = Outbox()
    outbox.configure({"voice": "nobody"})
    said(outbox)
    assert outbox.hear({"type": "error", "code": "unsupported"}) is True
    outbox.rewind(0, 0)
    assert said(outbox) == []


def test_settings_are_said_again_until_they_are_confirmed() -> None:
    outbox = Outbox()
    outbox.configure({"speed": 1.5})
    said(outbox)
    outbox.rewind(0, 0)
    assert kinds(said(outbox)) == ["configure"]
    outbox.hear({"type": "configured"})
    outbox.rewind(0, 0)
    assert said(outbox) == []


def test_a_conversation_that_is_begun_again_begins_with_all_its_settings() -> None:
    outbox = pcm16()
    outbox.configure({"speed": 1.5})
    speak(outbox, 1)
    said(outbox)
    outbox.restart()
    first, second = said(outbox)
    assert first == {"type": "configure", "input_format": "pcm16", "speed": 1.5}
    assert second["offset_samples"] == 0


def test_what_lies_beyond_the_longest_utterance_belongs_to_the_next_turn() -> None:
    outbox = pcm16()
    speak(outbox, 4)
    said(outbox)
    outbox.hear({"type": "speech_started", "turn": 1, "audio_ms": 0.0})
    outbox.hear({"type": "speech_stopped", "turn": 1, "audio_ms": 40.0, "reason": "max_length"})
    outbox.hear({"type": "token_chunk", "turn": 1, "address": "text:1-0"})
    assert len(outbox) == 2
    speak(outbox, 1)
    outbox.end()
    outbox.rewind(1, 640)
    assert [each.get("offset_samples") for each in said(outbox)] == [640, 960, 1280, None]
    outbox.hear({"type": "token_chunk", "turn": 2, "address": "text:2-0"})
    assert len(outbox) == 0


def test_what_lies_beyond_the_longest_utterance_is_counted_before_what_was_said_after_it() -> None:
    outbox = pcm16()
    speak(outbox, 4)
    outbox.end()
    outbox.text("and")
    said(outbox)
    outbox.hear({"type": "speech_stopped", "turn": 1, "audio_ms": 40.0, "reason": "max_length"})
    outbox.rewind(2, 960)
    assert [(each["type"], each.get("offset_samples")) for each in said(outbox)] == [
        ("audio_chunk", 960),
        ("end_of_utterance", None),
        ("text", None),
    ]


@pytest.mark.parametrize("ends", [True, False])
def test_a_sample_that_was_rounded_away_is_not_sent_as_another_utterance(ends: bool) -> None:
    outbox = Outbox()
    outbox.configure({"input_format": "pcm16", "input_sample_rate": 44_100})
    outbox.audio(bytes(882 * 2), ends=False, fields={})
    outbox.audio(bytes(882 * 2), ends=ends, fields={})
    if not ends:
        outbox.end()
    said(outbox)
    outbox.rewind(1, 639)
    assert said(outbox) == [{"type": "end_of_utterance"}]


def test_a_typed_turn_in_the_middle_of_an_utterance_is_refused_here() -> None:
    outbox = pcm16()
    speak(outbox, 1)
    with pytest.raises(ValueError, match="open"):
        outbox.text("too early")


def test_a_format_that_cannot_be_counted_is_refused_here() -> None:
    with pytest.raises(ValueError, match="'wav'"):
        Outbox().configure({"input_format": "wav"})


class Server:
    """What an edge does with these messages: turns, places, overlaps, ends; and what it says of them."""

    def __init__(self) -> None:
        self.turns: list[str | bytearray] = []
        self.hearing = False
        self.position = 0
        self.stray_end_is_no_error = False

    def take(self, message: Message) -> list[Message]:
        match message["type"]:
            case "text":
                assert not self.hearing
                self.turns.append(message["text"])
                return [{"type": "status", "turn": len(self.turns)}]
            case "audio_chunk":
                return self._audio(message)
            case "end_of_utterance" if self.hearing:
                return self._end()
            case "end_of_utterance":
                return [{"type": "error", "code": "wrong_state"}]
            case kind:
                raise AssertionError(kind)

    def _audio(self, message: Message) -> list[Message]:
        offset, data = message["offset_samples"], message["audio_data"]
        said: list[Message] = []
        if not self.hearing:
            assert offset + len(data) // 2 > self.position, "an utterance that is here already began again"
            self.turns.append(bytearray())
            self.hearing = True
            said.append({"type": "speech_started", "turn": len(self.turns)})
        assert offset <= self.position, "samples are missing"
        utterance = self.turns[-1]
        assert isinstance(utterance, bytearray)
        utterance += data[(self.position - offset) * 2 :]
        self.position = max(self.position, offset + len(data) // 2)
        said.append({"type": "audio_ack", "turn": len(self.turns), "input_samples": self.position})
        return said + (self._end() if message["end_of_utterance"] else [])

    def _end(self) -> list[Message]:
        self.hearing = False
        turn = len(self.turns)
        return [
            {"type": "speech_stopped", "turn": turn, "reason": "client", "audio_ms": self.position / 16},
            {"type": "token_chunk", "turn": turn, "address": f"text:{turn}-0"},
        ]


STEPS = st.lists(
    st.one_of(
        st.sampled_from(["audio", "last audio", "end", "text", "cut"]),
        st.tuples(st.just("carry"), st.integers(1, 4)),
        st.tuples(st.just("reply"), st.integers(1, 4)),
    ),
    max_size=60,
)


@settings(max_examples=400, deadline=None)
@given(STEPS)
def test_however_often_the_socket_is_lost_the_server_gets_each_word_once(
    steps: list[str | tuple[str, int]],
) -> None:
    """Messages are carried to the server, and its own back, in any lumps; a cut loses those on the way."""
    outbox, server = pcm16(), Server()
    spoken: list[str | bytearray] = []
    replies: list[Message] = []
    is_open = False
    number = 0

    def reply(count: int) -> None:
        for message in replies[:count]:
            assert outbox.hear(message) or message["code"] == "wrong_state"
        del replies[:count]

    def carry(count: int) -> None:
        for _ in range(count):
            message = outbox.next()
            if message is not None:
                replies.extend(server.take(message))

    for step in [*steps, "cut"]:
        match step:
            case "audio" | "last audio":
                number += 1
                data = number.to_bytes(2, "big") * 5
                if not is_open:
                    spoken.append(bytearray())
                utterance = spoken[-1]
                assert isinstance(utterance, bytearray)
                utterance += data
                is_open = step == "audio"
                outbox.audio(data, ends=not is_open, fields={})
            case "end" if is_open:
                is_open = False
                outbox.end()
            case "text" if not is_open:
                number += 1
                spoken.append(str(number))
                outbox.text(str(number))
            case "cut":
                replies.clear()
                outbox.rewind(len(server.turns), server.position)
            case ("carry", count):
                carry(count)
            case ("reply", count):
                reply(count)
            case _:
                continue  # it does not fit here
    carry(len(outbox))
    reply(len(replies))
    assert server.turns == spoken
    assert server.hearing is is_open
    assert len(outbox) == 0


def test_an_error_that_ends_a_turn_answers_nothing_that_was_said() -> None:
    outbox = pcm16()
    outbox.text("one")
    said(outbox)
    outbox.hear({"type": "token_chunk", "turn": 1, "address": "text:1-0"})
    outbox.configure({"voice": "another"})
    said(outbox)
    outbox.hear({"type": "error", "code": "engine_failed", "turn": 1})
    assert len(outbox) == 1, "the settings are not proven"
    outbox.hear({"type": "error", "code": "unsupported", "turn": None})
    assert len(outbox) == 0
