"""The reply of a turn, from whatever place of its log another worker left it at."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence

import pytest

from shared.errors import StoreError
from shared.keys import Role, log_key
from shared.log import close_turn
from shared.settings import DEFAULT_SCRIPT, Settings
from shared.store import Store
from shared.wire import (
    Chunk,
    Closed,
    Entry,
    Log,
    Open,
    Payload,
    ReplyEnd,
    Semantic,
    Take,
    Token,
    UtteranceEnd,
    new_tag,
)
from shared.work import offer
from tests.conftest import eventually
from tests.workers.conftest import Desk, Running
from tests.workers.llm.hearing import Hearing
from workers.llm import engines
from workers.llm.engines import ReplyRequest
from workers.llm.engines.scripted import Scripted
from workers.llm.handler import ReplyHandler
from workers.llm.history import Exchange

REPLY = "".join(DEFAULT_SCRIPT)


class Listener(Scripted):
    """The scripted engine, which also shows what was asked of it, as soon as it is asked."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.asked: list[ReplyRequest] = []

    def process_chunked_streaming(
        self, request: ReplyRequest, audio: AsyncIterator[bytes]
    ) -> AsyncGenerator[Token, None]:
        """The script."""
        self.asked.append(request)
        return super().process_chunked_streaming(request, audio)

    def cost(self, exchange: Exchange) -> int:
        """Every turn counts the same."""
        return 1


@pytest.fixture
def listener(settings: Settings) -> Listener:
    """An engine that shows what it was asked."""
    return Listener(settings)


@pytest.fixture
def handler(settings: Settings) -> ReplyHandler:
    """The handler with the scripted engine."""
    return ReplyHandler(*engines.load("scripted", settings))


def _story(entries: list[Entry]) -> tuple[str, str]:
    """Tokens joined, semantic chunks joined; the offsets of the chunks must fit without a gap."""
    tokens = [entry.payload for entry in entries if isinstance(entry.payload, Token)]
    chunks = [entry.payload for entry in entries if isinstance(entry.payload, Semantic)]
    upto = 0
    for chunk in chunks:
        assert (chunk.from_, chunk.upto) == (upto, upto + len(chunk.text))
        upto = chunk.upto
    assert [entry.address.seq for entry in entries] == list(range(len(entries)))
    assert [token.ids for token in tokens] == [(number,) for number in range(len(tokens))]
    return "".join(token.text for token in tokens), "".join(chunk.text for chunk in chunks)


@pytest.mark.parametrize(("rows", "announced"), [(None, 64), (8, 8), (100, 64)])
def test_a_worker_announces_no_more_slots_than_its_engine_has_rows(rows: int | None, announced: int) -> None:
    engine = Hearing()
    engine.slots = rows
    assert ReplyHandler(engine, "").announcement("llm.1", 64).slots == announced


async def test_an_utterance_is_answered_with_tokens_and_the_chunks_cut_from_them(
    desk: Desk, running: Running, handler: ReplyHandler
) -> None:
    async with running(handler):
        await desk.ask(1, None, Role.REPLY)
        await eventually(lambda: desk.ended(Log.TEXT, 1), "the reply")
    entries = await desk.read(Log.TEXT, 1)
    assert _story(entries) == (REPLY, REPLY)
    chunks = sum(isinstance(entry.payload, Semantic) for entry in entries)
    assert entries[-1].payload == ReplyEnd("stop", len(DEFAULT_SCRIPT), chunks)


async def test_nothing_but_the_take_stands_in_text_before_the_utterance_has_ended(
    store: Store, desk: Desk, running: Running, handler: ReplyHandler
) -> None:
    async with running(handler):
        await desk.hold()
        audio = desk.writer(Log.AUDIO, 1)
        await audio.append(Open(), Chunk(0, bytes(640)))
        await offer(store, [Role.REPLY], desk.conversation, 1)

        async def claimed() -> bool:
            return bool(await desk.read(Log.TEXT, 1))

        await eventually(claimed, "the claim")
        for number in range(1, 20):
            await audio.append(Chunk(number * 320, bytes(640)))
        assert [entry.payload.kind for entry in await desk.read(Log.TEXT, 1)] == ["take"]
        await audio.append(UtteranceEnd("client", 20 * 320))
        await eventually(lambda: desk.ended(Log.TEXT, 1), "the reply")
    assert _story(await desk.read(Log.TEXT, 1)) == (REPLY, REPLY)


