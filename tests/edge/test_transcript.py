from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.transcript import (
    Broken,
    Complete,
    Failed,
    FrameLine,
    Interrupted,
    Line,
    SemanticLine,
    TokenLine,
    Transcript,
)
from shared.wire import (
    Address,
    Closed,
    Entry,
    Frame,
    Log,
    Payload,
    ReplyEnd,
    Semantic,
    SpeechEnd,
    Take,
    Token,
)

FRAME = bytes(4800)
SHORT = bytes(2400)

TEXT: list[Payload] = [
    Take(),
    Token("Hello"),
    Token("!"),
    Semantic("Hello!", 0, 6, "sentence_end"),
    Token(" Yes"),
    Token("."),
    Semantic(" Yes.", 6, 11, "sentence_end"),
    ReplyEnd("stop", 4, 2),
]
SPEECH: list[Payload] = [
    Take(),
    Frame(0, 0, False, FRAME),
    Frame(0, 2400, True, SHORT),
    Frame(1, 0, True, FRAME),
    SpeechEnd("stop", 6000),
]


def entries(payloads: Sequence[Payload], turn: int = 1) -> list[Entry]:
    return [
        Entry(Address(turn, seq), "w", 1_000_000 + seq * 40_000, payload)
        for seq, payload in enumerate(payloads)
    ]


def told(transcript: Transcript, log: Log, payloads: Sequence[Payload], turn: int = 1) -> list[Line]:
    return [line for entry in entries(payloads, turn) for line in transcript.fold(log, entry)]


def closed(reason: str, seq: int, turn: int = 1, **fields: object) -> Entry:
    return Entry(Address(turn, seq), "w", 0, Closed(reason, **fields))  # type: ignore[arg-type]


def test_no_word_is_told_of_a_turn_whose_ending_the_client_has() -> None:
    transcript = Transcript({Log.SPEECH: Address(1, 4)}, told=1)
    assert told(transcript, Log.TEXT, TEXT) == []
    assert [line.turn for line in told(transcript, Log.TEXT, TEXT, turn=2)] == [2] * 6


def test_tokens_are_counted_and_the_time_between_them_is_the_writers() -> None:
    tokens = [x for x in told(Transcript(), Log.TEXT, TEXT) if isinstance(x, TokenLine)]
    assert [(t.sequence, t.text, t.gap_ms) for t in tokens] == [
        (0, "Hello", None),
        (1, "!", 40.0),
        (2, " Yes", 80.0),
        (3, ".", 40.0),
    ]
    assert tokens[2].address == Address(1, 4)


def test_a_token_without_text_is_not_told_and_leaves_no_hole_in_the_count() -> None:
    lines = told(Transcript(), Log.TEXT, [Token("", (1,)), Token("é", (2,)), Token("!", (3,))])
    assert [(line.sequence, line.text) for line in lines if isinstance(line, TokenLine)] == [
        (0, "é"),
        (1, "!"),
    ]


def test_a_semantic_chunk_carries_the_reply_up_to_its_end() -> None:
    chunks = [x for x in told(Transcript(), Log.TEXT, TEXT) if isinstance(x, SemanticLine)]
    assert [(c.sequence, c.text, c.so_far, c.boundary) for c in chunks] == [
        (0, "Hello!", "Hello!", "sentence_end"),
        (1, " Yes.", "Hello! Yes.", "sentence_end"),
    ]


def test_frames_are_counted_over_the_turn_and_the_first_of_a_chunk_has_its_text() -> None:
    transcript = Transcript()
    told(transcript, Log.TEXT, TEXT)
    frames = [x for x in told(transcript, Log.SPEECH, SPEECH) if isinstance(x, FrameLine)]
    assert [(f.index, f.chunk, f.source, f.duration_ms) for f in frames] == [
        (0, 0, "Hello!", 100.0),
        (1, 0, None, 50.0),
        (2, 1, " Yes.", 100.0),
    ]


def test_a_frame_that_comes_before_its_chunks_text_waits_for_it() -> None:
    transcript = Transcript()
    assert told(transcript, Log.SPEECH, SPEECH) == []
    assert transcript.waiting(1) == 3
    lines = told(transcript, Log.TEXT, TEXT)
    kinds = [type(line) for line in lines]
    assert kinds == [
        TokenLine, TokenLine, SemanticLine, FrameLine, FrameLine,
        TokenLine, TokenLine, SemanticLine, FrameLine, Complete,
    ]  # fmt: skip
    assert transcript.waiting(1) == 0


