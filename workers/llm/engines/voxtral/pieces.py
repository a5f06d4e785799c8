"""What a prompt is made of: token ids and windows of sound, in order. Knows no model and no tokenizer."""

from __future__ import annotations

from dataclasses import dataclass

SAMPLE_RATE = 16_000
"""Samples a second of the sound that the encoder takes."""

WINDOW_S = 30
WINDOW_BYTES = WINDOW_S * SAMPLE_RATE * 2
"""PCM16 of one window; a shorter one is padded with silence."""

WINDOW_TOKENS = 375
"""Places that one window takes in the prompt, however short its sound is."""


@dataclass(frozen=True, slots=True)
class Ids:
    """Token ids, each one place in the prompt."""

    ids: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Places in the prompt."""
        return len(self.ids)


@dataclass(frozen=True, slots=True, repr=False)
class Window:
    """Sound of at most 30 s, PCM16 little-endian mono 16 kHz: `WINDOW_TOKENS` places in the prompt."""

    pcm: bytes

    @property
    def tokens(self) -> int:
        """Places in the prompt."""
        return WINDOW_TOKENS


Piece = Ids | Window
