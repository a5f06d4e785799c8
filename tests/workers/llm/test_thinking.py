"""At a pause the answer is begun, at most once; it stands or is taken back, and never are there two."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable

import pytest

from shared.errors import EngineError
from shared.wire import Open, Token
from tests.conftest import eventually
from tests.workers.llm.hearing import Hearing, answer_to
from workers.llm.draft import Draft
from workers.llm.engines import ReplyRequest
from workers.llm.start import Start
from workers.llm.thinking import MOST_WASTED, Tally, Thinking

Make = Callable[..., Thinking]


@pytest.fixture
def engine() -> Hearing:
    return Hearing()


@pytest.fixture
def tally() -> Tally:
    return Tally()


@pytest.fixture
def make(engine: Hearing, tally: Tally) -> Make:
    """Makes an answer in the making, which may think ahead while the engine has room."""

    def begin(audio: AsyncIterator[bytes]) -> Start:
        asked = ReplyRequest("conversation", 1, Open())
        return Start(engine.process_chunked_streaming(asked, audio), Draft((), 0.0), 100)

    return lambda: Thinking(begin, lambda: engine.spare, tally)


async def answer(thinking: Thinking) -> list[str]:
    """The tokens of the answer that stands, once it is whole."""
    start = thinking.stand()
    await eventually(lambda: start.over, "the answer is whole")
    if start.error is not None:
        raise start.error
    texts = []
    start.draft.want(0.0)
    while payloads := start.draft.take():
        texts += [payload.text for payload in payloads if isinstance(payload, Token)]
    return texts


async def test_an_answer_begun_at_the_pause_is_the_answer(engine: Hearing, tally: Tally, make: Make) -> None:
    thinking = make()
    await thinking.hear(b"a question")
    thinking.pause()
    await eventually(lambda: engine.said == len(answer_to(b"")), "it is thought of ahead")
    assert await answer(thinking) == answer_to(b"a question")
    await thinking.close()
    assert (engine.begun, engine.open, tally) == (1, 0, Tally(1, 0))


async def test_an_answer_is_taken_back_and_all_is_heard_again(
    engine: Hearing, tally: Tally, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    thinking = make()
    await thinking.hear(b"a question, ")
    thinking.pause()
    await eventually(lambda: engine.said > 2, "it is thought of ahead")
    await thinking.hear(b"or two ")
    assert tally == Tally(1, 1)
    assert engine.open == 0  # of the first nothing is left, and the second has not begun
    await thinking.hear(b"of them")
    assert await answer(thinking) == answer_to(b"a question, or two of them")
    await thinking.close()
    assert (engine.begun, engine.open, tally) == (2, 0, Tally(1, 1))
    assert "1 of 1 in all" in caplog.text


async def test_without_room_the_engine_waits_for_the_end(engine: Hearing, tally: Tally, make: Make) -> None:
    engine.spare = False
    thinking = make()
    await thinking.hear(b"a question, ")
    thinking.pause()
    await thinking.hear(b"or two")
    thinking.pause()
    await eventually(lambda: engine.listening == b"a question, or two", "it is heard")
    assert engine.heard == []
    assert await answer(thinking) == answer_to(b"a question, or two")
    await thinking.close()
    assert (engine.begun, engine.open, tally) == (1, 0, Tally())


async def test_a_pause_that_is_told_twice_is_one(engine: Hearing, tally: Tally, make: Make) -> None:
    thinking = make()
    await thinking.hear(b"a question")
    thinking.pause()
    thinking.pause()
    assert await answer(thinking) == answer_to(b"a question")
    await thinking.close()
    assert (engine.begun, tally) == (1, Tally(1, 0))


async def test_whoever_stops_and_goes_on_all_the_time_is_listened_to_in_the_end(
    engine: Hearing, tally: Tally, make: Make
) -> None:
    thinking = make()
    await thinking.hear(b"0")
    for number in range(1, MOST_WASTED + 3):
        thinking.pause()
        await thinking.hear(b"%d" % number)
    assert tally == Tally(MOST_WASTED, MOST_WASTED)
    said = engine.said
    thinking.pause()
    await eventually(lambda: engine.listening.endswith(b"%d" % (MOST_WASTED + 2)), "all is heard")
    assert engine.said == said
    assert await answer(thinking) == answer_to(b"".join(b"%d" % number for number in range(MOST_WASTED + 3)))
    await thinking.close()
    assert tally == Tally(MOST_WASTED, MOST_WASTED)


async def test_an_answer_that_nobody_waits_for_any_more_is_wasted(
    engine: Hearing, tally: Tally, make: Make
) -> None:
    engine.go.clear()
    thinking = make()
    await thinking.hear(b"a question")
    thinking.pause()
    await eventually(lambda: engine.heard == [b"a question"], "it is thought of ahead")
    await thinking.close()
    assert (engine.open, tally) == (0, Tally(1, 1))


async def test_what_goes_wrong_in_an_answer_that_is_taken_back_is_forgotten(
    engine: Hearing, tally: Tally, make: Make
) -> None:
    engine.failures = {0: 2}
    thinking = make()
    await thinking.hear(b"a question, ")
    thinking.pause()
    await eventually(lambda: engine.begun == 1 and engine.open == 0, "it has failed")
    await thinking.hear(b"or two")
    assert await answer(thinking) == answer_to(b"a question, or two")
    await thinking.close()
    assert tally == Tally(1, 1)


async def test_what_goes_wrong_in_the_answer_that_stands_is_its_error(
    engine: Hearing, tally: Tally, make: Make
) -> None:
    engine.failures = {0: 2}
    thinking = make()
    await thinking.hear(b"a question")
    thinking.pause()
    await eventually(lambda: engine.begun == 1 and engine.open == 0, "it has failed")
    with pytest.raises(EngineError, match="out of breath"):
        await answer(thinking)
    await thinking.close()
    assert tally == Tally(1, 0)


async def test_an_engine_that_fails_while_it_listens_is_told_of_while_the_user_speaks(
    engine: Hearing, tally: Tally, make: Make
) -> None:
    engine.failures = {0: -1, 1: -1}
    for tells in (lambda thinking: thinking.hear(b"more"), lambda thinking: _pause(thinking)):
        thinking = make()
        await thinking.hear(b"a question")
        begun = engine.begun
        await eventually(lambda: engine.begun > begun and engine.open == 0, "it has failed")  # noqa: B023
        with pytest.raises(EngineError, match="deaf"):
            await tells(thinking)
        await thinking.close()
    assert tally == Tally()


async def _pause(thinking: Thinking) -> None:
    thinking.pause()


async def test_the_engine_owes_tokens_once_it_has_taken_the_utterance_to_its_end(tally: Tally) -> None:
    understood, owed = asyncio.Event(), asyncio.Event()

    async def slow(audio: AsyncIterator[bytes]) -> AsyncGenerator[Token, None]:
        async for _ in audio:
            await understood.wait()
        yield Token("yes", (0,))

    thinking = Thinking(lambda audio: Start(slow(audio), Draft((), 0.0), 100), lambda: False, tally, owed.set)
    await thinking.hear(b"a ")
    await thinking.hear(b"question")
    start = thinking.stand()
    assert not owed.is_set()
    understood.set()
    await eventually(lambda: start.over, "the answer is whole")
    assert owed.is_set()
    await thinking.close()


async def test_an_engine_that_thinks_ahead_owes_nothing_before_the_utterance_has_ended(
    engine: Hearing, tally: Tally
) -> None:
    owed: list[int] = []

    def begin(audio: AsyncIterator[bytes]) -> Start:
        asked = ReplyRequest("conversation", 1, Open())
        return Start(engine.process_chunked_streaming(asked, audio), Draft((), 0.0), 100)

    thinking = Thinking(begin, lambda: True, tally, lambda: owed.append(engine.said))
    await thinking.hear(b"a question")
    thinking.pause()
    await eventually(lambda: engine.said == len(answer_to(b"")), "it is thought of ahead")
    assert not owed
    thinking.stand()
    assert owed == [engine.said]
    await thinking.close()
