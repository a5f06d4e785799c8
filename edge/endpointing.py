"""Where an utterance starts, pauses and ends, out of how likely each window holds a voice. Pure.

    SILENT ─ voice ─> MAYBE ─ min_speech_ms ─> SPEAKING ─ pause_ms ─> PAUSED ─ silence_ms ─> SILENT
                        │                         ▲                     │
                        └─ too short ─> SILENT    └─────── voice ───────┘

Counts samples of the conversation's input at 16 kHz, and nothing else: how fast they arrive does not matter.
Knows neither the audio nor who judged it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

AUTO_SILENCE_MS = 500.0
"""What `silence_ms: "auto"` begins with in each utterance, before any pause was heard in it."""


class Silence(StrEnum):
    """How long a silence ends an utterance, where that is not a number of milliseconds."""

    AUTO = "auto"


@dataclass(frozen=True, slots=True)
class ServerVad:
    """What a client may set of voice activity detection.

    `threshold`: how likely a window must hold a voice, 0 to 1. `prefix_padding_ms` of the input before the
    first voice belong to the utterance. After `pause_ms` without a voice it may have ended, after
    `silence_ms` it has. What is shorter than `min_speech_ms` is no speech.
    """

    threshold: float = 0.5
    prefix_padding_ms: float = 300.0
    silence_ms: float | Silence = 500.0
    pause_ms: float = 200.0
    min_speech_ms: float = 200.0


@dataclass(frozen=True, slots=True)
class Onset:
    """Somebody may have begun to speak at `place`."""

    place: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """What began at the last onset was too short to be speech."""

    place: int


@dataclass(frozen=True, slots=True)
class Started:
    """It is speech: an utterance that began at `place`, the place of its onset."""

    place: int


@dataclass(frozen=True, slots=True)
class Paused:
    """The utterance may have ended; `place` is the end of the window by which that was known."""

    place: int


@dataclass(frozen=True, slots=True)
class Continued:
    """It has not: there is voice again, from `place` on."""

    place: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The utterance has ended; `place` is the end of the window by which that was known."""

    place: int


Event = Onset | Dropped | Started | Paused | Continued | Ended
