from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.heard import MS_PER_CHARACTER, Spoken, heard_text

ANSWER = [Spoken("Hello!", 360.0), Spoken(" Yes,", 300.0), Spoken(" I can hear you perfectly.", 1560.0)]


@pytest.mark.parametrize(
    ("heard_ms", "text"),
    [
        (0.0, ""),
        (-1.0, ""),
        (359.0, ""),
        (360.0, "Hello!"),
        (400.0, "Hello!"),
        (659.9, "Hello!"),
        (660.0, "Hello! Yes,"),
        (760.0, "Hello! Yes,"),
        (780.0, "Hello! Yes, I"),
        (1019.0, "Hello! Yes, I"),
        (1020.0, "Hello! Yes, I can"),
        (2219.9, "Hello! Yes, I can hear you"),
        (2220.0, "Hello! Yes, I can hear you perfectly."),
        (9999.0, "Hello! Yes, I can hear you perfectly."),
    ],
)
def test_whole_chunks_count_by_their_speech_and_the_last_one_by_whole_words(
    heard_ms: float, text: str
) -> None:
    assert heard_text(ANSWER, heard_ms) == text


def test_a_chunk_that_is_skipped_by_the_voice_is_heard_with_the_one_before_it() -> None:
    chunks = [Spoken("Hello!", 360.0), Spoken(" …", 0.0), Spoken(" Yes,", 300.0)]
    assert heard_text(chunks, 359.0) == ""
    assert heard_text(chunks, 360.0) == "Hello! …"
    assert heard_text([Spoken("…", 0.0), Spoken(" Yes,", 300.0)], 0.0) == ""


def test_a_chunk_whose_speech_is_still_being_made_is_not_taken_for_heard() -> None:
    text = "one two three four"
    assert heard_text([Spoken(text, 300.0, whole=True)], 300.0) == text
    assert heard_text([Spoken(text, 300.0, whole=False)], 300.0) == "one"
    assert heard_text([Spoken(text, 2000.0, whole=False)], 2000.0) == text
    assert heard_text([Spoken(text, 0.0, whole=False)], 0.0) == ""
    assert MS_PER_CHARACTER * len(text) == 1080.0


def test_a_script_without_spaces_is_cut_between_its_characters() -> None:
    assert heard_text([Spoken("你好。我听得见。", 800.0)], 450.0) == "你好。我"
    assert heard_text([Spoken("こんにちは", 500.0)], 250.0) == "こん"


def test_a_word_of_korean_or_a_joined_sign_is_not_cut() -> None:
    assert heard_text([Spoken("안녕하세요 여러분", 900.0)], 800.0) == "안녕하세요"
    assert heard_text([Spoken("你\U0001f469\u200d\U0001f680", 400.0)], 300.0) == "你"


def test_nothing_was_heard_of_no_answer() -> None:
    assert heard_text([], 100.0) == ""


words = st.text(st.sampled_from("ab é.你안 \n"), max_size=12)
answers = st.lists(st.builds(Spoken, words, st.floats(0.0, 500.0), st.booleans()), max_size=6)


@given(chunks=answers, heard_ms=st.floats(0.0, 4000.0), more_ms=st.floats(0.0, 500.0))
def test_what_was_heard_is_a_beginning_of_the_reply_that_grows_with_time(
    chunks: list[Spoken], heard_ms: float, more_ms: float
) -> None:
    reply = "".join(chunk.text for chunk in chunks)
    heard = heard_text(chunks, heard_ms)
    assert reply.startswith(heard)
    assert heard == heard.rstrip()
    assert heard_text(chunks, heard_ms + more_ms).startswith(heard)


@given(chunks=answers)
def test_the_whole_reply_is_heard_in_the_end(chunks: list[Spoken]) -> None:
    assert heard_text(chunks, 1e9) == "".join(chunk.text for chunk in chunks).rstrip()
