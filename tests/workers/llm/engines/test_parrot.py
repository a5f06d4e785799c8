"""What the parrot says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.wire import Open, Token
from tests.workers.llm.engines.conftest import Audio
from workers.llm.engines import ReplyRequest
from workers.llm.engines.ears import Ears
from workers.llm.engines.parrot import (
    ADMISSION,
    CONFESSION,
    HEARD,
    NOT_UNDERSTOOD,
    Parrot,
    rest_of_answer,
)
from workers.llm.engines.recogniser import SECOND_BYTES
from workers.llm.history import Exchange

CLOSING = [" I", " am", " a", " parrot."]

words = st.lists(st.sampled_from([" and", " what", " you", " can", " do", " country"]), max_size=12)


@pytest.fixture
def parrot(ears: Ears) -> Parrot:
    return Parrot(ears)


TOLD = NOT_UNDERSTOOD + CONFESSION


def asked(
    text: str | None = None, spoken: tuple[Token, ...] = (), most: int = 256, replies: Sequence[str] = (TOLD,)
) -> ReplyRequest:
    """A question after these replies, of which one, if not told otherwise, says who speaks."""
    history = tuple(Exchange(turn, b"", "hello", reply) for turn, reply in enumerate(replies, 1))
    settings = Open(text=text, max_reply_tokens=most)
    return ReplyRequest("conversation", len(history) + 1, settings, spoken, history)


async def silence() -> AsyncIterator[bytes]:
    yield bytes(SECOND_BYTES)


async def never() -> AsyncIterator[bytes]:
    raise AssertionError("a typed turn has no audio")
    yield b""


async def answer(parrot: Parrot, request: ReplyRequest, audio: AsyncIterator[bytes]) -> list[Token]:
    return [token async for token in parrot.process_chunked_streaming(request, audio)]


def joined(tokens: list[Token]) -> str:
    return "".join(token.text for token in tokens)


async def test_the_recording_is_said_back(parrot: Parrot, jfk: bytes, in_pieces: Audio) -> None:
    tokens = await answer(parrot, asked(replies=()), in_pieces(jfk))
    reply = joined(tokens)
    assert reply.startswith("I heard: ")
    assert "fellow" in reply
    assert "country" in reply
    assert reply.endswith("." + CONFESSION)
    assert [token.ids for token in tokens] == [(place,) for place in range(len(tokens))]


@pytest.mark.parametrize(
    ("replies", "confesses"),
    [
        ((), True),
        (("",), True),
        (("You wrote: hello. I am a parrot,", "You"), True),
        ((NOT_UNDERSTOOD + ADMISSION,), False),
        ((NOT_UNDERSTOOD + ADMISSION + " For real",), False),
        ((TOLD, NOT_UNDERSTOOD), False),
        ((NOT_UNDERSTOOD, TOLD), False),
    ],
)
async def test_it_says_that_it_is_a_parrot_until_that_was_heard(
    parrot: Parrot, replies: Sequence[str], confesses: bool
) -> None:
    reply = joined(await answer(parrot, asked(text="Hi!", replies=replies), never()))
    assert reply == "You wrote: Hi!" + (CONFESSION if confesses else "")


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("hello  there", "You wrote: hello  there."),
        (" Is it you? \n", "You wrote: Is it you?"),
        ("1", "You wrote: 1."),
        ("नमस्ते।", "You wrote: नमस्ते।"),
        ("  ", NOT_UNDERSTOOD),
    ],
)
async def test_a_typed_text_is_said_back(parrot: Parrot, text: str, reply: str) -> None:
    assert joined(await answer(parrot, asked(text=text), never())) == reply


async def test_the_first_person_is_written_large(ears: Ears, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hears(speaker: str, audio: AsyncIterator[bytes]) -> list[str]:
        return ["i", "think", "i've", "it"]

    monkeypatch.setattr(ears, "listen", hears)
    assert joined(await answer(Parrot(ears), asked(), silence())) == "I heard: I think I've it."


async def test_no_more_tokens_come_than_are_wanted(parrot: Parrot) -> None:
    tokens = await answer(parrot, asked(text="one two three", most=4), never())
    assert joined(tokens) == "You wrote: one"
    spoken = tuple(tokens)
    assert await answer(parrot, asked(text="one two three", most=4, spoken=spoken), never()) == []
    assert await answer(parrot, asked(text="one two three", most=3, spoken=spoken), never()) == []


async def test_a_turn_that_was_taken_over_goes_on_after_what_was_said(
    parrot: Parrot, fellow: bytes, in_pieces: Audio
) -> None:
    whole = await answer(parrot, asked(replies=()), in_pieces(fellow))
    request = asked(replies=(), spoken=tuple(whole[:5]))
    assert await answer(parrot, request, in_pieces(fellow)) == whole[5:]


async def test_the_whole_answer_is_what_was_said_and_the_rest(parrot: Parrot) -> None:
    whole = "You wrote: hello." + CONFESSION
    assert await parrot.process_realtime_chunk(asked(replies=(), text="hello"), b"") == whole
    spoken = (Token("You", (0,)), Token(" wrote", (1,)))
    assert await parrot.process_realtime_chunk(asked(replies=(), text="hello", spoken=spoken), b"") == whole


async def test_closing_while_it_listens_leaves_it_ready_for_the_next(
    parrot: Parrot, fellow: bytes, in_pieces: Audio
) -> None:
    listening = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield fellow
        listening.set()
        await asyncio.Event().wait()

    reading = asyncio.ensure_future(anext(parrot.process_chunked_streaming(asked(), endless())))
    await listening.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert "fellow" in joined(await answer(parrot, asked(), in_pieces(fellow)))


def heard(text: str) -> list[str]:
    return [*HEARD, *(f" {word}" for word in text.split())]


@pytest.mark.parametrize(
    ("said", "now_heard", "rest"),
    [
        # The same place of the utterance, by the last word that both heard there.
        ("and all my fellow", "and while my fellow american and not", " american and not. I am a parrot."),
        ("and all my fellow america", "and while my fellow american and not", " and not. I am a parrot."),
        ("all my fellow", "and while my fellow american", " american. I am a parrot."),
        # No such word: by their number.
        ("oh", "and what you can", " what you can. I am a parrot."),
        # A word at the seam is not said twice.
        ("hey you", "and can you you do", " do. I am a parrot."),
        ("hey you", "and can you you you do", " do. I am a parrot."),
        # A word that comes again much later is not the place.
        ("oh and", "do what you can for your country and", " you can for your country and. I am a parrot."),
        # More was said than is heard now.
        ("and what can you do", "but", ". I am a parrot."),
        ("and what", "", ". I am a parrot."),
        ("", "", " nothing. I am a parrot."),
    ],
)
def test_after_another_hearing_the_answer_reads_as_one(said: str, now_heard: str, rest: str) -> None:
    words = [f" {word}" for word in now_heard.split()]
    assert "".join(rest_of_answer(heard(said), HEARD, words, CLOSING)) == rest


def test_after_another_hearing_whose_sentence_had_ended_only_the_closing_is_left() -> None:
    said = [*heard("and what"), ".", " I"]
    assert rest_of_answer(said, HEARD, [" but"], CLOSING) == [" am", " a", " parrot."]


def test_who_was_told_that_nothing_was_understood_hears_no_other_story() -> None:
    assert rest_of_answer(["I", " did"], HEARD, [" but"], CLOSING) == [" not", " catch", " that.", *CLOSING]


@given(words=words, data=st.data())
def test_the_same_hearing_gives_the_same_answer_from_any_place(words: list[str], data: st.DataObject) -> None:
    whole = rest_of_answer([], HEARD, words, CLOSING)
    said = data.draw(st.integers(0, len(whole)))
    assert whole[:said] + rest_of_answer(whole[:said], HEARD, words, CLOSING) == whole


@given(theirs=words.filter(bool), ours=words, data=st.data())
def test_another_hearing_ends_the_answer_all_the_same_and_doubles_no_word(
    theirs: list[str], ours: list[str], data: st.DataObject
) -> None:
    answer_of_theirs = rest_of_answer([], HEARD, theirs, CLOSING)
    said = answer_of_theirs[: data.draw(st.integers(0, len(answer_of_theirs)))]
    rest = rest_of_answer(said, HEARD, ours, CLOSING)
    assert [*said, *rest][-len(CLOSING) :] == CLOSING
    assert [*said, *rest].count(".") <= 1
    same_hearing = [*said, *rest] == rest_of_answer([], HEARD, ours, CLOSING)
    assert same_hearing or not said or not rest or said[-1] != rest[0]


def test_a_parrot_hears_along_and_has_no_way_back(parrot: Parrot) -> None:
    assert not parrot.spare
