"""Fixed tokens at fixed times."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest

from shared.settings import Settings
from shared.wire import Open, Token
from tests.workers.llm.engines.pausing import answer_after_pauses
from workers.llm.engines import ReplyRequest, scripted
from workers.llm.engines.scripted import Heard, Scripted
from workers.llm.history import Exchange

SCRIPT = ("One", ",", " two", " three", ".")


def engine(first_token_ms: float = 0, inter_token_ms: float = 0) -> Scripted:
    return Scripted(
        Settings(
            script_tokens=SCRIPT, script_first_token_ms=first_token_ms, script_inter_token_ms=inter_token_ms
        )
    )


def asked(spoken: int = 0, **settings: object) -> ReplyRequest:
    tokens = tuple(Token(text, (place,)) for place, text in enumerate(SCRIPT[:spoken]))
    return ReplyRequest("conversation", 1, Open(**settings), tokens)  # type: ignore[arg-type]


async def utterance(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The engine's time: it passes only while the engine waits, or by hand."""
    clock = SimpleNamespace(now_s=1000.0)

    async def sleep_until(deadline_s: float) -> None:
        clock.now_s = max(clock.now_s, deadline_s)

    monkeypatch.setattr(scripted, "time", SimpleNamespace(monotonic=lambda: clock.now_s))
    monkeypatch.setattr(scripted, "sleep_until", sleep_until)
    return clock


async def test_the_script_is_said_whatever_is_asked() -> None:
    tokens = [token async for token in engine().process_chunked_streaming(asked(), utterance(b"\0\0"))]
    assert tokens == [Token(text, (place,)) for place, text in enumerate(SCRIPT)]


async def test_tokens_are_due_by_the_clock_from_the_end_of_the_utterance(clock: SimpleNamespace) -> None:
    async def speaking() -> AsyncIterator[bytes]:
        for _ in range(3):
            clock.now_s += 1
            yield b"\0\0"

    stream = engine(95, 40).process_chunked_streaming(asked(), speaking())
    due_ms = [round((clock.now_s - 1003.0) * 1000) async for _ in stream]
    assert due_ms == [95, 135, 175, 215, 255]


async def test_lateness_does_not_add_up(clock: SimpleNamespace) -> None:
    due_ms = []
    async for token in engine(95, 40).process_chunked_streaming(asked(), utterance()):
        due_ms.append(round((clock.now_s - 1000.0) * 1000))
        if token.text == ",":
            clock.now_s += 0.050
    assert due_ms == [95, 135, 185, 215, 255]


async def test_after_a_take_over_the_missing_tokens_come_after_another_first_wait(
    clock: SimpleNamespace,
) -> None:
    stream = engine(95, 40).process_chunked_streaming(asked(spoken=3), utterance())
    said = [(token, round((clock.now_s - 1000.0) * 1000)) async for token in stream]
    assert said == [(Token(" three", (3,)), 95), (Token(".", (4,)), 135)]


async def test_a_typed_turn_is_answered_without_audio() -> None:
    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("a typed turn has no audio")
        yield b""

    stream = engine().process_chunked_streaming(asked(text="hello"), never())
    assert [token.text async for token in stream] == list(SCRIPT)


@pytest.mark.parametrize(
    ("spoken", "most", "said"), [(0, 3, 3), (2, 3, 1), (3, 3, 0), (4, 3, 0), (5, 256, 0)]
)
async def test_no_more_tokens_come_than_are_wanted(spoken: int, most: int, said: int) -> None:
    stream = engine().process_chunked_streaming(asked(spoken, max_reply_tokens=most), utterance())
    assert len([token async for token in stream]) == said


async def test_the_audio_is_read_as_it_comes_and_nothing_is_said_before_its_end() -> None:
    arriving: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def live() -> AsyncIterator[bytes]:
        while (piece := await arriving.get()) is not None:
            yield piece
            arriving.task_done()

    first = asyncio.create_task(anext(engine().process_chunked_streaming(asked(), live())))
    for _ in range(3):
        arriving.put_nowait(b"\0\0")
        await arriving.join()
    assert not first.done()
    arriving.put_nowait(None)
    assert (await first).text == "One"


