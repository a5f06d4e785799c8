"""The spectrogram beside that of the real feature extractor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from workers.llm.engines.voxtral import mel
from workers.llm.engines.voxtral.pieces import SAMPLE_RATE

CPU = torch.device("cpu")
SECOND = SAMPLE_RATE


def extracted(pcm: bytes) -> torch.Tensor:
    """What the library makes of it, (bins, frames)."""
    samples = np.frombuffer(pcm, "<i2").astype(np.float32) / 32768
    extractor = WhisperFeatureExtractor(feature_size=mel.BINS)
    return extractor(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features[0]


def noise(samples: int, loudness: float) -> bytes:
    drawn = np.random.default_rng(samples).normal(0, loudness, samples)
    return np.clip(drawn, -32768, 32767).astype("<i2").tobytes()


@pytest.mark.parametrize(
    "pcm",
    [
        pytest.param(noise(3 * SECOND, 3000), id="three seconds"),
        pytest.param(noise(30 * SECOND, 3000), id="a whole window"),
        pytest.param(noise(1, 3000), id="one sample"),
        pytest.param(noise(SECOND, 2), id="hardly a sound"),
        pytest.param(bytes(2 * SECOND), id="silence"),
        pytest.param(noise(SECOND, 60_000), id="clipped"),
    ],
)
def test_a_window_looks_as_the_real_extractor_sees_it(pcm: bytes) -> None:
    window = mel.log_mel(pcm, mel.filters(CPU))
    assert window.shape == (mel.BINS, mel.FRAMES)
    torch.testing.assert_close(window, extracted(pcm), rtol=0, atol=1e-4)


def test_speech_looks_as_the_real_extractor_sees_it(jfk: bytes) -> None:
    torch.testing.assert_close(mel.log_mel(jfk, mel.filters(CPU)), extracted(jfk), rtol=0, atol=1e-4)
