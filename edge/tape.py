"""The newest of a conversation's input, kept until it is known what becomes of it. Pure."""

from __future__ import annotations

from edge.intake import Slice
from shared.audio import SAMPLE_BYTES


class Tape:
    """Input from the place `start` up to the place `end`, both in samples; PCM16."""

    def __init__(self, place: int) -> None:
        self.restart(place)

    def restart(self, place: int) -> None:
        """Forget everything; what comes next lies at `place`."""
        self.start = place
        self._pcm = bytearray()

    @property
    def end(self) -> int:
        """The place of the next sample."""
        return self.start + len(self._pcm) // SAMPLE_BYTES

    def add(self, pcm: bytes) -> None:
        """Take what comes next."""
        self._pcm += pcm

    def between(self, start: int, end: int) -> Slice:
        """What lies there, as far as it is here."""
        start = max(start, self.start)
        first, last = ((place - self.start) * SAMPLE_BYTES for place in (start, max(start, end)))
        return Slice(start, bytes(self._pcm[first:last]))

    def forget(self, before: int) -> None:
        """Keep only what lies at `before` and after it."""
        if before > self.start:
            samples = min(before, self.end) - self.start
            del self._pcm[: samples * SAMPLE_BYTES]
            self.start += samples
