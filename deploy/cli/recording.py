"""A recording as an utterance: a WAV file, as fast as it was spoken.

It comes at 16 kHz, which is what servers hear, whatever the file's rate: so places in it are exact, and a
lost socket costs no sample.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Protocol

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


class Recording:
    """A WAV file, of any rate and encoding that `shared.audio` reads."""

    def __init__(self, pcm: bytes) -> None:
        self.rate = INPUT_RATE
        self._pcm = pcm

    @classmethod
    def read(cls, path: Path) -> Recording:
        """Raises `Unusable`, with a line that says what is wrong with the file."""
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise Unusable(f"{path}: larger than {MAX_FILE_BYTES >> 20} MiB")
            data = path.read_bytes()
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
        return duration_ms(self._pcm, self.rate) / 1000

    async def slices(self, slice_ms: float) -> AsyncGenerator[bytes, None]:
        """Each slice at the time at which a microphone would have it."""
        size = max(1, int(slice_ms * self.rate / 1000)) * SAMPLE_BYTES
        start_at = time.monotonic()
        for place in range(0, len(self._pcm), size):
            data = self._pcm[place : place + size]
            spoken_s = (place + len(data)) / SAMPLE_BYTES / self.rate
            await asyncio.sleep(max(0.0, start_at + spoken_s - time.monotonic()))
            yield data
