"""How long an utterance may be, and its audio as entries for the log. Pure."""

from __future__ import annotations

from edge.intake import Slice
from shared.audio import INPUT_RATE, SAMPLE_BYTES
from shared.wire import Chunk

PIECE_BYTES = 64 << 10
"""What one `chunk` entry holds at the most: two seconds."""


class Measure:
    """Of one utterance after the other. `left_samples`: how much more the present one may hold."""

    def __init__(self, max_utterance_s: float) -> None:
        self.max_samples = int(max_utterance_s * INPUT_RATE)
        self.left_samples = self.max_samples

    def begin(self, samples: int = 0) -> None:
        """An utterance begins, or goes on of which so much stands in the log."""
        self.left_samples = max(0, self.max_samples - samples)

    @property
    def full(self) -> bool:
        """Whether the utterance has reached its longest."""
        return self.left_samples == 0

    def entries(self, slice_: Slice) -> list[Chunk]:
        """The entries for as much of a slice as there is room for."""
        taken = slice_.pcm[: self.left_samples * SAMPLE_BYTES]
        self.left_samples -= len(taken) // SAMPLE_BYTES
        return [
            Chunk(slice_.place + start // SAMPLE_BYTES, taken[start : start + PIECE_BYTES])
            for start in range(0, len(taken), PIECE_BYTES)
        ]
