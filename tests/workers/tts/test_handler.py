"""The speech of a turn, from whatever place of its log another worker left it at."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable

import pytest

from shared.audio import OUTPUT_RATE
from shared.errors import StoreError
from shared.keys import Role, log_key
from shared.log import close_turn
from shared.settings import Settings
from shared.store import Store
from shared.text import speakable
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
    Take,
    Token,
    new_tag,
)
from tests.conftest import eventually
from tests.workers.conftest import Desk, Running
from workers.tts import engines
from workers.tts.engines import SpeechRequest, Voice, whole_speech
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


async def test_settings_that_cannot_be_read_at_once_are_read_again(
    desk: Desk, running: Running, handler: SpeechHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, refusals = desk.store.call, 1

    async def refused_once(*command: str) -> object:
        nonlocal refusals
        if command[:2] == ("XRANGE", log_key(desk.conversation, Log.AUDIO)) and refusals:
            refusals -= 1
            raise StoreError("Redis is away")
        return await call(*command)

    async with running(handler):
        monkeypatch.setattr(desk.store, "call", refused_once)
        await desk.ask(1, None, Role.SPEAK)
        await _write_text(desk, *_semantics(), ReplyEnd("stop", 0, len(CHUNKS)))
        await eventually(lambda: desk.ended(Log.SPEECH, 1), "the speech")
    entries = await desk.read(Log.SPEECH, 1)
    assert refusals == 0
    assert sum(isinstance(entry.payload, Take) for entry in entries) == 1
    _check(desk, entries)


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


class Listed:
    """Keeps what it was asked for, and when, and speaks a second of silence for each chunk of words."""

    name = "listed"
    default_voice = "anna"

    def __init__(self) -> None:
        self.asked: list[tuple[float, SpeechRequest]] = []

    def voices(self) -> tuple[Voice, ...]:
        return (Voice("anna", "en-GB"), Voice("bruno", "it"))

    async def synthesize_speech_streaming(self, request: SpeechRequest) -> AsyncGenerator[bytes, None]:
        self.asked.append((time.monotonic(), request))
        if speakable(request.text):
            yield bytes(2 * OUTPUT_RATE)

    async def synthesize_speech(self, request: SpeechRequest) -> bytes:
        return await whole_speech(self, request)

    def texts(self) -> list[str]:
        return [request.text for _, request in self.asked]

    def dry_s(self) -> list[float | None]:
        return [request.dry_at_s for _, request in self.asked]


async def _speak(
    desk: Desk, running: Running, engine: Listed, *texts: str, settings: Open | None = None
) -> None:
    chunks: list[Payload] = [Semantic(text, 0, len(text), "sentence_end") for text in texts]
    async with running(SpeechHandler(engine, "the test asks for it")):
        await desk.ask(1, settings, Role.SPEAK)
        await _write_text(desk, *chunks, ReplyEnd("stop", 0, len(chunks)))
        await eventually(lambda: desk.ended(Log.SPEECH, 1), "the speech")


@pytest.mark.parametrize(
    ("settings", "spoken"),
    [
        (Open(), "5 percent of example dot com"),
        (Open(voice="bruno"), "5 per cento of example punto com"),
        (Open(language="it"), "5 per cento of example punto com"),
    ],
)
async def test_the_engine_is_given_what_its_voice_should_say(
    settings: Open, spoken: str, desk: Desk, running: Running
) -> None:
    engine = Listed()
    await _speak(desk, running, engine, "**5%** of example.com", " and more.", settings=settings)
    assert engine.texts() == [spoken, " and more."]


async def test_a_chunk_of_marks_alone_has_no_frames_and_is_not_the_first_one(
    desk: Desk, running: Running
) -> None:
    engine = Listed()
    await _speak(desk, running, engine, "**", "Hello.", " 😀", " Yes.")
    frames = [e.payload for e in await desk.read(Log.SPEECH, 1) if isinstance(e.payload, Frame)]
    assert {frame.chunk for frame in frames} == {1, 3}
    assert [dry is None for dry in engine.dry_s()] == [True, True, False, False]


async def test_later_chunks_say_when_the_listener_will_have_heard_all_before_them(
    desk: Desk, running: Running
) -> None:
    began = time.monotonic()
    engine = Listed()
    await _speak(desk, running, engine, "One.", " Two.", " Three.")
    ended = time.monotonic()
    first, second, third = engine.dry_s()
    assert first is None and second is not None and third is not None
    assert began + 1.0 <= second <= ended + 1.0
    # A second of speech each, made far sooner than it is heard.
    assert third - second == pytest.approx(1.0, abs=max(0.0, ended - began - 1.0) + 1e-6)


@pytest.mark.parametrize(
    ("ago_s", "left_s"),
    [((0.0, 0.0), 0.2), ((10.0, 10.0), -9.8), ((10.0, 4.0), -3.9), ((-50.0, -50.0), 0.2)],
    ids=["just now", "long ago", "dry in between", "by a clock ahead"],
)
async def test_after_a_take_over_the_frames_in_the_log_count_from_when_they_were_written(
    ago_s: tuple[float, float],
    left_s: float,
    desk: Desk,
    running: Running,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dead = desk.writer(Log.SPEECH, 1, new_tag())
    await dead.take("claim", "dead")
    wrote_at = time.monotonic()
    for place, ago in enumerate(ago_s):
        with monkeypatch.context() as past:
            past.setattr("shared.log._now_us", _clock(ago))
            await dead.append(Frame(0, 2400 * place, place == 1, bytes(FRAME)))
    engine = Listed()
    await _speak(desk, running, engine, "One.", " Two.")
    ((asked_at, request),) = engine.asked
    assert (request.chunk, request.dry_at_s is None) == (1, False)
    assert request.dry_at_s is not None
    assert wrote_at + left_s - 0.01 <= request.dry_at_s <= asked_at + left_s + 0.01


def _clock(ago_s: float) -> Callable[[], int]:
    return lambda: int((time.time() - ago_s) * 1e6)