def test_the_completion_sums_the_answer_up_and_has_the_address_of_the_speechs_end() -> None:
    transcript = Transcript()
    told(transcript, Log.TEXT, TEXT)
    *_, line = told(transcript, Log.SPEECH, SPEECH)
    assert line == Complete(
        turn=1,
        address=Address(1, 4),
        held=False,
        reply="Hello! Yes.",
        tokens=4,
        chunks=2,
        gap_ms=40.0,
        audio_ms=250.0,
    )
    assert line.words == 2


def test_an_answer_without_speech_is_complete_too() -> None:
    transcript = Transcript()
    told(transcript, Log.TEXT, [ReplyEnd("stop", 0, 0)])
    [line] = told(transcript, Log.SPEECH, [SpeechEnd("stop", 0)])
    assert isinstance(line, Complete)
    assert (line.reply, line.gap_ms, line.audio_ms) == ("", None, 0.0)


def test_a_completed_answer_may_still_be_interrupted_until_its_completion_was_sent() -> None:
    transcript = Transcript()
    told(transcript, Log.TEXT, TEXT)
    told(transcript, Log.SPEECH, SPEECH)
    end = closed("barge_in", 5, heard_ms=120.0, heard_text="Hello!", cleared_frames=2)
    assert transcript.fold(Log.SPEECH, end) == [
        Interrupted(1, Address(1, 5), False, "barge_in", 120.0, "Hello!", 2)
    ]
    assert transcript.has_ended(1)


def test_after_its_completion_was_sent_nothing_is_told_of_a_turn() -> None:
    transcript = Transcript()
    told(transcript, Log.TEXT, TEXT)
    told(transcript, Log.SPEECH, SPEECH)
    assert transcript.end(1)
    assert not transcript.end(1)
    assert transcript.fold(Log.SPEECH, closed("user_interrupt", 5)) == []
    assert transcript.fold(Log.TEXT, closed("user_interrupt", 8)) == []


@pytest.mark.parametrize("reason", ["heard", "bye", "superseded"])
def test_what_closes_a_whole_answer_leaves_its_completion_standing(reason: str) -> None:
    transcript = Transcript()
    told(transcript, Log.TEXT, TEXT)
    told(transcript, Log.SPEECH, SPEECH)
    assert transcript.fold(Log.TEXT, closed(reason, 8)) == []
    assert transcript.fold(Log.SPEECH, closed(reason, 5)) == []
    assert not transcript.has_ended(1)


@pytest.mark.parametrize("reason", ["barge_in", "user_interrupt", "abandoned", "bye", "superseded"])
def test_a_turn_that_was_closed_early_is_interrupted_and_its_rest_is_not_told(reason: str) -> None:
    transcript = Transcript()
    told(transcript, Log.TEXT, TEXT[:4])
    told(transcript, Log.SPEECH, SPEECH[:2])
    [line] = transcript.fold(Log.SPEECH, closed(reason, 2, heard_ms=50.0))
    assert isinstance(line, Interrupted)
    assert (line.reason, line.heard_ms, line.heard_text, line.cleared_frames) == (reason, 50.0, "", 0)
    rest = [entry for entry in entries(TEXT) if entry.address.seq >= 4]
    assert [x for entry in rest for x in transcript.fold(Log.TEXT, entry)] == []


def test_a_failure_tells_its_code_and_where_it_stands() -> None:
    transcript = Transcript()
    end = closed("failed", 0, code="engine_failed", message="no voice", retryable=True)
    assert transcript.fold(Log.TEXT, end) == [
        Failed(1, Address(1, 0), False, Log.TEXT, "engine_failed", "no voice", True)
    ]
    assert transcript.fold(Log.SPEECH, closed("failed", 0)) == []


def test_a_failure_without_words_of_its_own_is_told_in_plain_ones() -> None:
    [line] = Transcript().fold(Log.SPEECH, closed("failed", 0))
    assert isinstance(line, Failed)
    assert (line.code, line.retryable) == ("engine_failed", False)
    assert line.message