async def test_a_typed_turn_is_answered_too(desk: Desk, running: Running, handler: ReplyHandler) -> None:
    async with running(handler):
        await desk.hold()
        await desk.writer(Log.AUDIO, 1).append(Open(text="hello"), UtteranceEnd("client", 0))
        await offer(desk.store, [Role.REPLY], desk.conversation, 1)
        await eventually(lambda: desk.ended(Log.TEXT, 1), "the reply")
    assert _story(await desk.read(Log.TEXT, 1)) == (REPLY, REPLY)


async def test_a_reply_ends_at_its_longest(desk: Desk, running: Running, handler: ReplyHandler) -> None:
    async with running(handler):
        await desk.ask(1, Open(max_reply_tokens=5), Role.REPLY)
        await eventually(lambda: desk.ended(Log.TEXT, 1), "the reply")
    entries = await desk.read(Log.TEXT, 1)
    assert _story(entries)[0] == "".join(DEFAULT_SCRIPT[:5])
    end = entries[-1].payload
    assert isinstance(end, ReplyEnd) and (end.reason, end.tokens) == ("length", 5)


def _tokens(count: int) -> list[Payload]:
    return [Token(text, (number,)) for number, text in enumerate(DEFAULT_SCRIPT[:count])]


LEFT_AT: dict[str, list[Payload]] = {
    "before the first token": [],
    "between a token and its chunk": _tokens(2),
    "after a chunk": [*_tokens(2), Semantic("Hello!", 0, 6, "sentence_end")],
    "inside a chunk": [*_tokens(2), Semantic("Hello!", 0, 6, "sentence_end"), *_tokens(7)[2:]],
    "before the end": [*_tokens(24)],
}


@pytest.mark.parametrize("left_at", LEFT_AT)
async def test_a_reply_goes_on_where_a_dead_worker_left_it(
    left_at: str, desk: Desk, running: Running, handler: ReplyHandler
) -> None:
    dead = desk.writer(Log.TEXT, 1, new_tag())
    await dead.take("claim", "dead")
    if LEFT_AT[left_at]:
        await dead.append(*LEFT_AT[left_at])
    async with running(handler):
        await desk.ask(1, None, Role.REPLY)
        await eventually(lambda: desk.ended(Log.TEXT, 1), "the reply")
    assert _story(await desk.read(Log.TEXT, 1)) == (REPLY, REPLY)


async def _answered(desk: Desk, turn: int, heard: str, settings: Open | None = None) -> None:
    """A turn from its question to its closing, with what was heard of it."""
    await desk.ask(turn, settings, Role.REPLY)
    await eventually(lambda: desk.ended(Log.TEXT, turn), "the reply")
    keys = [log_key(desk.conversation, log) for log in (Log.TEXT, Log.SPEECH)]
    await close_turn(desk.store, keys, turn, desk.tag, Closed("heard", heard_text=heard), ttl_s=60)


async def test_the_engine_is_given_what_was_said_before_while_the_user_still_speaks(
    store: Store, desk: Desk, running: Running, listener: Listener
) -> None:
    async with running(ReplyHandler(listener, "", history_tokens=2)):
        for turn in (1, 2, 3):
            await _answered(desk, turn, f"{turn}.")
        audio = desk.writer(Log.AUDIO, 4)
        await audio.append(Open(), Chunk(0, bytes(640)))
        await offer(store, [Role.REPLY], desk.conversation, 4)
        await eventually(lambda: len(listener.asked) == 4, "the engine is asked")
        await audio.append(UtteranceEnd("client", 320))
        await eventually(lambda: desk.ended(Log.TEXT, 4), "the reply")
    heard = [[exchange.reply for exchange in request.history] for request in listener.asked]
    assert heard == [[], ["1."], ["1.", "2."], ["2.", "3."]]
    assert {exchange.audio for request in listener.asked for exchange in request.history} == {bytes(3200)}


