"""Where an utterance starts, pauses and ends, out of how likely each window holds a voice. Pure.

    SILENT ─ voice ─> MAYBE ─ min_speech_ms ─> SPEAKING ─ pause_ms ─> PAUSED ─ silence_ms ─> SILENT
                        │                         ▲                     │
                        └─ too short ─> SILENT    └─────── voice ───────┘

Counts samples of the conversation's input at 16 kHz, and nothing else: how fast they arrive does not matter.
Knows neither the audio nor who judged it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum, StrEnum

from edge.detection import WINDOW_SAMPLES, Heard
from shared.audio import INPUT_RATE

AUTO_SILENCE_MS = 500.0
"""What `silence_ms: "auto"` begins with in each utterance, before any pause was heard in it."""

AUTO_FACTOR = 1.5
"""With `auto` a silence must be so many times as long as the longest pause before the user went on."""

AUTO_CAP_MS = 2000.0
"""What `auto` never waits longer than."""

HYSTERESIS = 0.15
"""A voice stands until a window is by so much less likely to hold one than the threshold.

As in Silero's own code; of a low threshold at most half, for nothing would ever be silent below it."""

OVER = 0.5
"""How likely a detector must find it that the utterance is over, for a pause to end it."""


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


class _State(Enum):
    SILENT = "silent"
    MAYBE = "maybe"
    SPEAKING = "speaking"
    PAUSED = "paused"


class Endpointing:
    """The endpoints in one conversation's input from `place` on.

    `place` is the end of what was judged, `onset` where the utterance or the candidate began, `voice_upto`
    the end of the last window with a voice in it; the latter two say nothing while neither stands.
    """

    def __init__(self, vad: ServerVad, place: int = 0) -> None:
        self.vad = vad
        self.place = place
        self.onset = place
        self.voice_upto = place
        self._state = _State.SILENT
        self._voiced = False
        """Of the last window."""
        self._voiced_samples = 0
        """Since the onset."""
        self._quiet_samples = 0
        """In a row, up to `place`."""
        self._longest_pause = 0
        """Samples, of those after which the utterance went on."""
        self._quiet_below = vad.threshold - min(HYSTERESIS, vad.threshold / 2)
        self._pause = _samples(vad.pause_ms)
        self._min_speech = _samples(vad.min_speech_ms)

    @property
    def maybe(self) -> bool:
        """Somebody may have begun to speak: a candidate, not yet an utterance."""
        return self._state is _State.MAYBE

    @property
    def speaking(self) -> bool:
        """An utterance stands, paused or not."""
        return self._state in (_State.SPEAKING, _State.PAUSED)

    @property
    def paused(self) -> bool:
        """An utterance stands, and may have ended."""
        return self._state is _State.PAUSED

    @property
    def silence_ms(self) -> float:
        """After how much silence the utterance ends, as things stand."""
        if isinstance(self.vad.silence_ms, Silence):
            learned = AUTO_FACTOR * self._longest_pause * 1000 / INPUT_RATE
            return min(max(AUTO_SILENCE_MS, learned), AUTO_CAP_MS)
        return self.vad.silence_ms

    def resume(self, *, paused: bool) -> None:
        """An utterance stands already at `place`, found in the log by a session that took it over."""
        self._begin()
        self._state = _State.PAUSED if paused else _State.SPEAKING
        self._voiced = not paused
        if paused:
            self._quiet_samples = math.ceil(self._pause / WINDOW_SAMPLES) * WINDOW_SAMPLES
            self.voice_upto = max(self.place - self._quiet_samples, 0)

    def end(self) -> None:
        """The utterance was ended by somebody else, or the candidate is of no interest any more."""
        self._state = _State.SILENT
        self._voiced = False

    def feed(self, heard: Heard) -> list[Event]:
        """Take what was made of the next window; what follows from it, in order."""
        start = self.place
        self.place += WINDOW_SAMPLES
        self._voiced = heard.voice >= (self._quiet_below if self._voiced else self.vad.threshold)
        if self._voiced:
            return self._with_voice(start)
        return self._without(over=heard.ended is not None and heard.ended >= OVER)

    def skip(self, samples: int) -> list[Event]:
        """Pass over so much input that nobody judges: it holds neither voice nor silence."""
        self.place += samples
        self._voiced = False
        if self._state is _State.MAYBE:
            self._state = _State.SILENT
            return [Dropped(self.place)]
        return []

    def _begin(self) -> None:
        self.onset = self.voice_upto = self.place
        self._voiced_samples = self._quiet_samples = self._longest_pause = 0

    def _with_voice(self, start: int) -> list[Event]:
        events: list[Event] = []
        if self._state is _State.SILENT:
            self._begin()
            self.onset = start
            self._state = _State.MAYBE
            events.append(Onset(start))
        elif self._state is _State.PAUSED:
            self._longest_pause = max(self._longest_pause, self._quiet_samples)
            self._state = _State.SPEAKING
            events.append(Continued(start))
        self._quiet_samples = 0
        self._voiced_samples += WINDOW_SAMPLES
        self.voice_upto = self.place
        if self._state is _State.MAYBE and self._voiced_samples >= self._min_speech:
            self._state = _State.SPEAKING
            events.append(Started(self.onset))
        return events

    def _without(self, *, over: bool) -> list[Event]:
        events: list[Event] = []
        self._quiet_samples += WINDOW_SAMPLES
        if self._state is _State.MAYBE and self._quiet_samples >= self._pause:
            self._state = _State.SILENT
            events.append(Dropped(self.place))
        if self._state is _State.SPEAKING and self._quiet_samples >= self._pause:
            self._state = _State.PAUSED
            events.append(Paused(self.place))
        if self._state is _State.PAUSED and (over or self._quiet_samples >= _samples(self.silence_ms)):
            self._state = _State.SILENT
            events.append(Ended(self.place))
        return events


def _samples(ms: float) -> int:
    return math.ceil(ms * INPUT_RATE / 1000)
