"""From what the model gives to what is heard: floats at 24 kHz to PCM16 without clicks.

Knows no model and no text. Works on the whole sound of one text, which the model makes in one go.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shared.audio import OUTPUT_RATE
from shared.errors import EngineError

Samples = NDArray[np.float32]
"""Mono at 24,000 a second, 1.0 being full scale."""

FADE_SAMPLES = OUTPUT_RATE * 5 // 1000
"""At both ends: 5 ms take the click from a join, and nothing from a consonant."""

LEAD_SAMPLES = OUTPUT_RATE * 20 // 1000
"""What is left before the first sound, which may begin softly."""

PEAK = 0.98
"""The loudest sample of a sound that would be too loud otherwise."""

_WINDOW_SAMPLES = OUTPUT_RATE * 5 // 1000
_SILENT = 10 ** (-40 / 20)
"""Silence is 40 dB below the loudest window: the model's noise floor is below it, the softest f above."""


def to_pcm16(samples: Samples, *, head: bool) -> bytes:
    """The sound as it is sent: faded at both ends, within full scale. `head`: without silence before it.

    Raises `EngineError` (retryable) for no samples, or such as are no numbers.
    """
    if samples.ndim != 1 or not len(samples):
        raise EngineError("Kokoro gave no sound", retryable=True)
    peak = float(np.abs(samples).max())
    if not np.isfinite(peak):
        raise EngineError("Kokoro gave a sound that is not a number", retryable=True)
    if head:
        samples = samples[max(0, _first_sound(samples) - LEAD_SAMPLES) :]
    samples = _faded(samples) * np.float32(32767 * (PEAK / peak if peak > PEAK else 1))
    return np.rint(samples).astype("<i2").tobytes()


def _first_sound(samples: Samples) -> int:
    """Where the first window begins that is no silence; 0 where all is."""
    whole = len(samples) - len(samples) % _WINDOW_SAMPLES
    power = np.square(samples[:whole]).reshape(-1, _WINDOW_SAMPLES).mean(axis=1)
    loud = np.flatnonzero(power > power.max(initial=0.0) * _SILENT**2)
    return int(loud[0]) * _WINDOW_SAMPLES if len(loud) else 0


def _faded(samples: Samples) -> Samples:
    length = min(FADE_SAMPLES, len(samples) // 2)
    rise = (0.5 - 0.5 * np.cos(np.linspace(0, np.pi, length))).astype(np.float32)
    faded = samples.copy()
    faded[:length] *= rise
    faded[len(faded) - length :] *= rise[::-1]
    return faded
