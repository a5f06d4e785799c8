"""Sounds to try a detector of voices with: PCM16, mono, 16 kHz, the same again for the same seed.

`level_db` is the root mean square of the whole against full scale. Peaks that do not fit are cut off.
"""

from __future__ import annotations

import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.audio import INPUT_RATE

RECORDING = Path(__file__).parent / "audio" / "jfk.wav"

VOICE_FROM_MS = 5400
VOICE_TO_MS = 7640
"""Of the recording: its longest stretch with a voice in it throughout."""

Wave = NDArray[np.float64]


def silence(seconds: float, level_db: float = -20.0, seed: int = 0) -> bytes:
    """Nothing at all, whatever the level and the seed."""
    return bytes(2 * _samples(seconds))


def noise(seconds: float, level_db: float = -20.0, seed: int = 0) -> bytes:
    """White noise."""
    return _pcm(np.random.default_rng(seed).normal(size=_samples(seconds)), level_db)


def typing(seconds: float, level_db: float = -20.0, seed: int = 0) -> bytes:
    """Clicks of 8 ms, 4 to 12 a second, in bursts with rests between them."""
    random = np.random.default_rng(seed)
    sound = np.zeros(_samples(seconds))
    at = 0.0
    while at < seconds:
        for _ in range(random.integers(3, 12)):
            click = (
                random.normal(size=_samples(0.05)) * np.exp(-_times(0.05) / 0.008) * random.uniform(0.5, 1)
            )
            _add(sound, at, click)
            at += random.uniform(0.08, 0.25)
        at += random.uniform(0.2, 0.8)
    return _pcm(sound, level_db)


def music(seconds: float, level_db: float = -20.0, seed: int = 0) -> bytes:
    """Four chords, struck twice a second, and a melody over them: tones with harmonics that die away."""
    random = np.random.default_rng(seed)
    sound = np.zeros(_samples(seconds))
    chords = ((48, 60, 64, 67), (45, 57, 60, 64), (41, 53, 57, 60), (43, 55, 59, 62))
    for beat in range(int(seconds * 2)):
        chord = chords[beat // 2 % 4]
        for key in chord:
            _add(sound, beat / 2, 0.5 * _tone(key, 0.9, decay_s=0.4))
        for half in (0.0, 0.25):
            _add(sound, beat / 2 + half, _tone(int(random.choice(chord[1:])) + 12, 0.4, decay_s=0.2))
    return _pcm(sound, level_db)


def cough(ms: float = 150.0, level_db: float = -20.0, seed: int = 0) -> bytes:
    """One burst of noise that dies away, darker than white, `level_db` over its length."""
    burst = np.random.default_rng(seed).normal(size=_samples(ms / 1000))
    dark = np.convolve(burst, np.hanning(9), mode="same")
    return _pcm(dark * np.exp(-3 * np.arange(dark.size) / dark.size), level_db)


def voice(ms: float) -> bytes:
    """A slice of the recording that is voice throughout. At most 2,240 ms."""
    if not 0 <= ms <= VOICE_TO_MS - VOICE_FROM_MS:
        raise ValueError(f"{ms} ms of voice; there are {VOICE_TO_MS - VOICE_FROM_MS}")
    start = _samples(VOICE_FROM_MS / 1000)
    return recording()[2 * start : 2 * (start + _samples(ms / 1000))]


def recording() -> bytes:
    """The whole recording, 11 s."""
    with wave.open(str(RECORDING)) as file:
        whole: bytes = file.readframes(file.getnframes())
    return whole


NOT_VOICES: dict[str, Callable[[float, float, int], bytes]] = {
    "silence": silence,
    "noise": noise,
    "typing": typing,
    "music": music,
}


def _tone(key: int, seconds: float, *, decay_s: float) -> Wave:
    """A key of a piano by its MIDI number."""
    pitch = 440 * 2 ** ((key - 69) / 12)
    times = _times(seconds)
    tone = np.zeros(times.size)
    for harmonic in range(1, 6):
        tone += np.sin(2 * np.pi * pitch * harmonic * times) / harmonic
    tone *= np.minimum(times / 0.005, 1) * np.exp(-times / decay_s)
    return tone


def _add(sound: Wave, at_s: float, part: Wave) -> None:
    start = _samples(at_s)
    sound[start : start + part.size] += part[: max(sound.size - start, 0)]


def _pcm(sound: Wave, level_db: float) -> bytes:
    level = np.sqrt(np.mean(sound**2))
    scaled = sound / level * 10 ** (level_db / 20) if level else sound
    whole: bytes = (np.clip(scaled, -1, 1) * 32767).astype("<i2").tobytes()
    return whole


def _samples(seconds: float) -> int:
    return round(seconds * INPUT_RATE)


def _times(seconds: float) -> Wave:
    times: Wave = np.arange(_samples(seconds)) / INPUT_RATE
    return times