async def test_prompt_and_voice_may_change_from_turn_to_turn(
    desk: Desk, running: Running, listener: Listener
) -> None:
    settings = [
        Open(prompt="Be brief.", voice="anna", language="en-GB"),
        Open(prompt="Sei höflich.", voice="bruno", language="it"),
        Open(),
    ]
    async with running(ReplyHandler(listener, "", history_tokens=9)):
        for turn, opening in enumerate(settings, 1):
            await _answered(desk, turn, REPLY, opening)
    assert [request.settings for request in listener.asked] == settings
    assert [exchange.reply for exchange in listener.asked[-1].history] == [REPLY, REPLY]


async def test_who_takes_a_turn_over_gives_its_engine_the_same_history(
    desk: Desk, running: Running, listener: Listener
) -> None:
    async with running(ReplyHandler(listener, "", history_tokens=9)):
        await _answered(desk, 1, "Hello!")
        dead = desk.writer(Log.TEXT, 2, new_tag())
        await dead.take("claim", "dead")
        await dead.append(*_tokens(2))
        await desk.ask(2, None, Role.REPLY)
        await eventually(lambda: desk.ended(Log.TEXT, 2), "the reply")
    taken_over = listener.asked[-1]
    assert taken_over.history == (Exchange(1, bytes(3200), None, "Hello!"),)
    assert [token.text for token in taken_over.spoken] == list(DEFAULT_SCRIPT[:2])


async def test_a_history_that_cannot_be_read_at_once_is_read_again(
    desk: Desk, running: Running, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    call_all, refusals = desk.store.call_all, 1

    async def refused_once(commands: Sequence[Sequence[str]]) -> list[object]:
        nonlocal refusals
        if commands[0][0] == "XRANGE" and refusals:
            refusals -= 1
            raise StoreError("Redis is away")
        return await call_all(commands)

    async with running(ReplyHandler(listener, "", history_tokens=9)):
        await _answered(desk, 1, "Hello!")
        monkeypatch.setattr(desk.store, "call_all", refused_once)
        await desk.ask(2, None, Role.REPLY)
        await eventually(lambda: desk.ended(Log.TEXT, 2), "the reply")
    assert refusals == 0
    takes = [e.payload for e in await desk.read(Log.TEXT, 2) if isinstance(e.payload, Take)]
    assert len(takes) == 1
    assert listener.asked[-1].history == (Exchange(1, bytes(3200), None, "Hello!"),)
    assert _story([e for e in await desk.read(Log.TEXT, 2) if e.payload.kind != "closed"]) == (REPLY, REPLY)


async def test_a_turn_that_is_closed_while_the_user_speaks_is_left(
    store: Store, desk: Desk, running: Running, handler: ReplyHandler
) -> None:
    async with running(handler) as stage:
        await desk.hold()
        await desk.writer(Log.AUDIO, 1).append(Open(), Chunk(0, bytes(640)))
        await offer(store, [Role.REPLY], desk.conversation, 1)
        await eventually(lambda: stage.attached == 1, "the claim")
        keys = [log_key(desk.conversation, log) for log in Log]
        await close_turn(store, keys, 1, desk.tag, Closed("bye"), ttl_s=60)
        await eventually(lambda: stage.attached == 0, "the turn is left")


async def test_a_turn_whose_session_is_gone_for_good_is_closed_as_abandoned(
    store: Store, desk: Desk, running: Running, handler: ReplyHandler
) -> None:
    async with running(handler, RESUME_WINDOW_S="1"):
        await desk.writer(Log.AUDIO, 1).append(Open(), Chunk(0, bytes(640)))
        await offer(store, [Role.REPLY], desk.conversation, 1)
        await eventually(lambda: desk.ended(Log.SPEECH, 1), "the turn is closed")
    for log in Log:
        closed = (await desk.read(log, 1))[-1].payload
        assert isinstance(closed, Closed) and closed.reason == "abandoned"
