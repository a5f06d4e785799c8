"""A real recording, and audio as engines get it."""

from __future__ import annotations

import wave
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from workers.llm.engines.ears import Ears
from workers.llm.engines.recogniser import SECOND_BYTES, Recogniser

RECORDING = Path(__file__).parents[3] / "audio" / "jfk.wav"

Audio = Callable[..., AsyncIterator[bytes]]


@pytest.fixture(scope="session")
def jfk() -> bytes:
    """Eleven seconds of speech, PCM16 mono 16 kHz."""
    with wave.open(str(RECORDING)) as recording:
        pcm: bytes = recording.readframes(recording.getnframes())
    return pcm


@pytest.fixture(scope="session")
def fellow(jfk: bytes) -> bytes:
    """A second and a half of it, in which the recogniser hears "fellow"."""
    return jfk[8 * SECOND_BYTES // 10 : 22 * SECOND_BYTES // 10]


@pytest.fixture(scope="session")
def recogniser() -> Recogniser:
    """One for all tests: each begins its utterances anew."""
    return Recogniser()


@pytest.fixture
def ears(recogniser: Recogniser) -> Iterator[Ears]:
    """Ears with one recogniser and no memory: if somebody does not give it back, the next waits."""
    ears = Ears(count=1, load=lambda: recogniser)
    yield ears
    ears.close()


@pytest.fixture(scope="session")
def in_pieces() -> Audio:
    """Makes audio arrive piece by piece, by default of 100 ms, as fast as it is read."""

    async def pieces(pcm: bytes, piece_bytes: int = SECOND_BYTES // 10) -> AsyncIterator[bytes]:
        for begin in range(0, len(pcm), piece_bytes):
            yield pcm[begin : begin + piece_bytes]

    return pieces
