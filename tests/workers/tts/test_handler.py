"""The speech of a turn, from whatever place of its log another worker left it at."""

from __future__ import annotations

import pytest

from shared.keys import Role, log_key
from shared.log import close_turn
from shared.settings import Settings
from shared.store import Store
from shared.wire import (
    Closed,
    Entry,
    Frame,
    Log,
    Open,
    Payload,
    ReplyEnd,
    Semantic,
    SpeechEnd,
    Token,
    new_tag,
)
from tests.conftest import eventually
from tests.workers.conftest import Desk, Running
from workers.tts import engines
from workers.tts.engines.scripted import expected
from workers.tts.handler import SpeechHandler

CHUNKS = ("Hello!", " Yes, I hear you.", " …")
FRAME = 4800


@pytest.fixture
def handler(settings: Settings) -> SpeechHandler:
    """The handler with the scripted engine."""
    return SpeechHandler(*engines.load("scripted", settings))


def _semantics() -> list[Payload]:
    upto, chunks = 0, []
    for text in CHUNKS:
        chunks.append(Semantic(text, upto, upto + len(text), "sentence_end"))
        upto += len(text)
    return [*chunks]


async def _write_text(desk: Desk, *payloads: Payload) -> None:
    writer = desk.writer(Log.TEXT, 1, new_tag())
    await writer.take("claim", "llm")
    await writer.append(*payloads)


def _whole(desk: Desk, number: int) -> bytes:
    return expected(desk.conversation, 1, number, CHUNKS[number], 60)


def _frames(desk: Desk, number: int) -> list[Payload]:
    pcm = _whole(desk, number)
    starts = range(0, len(pcm), FRAME)
    return [Frame(number, at // 2, at + FRAME >= len(pcm), pcm[at : at + FRAME]) for at in starts]


def _check(desk: Desk, entries: list[Entry]) -> None:
    """Every sample of every chunk once, in order, in frames that tell their place."""
    assert [entry.address.seq for entry in entries] == list(range(len(entries)))
    frames = [entry.payload for entry in entries if isinstance(entry.payload, Frame)]
    for number in range(len(CHUNKS)):
        own = [frame for frame in frames if frame.chunk == number]
        assert b"".join(frame.pcm for frame in own) == _whole(desk, number)
        assert [frame.offset_samples for frame in own] == [2400 * place for place in range(len(own))]
        assert [frame.last for frame in own] == [False] * (len(own) - 1) + [True] * bool(own)
    samples = sum(len(frame.pcm) // 2 for frame in frames)
    assert entries[-1].payload == SpeechEnd("stop", samples)


async def test_each_chunk_becomes_frames_of_100_ms_of_which_the_last_says_so(
    desk: Desk, running: Running, handler: SpeechHandler
) -> None:
    async with running(handler):
        await desk.ask(1, None, Role.SPEAK)
        await _write_text(desk, Token("x"), *_semantics(), ReplyEnd("stop", 1, len(CHUNKS)))
        await eventually(lambda: desk.ended(Log.SPEECH, 1), "the speech")
    _check(desk, await desk.read(Log.SPEECH, 1))


LEFT_AT = ("before the first frame", "between two frames", "between two chunks", "before the end")


@pytest.mark.parametrize("left_at", LEFT_AT)
async def test_speech_goes_on_where_a_dead_worker_left_it(
    left_at: str, desk: Desk, running: Running, handler: SpeechHandler
) -> None:
    first, second = _frames(desk, 0), _frames(desk, 1)
    stood = dict(zip(LEFT_AT, ([], [*first, *second[:3]], first, [*first, *second]), strict=True))[left_at]
    dead = desk.writer(Log.SPEECH, 1, new_tag())
    await dead.take("claim", "dead")
    if stood:
        await dead.append(*stood)
    async with running(handler):
        await desk.ask(1, None, Role.SPEAK)
        await _write_text(desk, *_semantics(), ReplyEnd("stop", 0, len(CHUNKS)))
        await eventually(lambda: desk.ended(Log.SPEECH, 1), "the speech")
    _check(desk, await desk.read(Log.SPEECH, 1))


async def test_where_the_repeat_is_shorter_than_what_stands_it_goes_on_at_the_next_chunk(
    desk: Desk, running: Running, handler: SpeechHandler
) -> None:
    long_ago = [Frame(0, 2400 * place, False, bytes(FRAME)) for place in range(9)]
    dead = desk.writer(Log.SPEECH, 1, new_tag())
    await dead.take("claim", "dead")
    await dead.append(*long_ago)
    async with running(handler):
        await desk.ask(1, None, Role.SPEAK)
        await _write_text(desk, *_semantics(), ReplyEnd("stop", 0, len(CHUNKS)))
        await eventually(lambda: desk.ended(Log.SPEECH, 1), "the speech")
    frames = [e.payload for e in await desk.read(Log.SPEECH, 1) if isinstance(e.payload, Frame)]
    assert frames[:9] == long_ago
    assert b"".join(frame.pcm for frame in frames[9:]) == _whole(desk, 1)


async def test_speech_is_closed_with_the_text_that_was_closed(
    store: Store, desk: Desk, running: Running, handler: SpeechHandler
) -> None:
    closed = Closed("barge_in", heard_ms=120.0, heard_text="Hel")
    async with running(handler):
        await desk.ask(1, None, Role.SPEAK)
        await _write_text(desk, Token("x"))
        text = log_key(desk.conversation, Log.TEXT)
        await close_turn(store, [text], 1, desk.tag, closed, ttl_s=60)
        await eventually(lambda: desk.ended(Log.SPEECH, 1), "the speech is closed")
    assert (await desk.read(Log.SPEECH, 1))[-1].payload == closed


async def test_a_voice_that_does_not_exist_fails_the_turn_for_good(
    desk: Desk, running: Running, handler: SpeechHandler
) -> None:
    async with running(handler):
        await desk.ask(1, Open(voice="nobody"), Role.SPEAK)
        await _write_text(desk, *_semantics())
        await eventually(lambda: desk.ended(Log.SPEECH, 1), "the turn fails")
    closed = (await desk.read(Log.SPEECH, 1))[-1].payload
    assert isinstance(closed, Closed)
    assert (closed.reason, closed.code, closed.retryable) == ("failed", "engine_failed", False)
