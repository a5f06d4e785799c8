"""Listening to many at once with few recognisers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from shared.errors import EngineError, TurnClosed
from tests.workers.llm.engines.conftest import Audio
from workers.llm.engines import ears as ears_module
from workers.llm.engines.ears import Ears
from workers.llm.engines.recogniser import SECOND_BYTES, Recogniser

PATIENCE_S = 30.0


class Slices:
    """How many there were; `begun` once there is one."""

    def __init__(self) -> None:
        self.count = 0
        self.begun = threading.Event()


class Speaker:
    """Says something, and then nothing until told to go on."""

    def __init__(self, first: bytes, then: bytes = b"") -> None:
        self.silent = asyncio.Event()
        self.go_on = asyncio.Event()
        self._first = first
        self._then = then

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._first
        self.silent.set()
        await self.go_on.wait()
        if self._then:
            yield self._then


@pytest.fixture
def means(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of how many bytes a mean was made, each time that one was."""
    made: list[int] = []
    mean_of = Recogniser.mean_of

    def noting(self: Recogniser, pcm: bytes) -> bytes:
        made.append(len(pcm))
        return mean_of(self, pcm)

    monkeypatch.setattr(Recogniser, "mean_of", noting)
    return made


@pytest.fixture
def slices(monkeypatch: pytest.MonkeyPatch) -> Slices:
    """The pieces that a recogniser was given to decode."""
    slices = Slices()
    hear = Recogniser.hear

    def noting(self: Recogniser, pcm: bytes) -> None:
        slices.count += 1
        slices.begun.set()
        hear(self, pcm)

    monkeypatch.setattr(Recogniser, "hear", noting)
    return slices


async def test_words_are_heard_in_pieces_of_any_length(ears: Ears, fellow: bytes, in_pieces: Audio) -> None:
    one_by_one = await ears.listen("a", in_pieces(fellow, 641))
    at_once = await ears.listen("b", in_pieces(fellow, len(fellow)))
    assert "fellow" in one_by_one
    assert one_by_one == at_once


@pytest.mark.parametrize("pcm", [b"", bytes(4 * SECOND_BYTES)])
async def test_silence_has_no_words_and_takes_no_recogniser(ears: Ears, in_pieces: Audio, pcm: bytes) -> None:
    taken = await ears.borrow()
    async with asyncio.timeout(PATIENCE_S):
        assert await ears.listen("a", in_pieces(pcm)) == []
    ears.give_back(taken, None)


async def test_who_finds_no_recogniser_free_waits_for_one(
    ears: Ears, fellow: bytes, in_pieces: Audio
) -> None:
    async with asyncio.timeout(PATIENCE_S):
        heard = await asyncio.gather(*(ears.listen(name, in_pieces(fellow)) for name in "abc"))
    assert heard[0] == heard[1] == heard[2]
    assert "fellow" in heard[0]


async def test_recognisers_are_loaded_one_by_one_up_to_the_bound(
    recogniser: Recogniser, fellow: bytes, in_pieces: Audio
) -> None:
    loaded = 0

    def load() -> Recogniser:
        nonlocal loaded
        loaded += 1
        return recogniser

    ears = Ears(count=2, load=load)
    assert loaded == 1
    first = await ears.borrow()
    assert loaded == 1
    second = await ears.borrow()
    assert loaded == 2
    third = asyncio.create_task(ears.listen("a", in_pieces(fellow)))
    ears.give_back(first, None)
    async with asyncio.timeout(PATIENCE_S):
        assert "fellow" in await third
    ears.give_back(second, None)
    assert loaded == 2
    ears.close()


async def test_a_recogniser_that_cannot_be_loaded_leaves_room_for_the_next_attempt(
    recogniser: Recogniser,
) -> None:
    answers: list[Recogniser | EngineError] = [recogniser, EngineError("no memory"), recogniser]

    def load() -> Recogniser:
        answer = answers.pop(0)
        if isinstance(answer, EngineError):
            raise answer
        return answer

    ears = Ears(count=2, load=load)
    await ears.borrow()
    with pytest.raises(EngineError, match="no memory"):
        await ears.borrow()
    async with asyncio.timeout(PATIENCE_S):
        assert await ears.borrow() is recogniser
    ears.close()


async def test_who_stops_in_mid_utterance_lets_another_be_heard(
    ears: Ears, fellow: bytes, in_pieces: Audio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ears_module, "STALL_S", 0.05)
    speaker = Speaker(fellow, then=fellow)
    async with asyncio.timeout(PATIENCE_S):
        slow = asyncio.create_task(ears.listen("slow", aiter(speaker)))
        await speaker.silent.wait()
        assert "fellow" in await ears.listen("quick", in_pieces(fellow))
        speaker.go_on.set()
        assert (await slow).count("fellow") == 2


async def test_a_cancelled_hearing_stops_at_once_and_gives_its_recogniser_back(
    ears: Ears, jfk: bytes, in_pieces: Audio, slices: Slices
) -> None:
    hearing = asyncio.create_task(ears.listen("a", in_pieces(jfk, len(jfk))))
    async with asyncio.timeout(PATIENCE_S):
        assert await asyncio.to_thread(slices.begun.wait, PATIENCE_S)
        hearing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hearing
        begun = slices.count
        ears.give_back(await ears.borrow(), None)
    assert slices.count == begun < 10


async def test_a_hearing_that_is_cancelled_while_it_waits_takes_none(
    ears: Ears, fellow: bytes, in_pieces: Audio
) -> None:
    taken = await ears.borrow()
    waiting = asyncio.create_task(ears.listen("a", in_pieces(fellow)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    ears.give_back(taken, None)
    async with asyncio.timeout(PATIENCE_S):
        assert "fellow" in await ears.listen("b", in_pieces(fellow))


async def test_what_the_audio_raises_is_raised_as_it_is(ears: Ears, fellow: bytes, in_pieces: Audio) -> None:
    async def closed() -> AsyncIterator[bytes]:
        yield fellow
        raise TurnClosed("closed while the user spoke")

    with pytest.raises(TurnClosed):
        await ears.listen("a", closed())
    async with asyncio.timeout(PATIENCE_S):
        assert "fellow" in await ears.listen("b", in_pieces(fellow))


async def test_a_speaker_who_was_understood_is_known_the_next_time(
    ears: Ears, jfk: bytes, fellow: bytes, in_pieces: Audio, means: list[int]
) -> None:
    await ears.listen("a", in_pieces(jfk[: 4 * SECOND_BYTES]))
    assert means == [3 * SECOND_BYTES]
    await ears.listen("a", in_pieces(fellow))
    assert len(means) == 1
    await ears.listen("b", in_pieces(fellow))
    assert len(means) == 2


async def test_a_mean_of_too_little_speech_is_not_kept(
    ears: Ears, fellow: bytes, in_pieces: Audio, means: list[int]
) -> None:
    for _ in range(2):
        assert "fellow" in await ears.listen("a", in_pieces(fellow))
    assert len(means) == 2
    assert max(means) <= len(fellow)


async def test_no_more_speakers_are_known_than_the_bound(
    ears: Ears, fellow: bytes, in_pieces: Audio, means: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ears_module, "MAX_MEANS", 1)
    monkeypatch.setattr(ears_module, "MEAN_BYTES", SECOND_BYTES)
    for speaker in ("a", "b", "b", "a"):
        await ears.listen(speaker, in_pieces(fellow))
    assert len(means) == 3
