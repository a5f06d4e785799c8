"""The seam of the detectors: who tells a voice from everything else, for all conversations of an edge.

    PCM of one conversation ─> Ear ─┐
    PCM of another          ─> Ear ─┴─> Detector, off the event loop ─> how likely each window holds a voice

Knows no utterance: where one starts and ends is for `edge.endpointing` to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

WINDOW_SAMPLES = 512
"""What is judged at a time: 32 ms at 16 kHz, the only length that Silero VAD takes."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What a detector makes of one window. `voice`: how likely somebody speaks in it, 0 to 1.

    `ended`: how likely the utterance is over by its end, for a detector that tells that from a pause; `None`
    for one that does not.
    """

    voice: float
    ended: float | None = None


class Ear(Protocol):
    """One conversation's input. It remembers what it heard."""

    async def hear(self, pcm: bytes) -> list[Heard]:
        """Take more input (PCM16 mono 16 kHz, of any length) and judge each window that is full by it.

        What is left over is the beginning of the next window. One call at a time. Raises `EngineError` if one
        of the windows could not be judged. Then, and when it is cancelled, what was given is lost, and the
        ear forgets.
        """
        ...

    def forget(self) -> None:
        """What comes next has nothing to do with what came before; left-over input is dropped."""
        ...


class Detector(Protocol):
    """Hears for many conversations of one event loop at once."""

    name: str

    def ear(self) -> Ear:
        """For one more conversation; it needs no closing."""
        ...

    def close(self) -> None:
        """Wait for what is being judged, and end. Who still waits in line gets an `EngineError`."""
        ...
