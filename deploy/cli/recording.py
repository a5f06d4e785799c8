"""A recording as an utterance: a WAV file, as fast as it was spoken.

It comes at 16 kHz, which is what servers hear, whatever the file's rate: so places in it are exact, and a
lost socket costs no sample.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Iterable, Iterator
from pathlib import Path
from typing import Protocol, Self

from shared.audio import INPUT_RATE, SAMPLE_BYTES, InputDecoder, duration_ms
from shared.errors import AudioError, ParleyError

MAX_FILE_BYTES = 256 << 20


class Unusable(ParleyError):
    """Raised when a file or a device cannot be used."""


class NothingAsked(Unusable):
    """Raised when who should speak has left without a question."""


class Source(Protocol):
    """Something that speaks: PCM16 mono at `rate`."""

    rate: int

    @property
    def length_s(self) -> float | None:
        """How long it speaks, where that is known beforehand."""
        ...

    def slices(self, slice_ms: float) -> AsyncGenerator[bytes, None]:
        """The utterance as it is spoken, in slices of about `slice_ms`. Raises `NothingAsked`."""
        ...

    def endless(self, slice_ms: float) -> AsyncGenerator[bytes, None]:
        """All that is spoken and all silence, until who speaks leaves."""
        ...


class Recording:
    """A WAV file, of any rate and encoding that `shared.audio` reads. `pcm` is all of it."""

    def __init__(self, pcm: bytes) -> None:
        self.rate = INPUT_RATE
        self.pcm = pcm

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises `Unusable`, with a line that says what is wrong with the file."""
        try:
            with path.open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)  # what is no plain file does not tell its size
            if len(data) > MAX_FILE_BYTES:
                raise Unusable(f"{path}: larger than {MAX_FILE_BYTES >> 20} MiB")
            decoder = InputDecoder("wav", INPUT_RATE)
            pcm = decoder.feed(data) + decoder.flush()
        except OSError as error:
            raise Unusable(f"{path}: {error.strerror}") from None
        except AudioError as error:
            raise Unusable(f"{path}: {error}") from None
        if not pcm:
            raise Unusable(f"{path}: there is no sound in it")
        return cls(pcm)

    @property
    def length_s(self) -> float | None:
        """How long it is."""
        return duration_ms(self.pcm, self.rate) / 1000

    def slices(self, slice_ms: float) -> AsyncGenerator[bytes, None]:
        """Each slice at the time at which a microphone would have it."""
        return _as_spoken(self._pieces(slice_ms), self.rate)

    def endless(self, slice_ms: float) -> AsyncGenerator[bytes, None]:
        """The same, and then silence for ever, as a microphone goes on that nobody speaks into."""
        silence = itertools.repeat(bytes(self._size(slice_ms)))
        return _as_spoken(itertools.chain(self._pieces(slice_ms), silence), self.rate)

    def _pieces(self, slice_ms: float) -> Iterator[bytes]:
        size = self._size(slice_ms)
        return (self.pcm[place : place + size] for place in range(0, len(self.pcm), size))

    def _size(self, slice_ms: float) -> int:
        return max(1, int(slice_ms * self.rate / 1000)) * SAMPLE_BYTES


class AtOnce(Recording):
    """A recording that need not be waited for: nobody listens along."""

    async def slices(self, slice_ms: float) -> AsyncGenerator[bytes, None]:
        """Each slice as soon as it is wanted."""
        for data in self._pieces(slice_ms):
            yield data


async def _as_spoken(pieces: Iterable[bytes], rate: int) -> AsyncGenerator[bytes, None]:
    start_at = time.monotonic()
    spoken_bytes = 0
    for data in pieces:
        spoken_bytes += len(data)
        spoken_s = spoken_bytes / SAMPLE_BYTES / rate
        await asyncio.sleep(max(0.0, start_at + spoken_s - time.monotonic()))
        yield data
