"""The reply of a turn, from whatever place of its log another worker left it at."""

from __future__ import annotations

import pytest

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
    Token,
    UtteranceEnd,
    new_tag,
)
from shared.work import offer
from tests.conftest import eventually
from tests.workers.conftest import Desk, Running
from workers.llm import engines
from workers.llm.handler import ReplyHandler

REPLY = "".join(DEFAULT_SCRIPT)


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