def test_a_turn_that_was_closed_in_text_alone_is_broken_and_ends_when_speech_is_closed_too() -> None:
    transcript = Transcript()
    told(transcript, Log.TEXT, TEXT[:3])
    assert transcript.fold(Log.TEXT, closed("abandoned", 3)) == [Broken(1, Address(1, 3), False, "abandoned")]
    assert not transcript.has_ended(1)
    [line] = transcript.fold(Log.SPEECH, closed("abandoned", 0))
    assert isinstance(line, Interrupted)


def test_frames_that_wait_for_text_are_dropped_when_the_turn_ends() -> None:
    transcript = Transcript()
    told(transcript, Log.SPEECH, SPEECH[:2])
    transcript.fold(Log.SPEECH, closed("barge_in", 2))
    assert transcript.waiting(1) == 0
    told(transcript, Log.TEXT, TEXT[:3])
    assert transcript.fold(Log.TEXT, entries(TEXT)[3]) == []


def test_turns_are_counted_apart() -> None:
    transcript = Transcript()
    for turn in (1, 2):
        told(transcript, Log.TEXT, TEXT, turn)
        frames = [x for x in told(transcript, Log.SPEECH, SPEECH, turn) if isinstance(x, FrameLine)]
        assert [frame.index for frame in frames] == [0, 1, 2]
        assert {frame.turn for frame in frames} == {turn}


def test_the_turns_of_long_ago_are_forgotten() -> None:
    transcript = Transcript()
    for turn in range(1, 50):
        told(transcript, Log.TEXT, TEXT, turn)
        told(transcript, Log.SPEECH, SPEECH, turn)
        transcript.end(turn)
    assert len(transcript._stories) <= 3


@given(text_held=st.integers(-1, 7), speech_held=st.integers(-1, 4))
def test_whoever_resumes_is_told_the_rest_with_the_same_numbers(text_held: int, speech_held: int) -> None:
    def course(transcript: Transcript) -> list[Line]:
        return told(transcript, Log.TEXT, TEXT) + told(transcript, Log.SPEECH, SPEECH)

    held = {Log.TEXT: Address(1, text_held), Log.SPEECH: Address(1, speech_held)}
    whole, resumed = course(Transcript()), course(Transcript(held))
    assert len(whole) == len(resumed)
    for once, again in zip(whole, resumed, strict=True):
        log = Log.TEXT if isinstance(once, TokenLine | SemanticLine) else Log.SPEECH
        assert again.address is not None and again.held == (again.address <= held[log])
        assert (type(once), once.address) == (type(again), again.address)
        if isinstance(once, FrameLine) and isinstance(again, FrameLine):
            assert (once.index, once.source, once.pcm) == (again.index, again.source, again.pcm)


def test_a_client_that_holds_the_end_is_told_nothing_more() -> None:
    transcript = Transcript({Log.TEXT: Address(1, 7), Log.SPEECH: Address(1, 4)})
    assert all(line.held for line in told(transcript, Log.TEXT, TEXT) + told(transcript, Log.SPEECH, SPEECH))
    assert transcript.has_ended(1)
    assert transcript.fold(Log.SPEECH, closed("user_interrupt", 5)) == []


def test_a_turn_that_was_cut_off_meanwhile_tells_no_more_frames_but_its_end() -> None:
    transcript = Transcript({Log.SPEECH: Address(1, 1)}, cut={1})
    told(transcript, Log.TEXT, TEXT)
    lines = told(transcript, Log.SPEECH, SPEECH)
    assert [(type(line), line.held) for line in lines] == [(FrameLine, True)]
    [end] = transcript.fold(Log.SPEECH, closed("barge_in", 5))
    assert isinstance(end, Interrupted)


def test_a_turn_that_was_cut_after_the_client_had_its_completion_stays_completed() -> None:
    transcript = Transcript({Log.TEXT: Address(1, 7), Log.SPEECH: Address(1, 4)}, cut={1})
    told(transcript, Log.TEXT, TEXT)
    told(transcript, Log.SPEECH, SPEECH)
    assert transcript.fold(Log.SPEECH, closed("user_interrupt", 5)) == []


