"""From the model's floats to what is heard."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.audio import OUTPUT_RATE
from shared.errors import EngineError
from workers.tts.engines.kokoro.sound import FADE_SAMPLES, LEAD_SAMPLES, Samples, to_pcm16


def tone(samples: int, level: float = 0.5) -> Samples:
    """200 Hz, at its full level from the first sample to the last."""
    wave: Samples = np.cos(2 * np.pi * 200 / OUTPUT_RATE * np.arange(samples)).astype(np.float32)
    return np.float32(level) * wave


def noise(samples: int, level: float) -> Samples:
    return (level * np.random.default_rng(0).standard_normal(samples)).astype(np.float32)


def samples_of(pcm: bytes) -> NDArray[np.int64]:
    return np.frombuffer(pcm, "<i2").astype(np.int64)


def test_silence_before_the_first_sound_of_a_turn_is_cut_to_20_ms() -> None:
    floor = noise(7000, 0.0005)  # the model's silence is not quite
    pcm = samples_of(to_pcm16(np.concatenate([floor, tone(4800)]), head=True))
    assert abs(len(pcm) - 4800 - LEAD_SAMPLES) <= FADE_SAMPLES
    assert np.abs(pcm[:LEAD_SAMPLES]).max() < 100 < np.abs(pcm[LEAD_SAMPLES : 2 * LEAD_SAMPLES]).max()


def test_a_soft_beginning_is_no_silence() -> None:
    soft = noise(2400, 0.02)  # an f, 28 dB below the vowel
    pcm = to_pcm16(np.concatenate([soft, tone(4800)]), head=True)
    assert len(pcm) == 2 * (2400 + 4800)


def test_silence_inside_at_the_end_and_before_later_chunks_stays() -> None:
    pause = np.zeros(4800, np.float32)
    samples = np.concatenate([tone(2400), pause, tone(2400), pause])
    assert len(to_pcm16(samples, head=True)) == 2 * len(samples)
    assert len(to_pcm16(np.concatenate([pause, samples]), head=False)) == 2 * (len(samples) + 4800)


def test_nothing_but_silence_stays_as_it_is() -> None:
    assert to_pcm16(np.zeros(1000, np.float32), head=True) == bytes(2000)


@pytest.mark.parametrize("head", [True, False])
def test_where_two_chunks_meet_there_is_no_jump(head: bool) -> None:
    one, other = tone(4801, 0.9), tone(3000, -0.9)
    joined = samples_of(to_pcm16(one, head=head) + to_pcm16(other, head=False))
    assert joined[0] == joined[-1] == joined[4800] == joined[4801] == 0
    steepest = 32767 * 0.9 * 2 * np.pi * 200 / OUTPUT_RATE
    assert np.abs(np.diff(joined)).max() < 1.5 * steepest + 32767 * 0.9 * np.pi / 2 / FADE_SAMPLES


def test_but_for_its_ends_a_sound_is_what_the_model_made() -> None:
    samples = tone(4800, 0.7)
    inside = slice(FADE_SAMPLES, -FADE_SAMPLES)
    pcm = samples_of(to_pcm16(samples, head=False))
    assert np.array_equal(pcm[inside], np.rint(samples * np.float32(32767)).astype(np.int64)[inside])


def test_what_is_too_loud_is_made_softer_and_not_clipped() -> None:
    samples = tone(4800, 2.5)
    pcm = samples_of(to_pcm16(samples, head=False))
    assert 32000 < np.abs(pcm).max() <= 32767
    inside = slice(FADE_SAMPLES, -FADE_SAMPLES)
    assert np.allclose(pcm[inside] / np.abs(pcm).max(), samples[inside] / 2.5, atol=1e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_sound_that_is_not_a_number_is_an_error_that_may_pass(bad: float) -> None:
    samples = tone(4800)
    samples[100] = bad
    with pytest.raises(EngineError, match="not a number") as raised:
        to_pcm16(samples, head=True)
    assert raised.value.retryable


@pytest.mark.parametrize("samples", [np.zeros(0, np.float32), np.float32(0.3)])
def test_no_sound_at_all_is_an_error_that_may_pass(samples: Samples) -> None:
    with pytest.raises(EngineError, match="no sound") as raised:
        to_pcm16(np.asarray(samples), head=False)
    assert raised.value.retryable


@given(st.integers(1, 3 * FADE_SAMPLES), st.booleans())
def test_a_sound_of_any_length_begins_and_ends_in_silence(length: int, head: bool) -> None:
    pcm = samples_of(to_pcm16(tone(length), head=head))
    assert len(pcm) == length
    assert length == 1 or pcm[0] == pcm[-1] == 0
