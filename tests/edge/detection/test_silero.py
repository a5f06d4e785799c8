"""The real model: what it makes of voices and of everything else."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.detection import WINDOW_SAMPLES, Heard
from edge.detection.silero import MODEL, SHA256, Silero, load
from edge.endpointing import (
    Continued,
    Dropped,
    Ended,
    Endpointing,
    Event,
    Onset,
    Paused,
    ServerVad,
    Started,
)
from shared.audio import INPUT_RATE
from shared.errors import EngineError
from tests import sounds

SAME = 1e-5
WINDOW_BYTES = 2 * WINDOW_SAMPLES

PAUSES_MS = ((2232, 3288), (4408, 5400), (7640, 8184), (10552, 10904))
"""In the recording: the breaths between its phrases, as far as they are longer than 300 ms."""


@pytest.fixture
def silero() -> Iterator[Silero]:
    silero = Silero()
    yield silero
    silero.close()


async def judge(silero: Silero, pcm: bytes, vad: ServerVad | None = None) -> list[Event]:
    """The endpoints in this input, by the default settings."""
    endpointing = Endpointing(vad or ServerVad())
    return [event for heard in await silero.ear().hear(pcm) for event in endpointing.feed(heard)]


def ms(event: Event) -> float:
    return event.place * 1000 / INPUT_RATE


async def in_pieces(silero: Silero, pcm: bytes, seed: int) -> list[Heard]:
    """What is made of it when it comes in pieces of any length, an odd number of bytes too."""
    cut = random.Random(seed)
    ear = silero.ear()
    heard: list[Heard] = []
    at = 0
    while at < len(pcm):
        size = cut.randrange(1, 4000)
        heard += await ear.hear(pcm[at : at + size])
        at += size
        await asyncio.sleep(0)
    return heard


# ---- a voice


async def test_the_recording_begins_where_its_speaker_does(silero: Silero) -> None:
    onset, started, *_ = await judge(silero, sounds.recording())
    assert isinstance(onset, Onset) and isinstance(started, Started)
    assert abs(ms(onset) - 320) <= 150


async def test_pauses_are_where_the_speaker_breathes(silero: Silero) -> None:
    vad = ServerVad(silence_ms=1500)
    events = await judge(silero, sounds.recording() + sounds.silence(2), vad)
    assert [type(event) for event in events] == [Onset, Started, *[Paused, Continued] * 4, Paused, Ended]
    for paused, continued, (quiet_from, quiet_to) in zip(
        events[2:10:2], events[3:10:2], PAUSES_MS, strict=True
    ):
        assert abs(ms(paused) - vad.pause_ms - quiet_from) <= 64
        assert abs(ms(continued) - quiet_to) <= 64


async def test_half_a_second_of_silence_makes_phrases_of_the_recording(silero: Silero) -> None:
    events = await judge(silero, sounds.recording() + sounds.silence(2))
    assert sum(isinstance(event, Started) for event in events) == 4
    assert sum(isinstance(event, Ended) for event in events) == 4
    assert not any(isinstance(event, Dropped) for event in events)


async def test_a_voice_too_short_to_be_speech_is_dropped(silero: Silero) -> None:
    events = await judge(silero, sounds.silence(1) + sounds.voice(100) + sounds.silence(1))
    assert [type(event) for event in events] == [Onset, Dropped]


async def test_what_shall_be_voice_throughout_is(silero: Silero) -> None:
    events = await judge(silero, sounds.silence(0.5) + sounds.voice(2240) + sounds.silence(1))
    assert [type(event) for event in events] == [Onset, Started, Paused, Ended]


# ---- everything else


@pytest.mark.parametrize("level_db", [-30.0, -20.0, -10.0])
@pytest.mark.parametrize("name", sounds.NOT_VOICES)
async def test_eight_seconds_of_what_is_no_voice_start_nothing(
    silero: Silero, name: str, level_db: float
) -> None:
    tried = [sounds.NOT_VOICES[name](8, level_db, seed) for seed in range(3)]
    assert await asyncio.gather(*(judge(silero, pcm) for pcm in tried)) == [[], [], []]


@pytest.mark.parametrize("level_db", [-30.0, -20.0, -10.0])
async def test_a_cough_starts_nothing(silero: Silero, level_db: float) -> None:
    for seed in range(3):
        cough = sounds.silence(0.5) + sounds.cough(150, level_db, seed) + sounds.silence(0.5)
        assert not any(isinstance(event, Started) for event in await judge(silero, cough))


# ---- however it comes


async def test_many_at_once_and_in_pieces_hear_what_each_would_hear_alone(silero: Silero) -> None:
    inputs = [
        sounds.recording(),
        sounds.music(5) + sounds.recording()[:100_000],
        sounds.recording()[64_001 * 2 :],
        sounds.voice(1500) + sounds.noise(2, -30),
        sounds.typing(3) + sounds.voice(700),
    ]
    alone = [await silero.ear().hear(pcm) for pcm in inputs]
    together = await asyncio.gather(*(in_pieces(silero, pcm, seed) for seed, pcm in enumerate(inputs)))
    for heard, same, pcm in zip(alone, together, inputs, strict=True):
        assert len(heard) == len(same) == len(pcm) // WINDOW_BYTES
        assert [window.voice for window in same] == pytest.approx(
            [window.voice for window in heard], abs=SAME
        )
        assert all(window.ended is None for window in heard)
    assert max(window.voice for window in alone[0]) > 0.9


async def test_who_forgot_hears_as_for_the_first_time(silero: Silero) -> None:
    ear = silero.ear()
    first = await ear.hear(sounds.voice(500) + b"\1\2\3")
    assert await ear.hear(sounds.voice(500)) != first
    ear.forget()
    assert await ear.hear(sounds.voice(500)) == first


# ---- the file


def test_the_model_is_the_one_that_is_told_of() -> None:
    assert hashlib.sha256(MODEL.read_bytes()).hexdigest() == SHA256
    assert "MIT License" in MODEL.with_name("silero_vad.LICENSE").read_text()


def test_another_file_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "silero_vad.onnx"
    other.write_bytes(MODEL.read_bytes()[:-1] + b"?")
    with pytest.raises(EngineError, match=r"silero_vad\.onnx is not the model .* SHA-256"):
        load(other)


def test_a_missing_file_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"cannot be read.*No such file"):
        load(tmp_path / "silero_vad.onnx")