async def test_no_token_is_early_by_the_real_clock() -> None:
    asked_s = time.monotonic()
    place = 0
    async for _ in engine(5, 3).process_chunked_streaming(asked(), utterance()):
        assert time.monotonic() >= asked_s + (5 + 3 * place) / 1000
        place += 1
    assert place == len(SCRIPT)


@pytest.mark.parametrize(
    ("history", "answer"),
    [
        ((), "[3 prompt null voice null]"),
        (
            (Exchange(1, bytes(80_000), None, "Hello! Yes"), Exchange(2, b"", 'And "now"?', "")),
            '[1 user 2.50 s] [1 reply "Hello! Yes"] [2 user "And \\"now\\"?"] [2 reply ""] '
            "[3 prompt null voice null]",
        ),
    ],
)
async def test_the_echo_says_what_was_said_before(history: tuple[Exchange, ...], answer: str) -> None:
    echoing = Scripted(Settings(script_echo_history=True, script_first_token_ms=0, script_inter_token_ms=0))
    request = ReplyRequest("conversation", 3, Open(), history=history)
    tokens = [token async for token in echoing.process_chunked_streaming(request, utterance())]
    assert "".join(token.text for token in tokens) == answer
    assert [token.ids for token in tokens] == [(place,) for place in range(len(history) + 1)]


async def test_the_echo_says_the_settings_of_the_turn_and_goes_on_after_a_take_over() -> None:
    echoing = Scripted(Settings(script_echo_history=True, script_first_token_ms=0, script_inter_token_ms=0))
    settings, history = Open(prompt="Be brief.", voice="anna"), (Exchange(1, b"", "Hi", "Hello!"),)
    spoken = (Token('[1 user "Hi"] [1 reply "Hello!"] ', (0,)),)
    request = ReplyRequest("conversation", 2, settings, spoken, history)
    tokens = [token async for token in echoing.process_chunked_streaming(request, utterance())]
    assert tokens == [Token('[2 prompt "Be brief." voice "anna"]', (1,))]


async def test_the_whole_answer_is_the_tokens_joined() -> None:
    assert await engine().process_realtime_chunk(asked(), b"\0\0") == "One, two three."
    assert await engine().process_realtime_chunk(asked(spoken=2), b"\0\0") == "One, two three."


async def test_the_script_is_said_from_its_start_after_answers_that_were_taken_back() -> None:
    scripted = engine()
    assert scripted.spare
    tokens = await answer_after_pauses(scripted, asked(), b"\0\0", b"\0\0", b"\0\0")
    assert tokens == [Token(text, (place,)) for place, text in enumerate(SCRIPT)]


async def test_the_keyed_answer_says_whose_it_is_and_what_was_heard() -> None:
    keyed = Scripted(Settings(script_keyed=True, script_first_token_ms=0, script_inter_token_ms=0))
    pieces = (b"\1\0\2\0", b"\3\0")
    tokens = [each.text async for each in keyed.process_chunked_streaming(asked(), utterance(*pieces))]
    assert tokens[0] == f"Heard 3 as {zlib.crc32(b''.join(pieces)):08x}."
    assert tuple(tokens) == scripted.keyed("conversation", 1, Heard(3, zlib.crc32(b"".join(pieces))), 24)
    assert len(set(tokens)) == 24 and "".join(tokens).count(".") == 4
    others = scripted.keyed("conversation", 2, Heard(3), 24) + scripted.keyed("another", 1, Heard(3), 24)
    assert not set(tokens) & set(others)


async def test_the_keyed_answer_goes_on_after_what_stands_in_the_log() -> None:
    keyed = Scripted(Settings(script_keyed=True, script_first_token_ms=0, script_inter_token_ms=0))
    request = asked(spoken=2, text="Hé?")
    tokens = [each async for each in keyed.process_chunked_streaming(request, utterance())]
    whole = scripted.keyed("conversation", 1, Heard(3, zlib.crc32("Hé?".encode())), 24)
    assert [token.text for token in tokens] == [*whole[2:]]
    assert [token.ids for token in tokens] == [(place,) for place in range(2, 24)]
