"""A start draws all that its engine has to say, keeps what goes wrong, and leaves nothing open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from shared.errors import EngineError
from shared.wire import ReplyEnd, Token
from tests.conftest import WITHIN_S, eventually
from workers.llm import start as start_module
from workers.llm.draft import Draft
from workers.llm.start import Start


class Stream:
    """Some tokens, then what the test wants; knows whether it is closed."""

    def __init__(self, tokens: int, error: Exception | None = None, late: Exception | None = None) -> None:
        self.closed = False
        self.said = 0
        self._tokens = tokens
        self._error = error
        self._late = late

    async def tokens(self) -> AsyncGenerator[Token, None]:
        try:
            for place in range(self._tokens):
                self.said += 1
                yield Token(f" {place}", (place,))
            if self._error is not None:
                raise self._error
        finally:
            await asyncio.sleep(0)
            self.closed = True
            if self._late is not None:
                raise self._late


class Hanging(Stream):
    """Says nothing for ever."""

    async def tokens(self) -> AsyncGenerator[Token, None]:
        try:
            await asyncio.Event().wait()
            yield Token("never")
        finally:
            self.closed = True


class Clinging(Stream):
    """Says nothing, and does not close before it is `released`."""

    def __init__(self) -> None:
        super().__init__(0)
        self.released = asyncio.Event()

    async def tokens(self) -> AsyncGenerator[Token, None]:
        try:
            await asyncio.Event().wait()
            yield Token("never")
        finally:
            await self.released.wait()
            self.closed = True


def start(stream: Stream, most: int = 100) -> Start:
    return Start(stream.tokens(), Draft((), 0.0), most)


async def over(started: Start) -> None:
    await eventually(lambda: started.over, "it is over")


def ending(started: Start) -> ReplyEnd:
    """The last of what it would write."""
    payloads = []
    while taken := started.draft.take():
        payloads += taken
    assert isinstance(payloads[-1], ReplyEnd)
    return payloads[-1]


async def test_all_tokens_are_drawn_without_being_asked_for() -> None:
    stream = Stream(50)
    started = start(stream)
    await over(started)
    assert started.error is None
    end = ending(started)
    assert (end.reason, end.tokens) == ("stop", 50)
    await started.close()
    assert stream.closed


async def test_no_more_tokens_are_drawn_than_the_reply_may_have() -> None:
    stream = Stream(50)
    started = start(stream, most=7)
    await over(started)
    assert ending(started) == ReplyEnd("length", 7, 1)
    await started.close()
    assert (stream.said, stream.closed) == (7, True)


async def test_whoever_waits_for_news_is_told_of_a_token_of_the_end_and_of_nothing_else() -> None:
    started = start(Stream(1))
    await started.news()
    assert started.draft.tokens == 1
    while not started.over:
        await started.news()
    await started.news(within_s=0.001)
    await started.close()


async def test_what_an_engine_raises_is_kept_with_what_it_said_before() -> None:
    error = EngineError("out of breath")
    stream = Stream(3, error)
    started = start(stream)
    await over(started)
    assert started.error is error
    assert [payload.kind for payload in started.draft.take()] == ["token"] * 3
    await started.close()
    assert stream.closed


async def test_a_start_that_is_closed_has_closed_its_stream() -> None:
    stream = Hanging(0)
    started = start(stream)
    await asyncio.sleep(0)
    await started.close()
    assert stream.closed
    assert not started.over
    await started.close()


async def test_a_start_may_be_closed_before_it_has_begun() -> None:
    started = start(Hanging(0))
    await started.close()
    assert started.draft.tokens == 0


async def test_an_engine_that_fails_in_closing_leaves_its_answer_whole(
    caplog: pytest.LogCaptureFixture,
) -> None:
    started = start(Stream(9, late=EngineError("the line is dead")), most=2)
    await over(started)
    await started.close()
    assert started.error is None
    assert ending(started).tokens == 2
    assert "the line is dead" in caplog.text


async def test_an_engine_that_is_slow_to_close_holds_nobody_up(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start_module, "LET_GO_S", 0.01)
    stream = Clinging()
    started = start(stream)
    await asyncio.sleep(0)
    async with asyncio.timeout(WITHIN_S):
        await started.close()
    assert not stream.closed
    assert "an engine does not let go of an answer" in caplog.text
    stream.released.set()
    await eventually(lambda: stream.closed, "it closes in the end")