@given(st.lists(st.booleans(), max_size=30))
def test_the_logs_may_race_and_the_same_is_told(order: list[bool]) -> None:
    text, speech = entries(TEXT), entries(SPEECH)
    transcript = Transcript()
    lines: list[Line] = []
    for text_first in [*order, *[True] * 20, *[False] * 20]:
        log, rest = (Log.TEXT, text) if text_first else (Log.SPEECH, speech)
        if rest:
            lines += transcript.fold(log, rest.pop(0))
    assert [x.index for x in lines if isinstance(x, FrameLine)] == [0, 1, 2]
    assert [x.source for x in lines if isinstance(x, FrameLine)] == ["Hello!", None, " Yes."]
    assert isinstance(lines[-1], Complete)
    assert sum(isinstance(line, Complete) for line in lines) == 1


@pytest.mark.parametrize("ahead", [Log.TEXT, Log.SPEECH])
def test_a_log_that_is_far_ahead_makes_no_turn_forgotten(ahead: Log) -> None:
    transcript = Transcript()
    behind = Log.SPEECH if ahead is Log.TEXT else Log.TEXT
    assert len([transcript.fold(ahead, closed("failed", 0, turn)) for turn in range(1, 9)]) == 8
    assert [transcript.fold(behind, closed("failed", 0, turn)) for turn in range(1, 9)] == [[]] * 8


@pytest.mark.parametrize(("held_seq", "held"), [(2, False), (3, True), (5, True)])
def test_a_turn_whose_speech_is_kept_no_more_ends_where_text_says_it_ended_in_speech(
    held_seq: int, held: bool
) -> None:
    transcript = Transcript({Log.SPEECH: Address(1, held_seq)}, speech_from=2)
    told(transcript, Log.TEXT, TEXT[:4])
    end = closed("barge_in", 4, heard_ms=50.0, heard_text="Hello", cleared_frames=2, speech_seq=3)
    assert transcript.fold(Log.TEXT, end) == [
        Interrupted(1, Address(1, 3), held, "barge_in", 50.0, "Hello", 2)
    ]
    assert transcript.has_ended(1)


@pytest.mark.parametrize(("held_seq", "held"), [(3, False), (4, True), (5, True)])
def test_a_heard_answer_whose_speech_is_kept_no_more_ended_with_its_completion(
    held_seq: int, held: bool
) -> None:
    transcript = Transcript({Log.SPEECH: Address(1, held_seq)}, speech_from=2)
    told(transcript, Log.TEXT, TEXT)
    [line] = transcript.fold(Log.TEXT, closed("heard", 8, speech_seq=5))
    assert isinstance(line, Interrupted)
    assert (line.address, line.held, line.reason) == (Address(1, 5), held, "heard")


@pytest.mark.parametrize(
    ("log", "place", "held"),
    [(Log.TEXT, Address(1, 4), True), (Log.SPEECH, Address(1, 3), False), (Log.SPEECH, Address(2, 0), True)],
)
def test_a_reply_that_failed_is_told_from_text_though_no_speech_of_it_is_kept(
    log: Log, place: Address, held: bool
) -> None:
    transcript = Transcript({log: place}, speech_from=3)
    told(transcript, Log.TEXT, TEXT[:4])
    [line] = transcript.fold(Log.TEXT, closed("failed", 4, code="engine_failed"))
    assert isinstance(line, Failed)
    assert (line.log, line.address, line.held) == (Log.TEXT, Address(1, 4), held)


def test_a_whole_answer_that_was_closed_and_is_cut_off_after_all_ends_as_its_log_says() -> None:
    transcript = Transcript()
    told(transcript, Log.TEXT, TEXT)
    told(transcript, Log.SPEECH, SPEECH)
    assert transcript.fold(Log.SPEECH, closed("heard", 5, heard_ms=250.0)) == []
    assert transcript.cut_off(1) == Interrupted(1, Address(1, 5), False, "heard", 250.0, "", 0)
    assert transcript.end(1)


def test_an_answer_that_is_cut_off_before_its_closing_is_folded_tells_no_frame_but_that() -> None:
    transcript = Transcript()
    told(transcript, Log.TEXT, TEXT)
    told(transcript, Log.SPEECH, SPEECH[:2])
    assert transcript.cut_off(1) is None
    rest = [entry for entry in entries(SPEECH) if entry.address.seq >= 2]
    assert [line for entry in rest for line in transcript.fold(Log.SPEECH, entry)] == []
    [line] = transcript.fold(Log.SPEECH, closed("heard", 5))
    assert isinstance(line, Interrupted)
