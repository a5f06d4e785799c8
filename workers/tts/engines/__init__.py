"""The seam of the voices: what every synthesizer does, and how one is chosen by name.

Knows no voice library: each engine is one module, imported only when it is asked for.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Voice:
    """A voice as clients name it, and the language it speaks (a BCP 47 tag)."""

    name: str
    language: str


@dataclass(frozen=True, slots=True)
class SpeechRequest:
    """One semantic chunk to speak. `voice` and `language` are `None` for the engine's default."""

    conversation: str
    turn: int
    chunk: int
    text: str
    voice: str | None = None
    language: str | None = None
    speed: float = 1.0


class Synthesizer(Protocol):
    """Text in, PCM out."""

    name: str
    default_voice: str

    def voices(self) -> tuple[Voice, ...]:
        """Every voice that the engine speaks with, the default one first."""
        ...

    def synthesize_speech_streaming(self, request: SpeechRequest) -> AsyncGenerator[bytes, None]:
        """Yield PCM16 mono 24 kHz in pieces of whole samples, of any length, as soon as each exists.

        Text that holds nothing to speak yields nothing. Closing the iterator cancels the work. Raises
        `EngineError`, with `retryable=False` for a voice or language that does not exist.
        """
        ...

    async def synthesize_speech(self, request: SpeechRequest) -> bytes:
        """The whole chunk at once, PCM16 mono 24 kHz. Raises `EngineError`."""
        ...
