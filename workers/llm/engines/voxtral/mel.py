"""The log-mel spectrogram of a window of sound, straight from PCM16, on any device.

The numbers of Whisper's feature extractor: 25 ms Hann windows each 10 ms, 128 mel bands of Slaney's scale up
to 8 kHz, log10, at most 8 below the window's loudest, brought to about -1 to 1. Each window of 30 s stands by
itself, so the first can be heard while the user still speaks the second.
"""

from __future__ import annotations

import numpy as np
import torch
from transformers.audio_utils import mel_filter_bank

from workers.llm.engines.voxtral.pieces import SAMPLE_RATE, WINDOW_S

BINS = 128
FRAME_SAMPLES = 400
HOP_SAMPLES = 160
WINDOW_SAMPLES = WINDOW_S * SAMPLE_RATE
FRAMES = WINDOW_SAMPLES // HOP_SAMPLES
"""Of one window: 3,000."""

QUIETEST = 1e-10
RANGE = 8.0
"""In powers of ten, below the loudest."""


def filters(device: torch.device) -> torch.Tensor:
    """The mel bands over the spectrum, (BINS, 201), float32."""
    bank = mel_filter_bank(
        num_frequency_bins=FRAME_SAMPLES // 2 + 1,
        num_mel_filters=BINS,
        min_frequency=0.0,
        max_frequency=SAMPLE_RATE / 2,
        sampling_rate=SAMPLE_RATE,
        norm="slaney",
        mel_scale="slaney",
    )
    return torch.from_numpy(bank.T.astype(np.float32)).contiguous().to(device)


def log_mel(pcm: bytes, filters: torch.Tensor) -> torch.Tensor:
    """(BINS, FRAMES) of at most 30 s of PCM16 mono 16 kHz, padded with silence: float32 beside `filters`."""
    heard = np.frombuffer(pcm, "<i2")
    samples = np.zeros(WINDOW_SAMPLES, np.int16)
    samples[: len(heard)] = heard
    wave = torch.from_numpy(samples).to(filters.device).float() / 32768
    hann = torch.hann_window(FRAME_SAMPLES, device=filters.device)
    spectrum = torch.stft(wave, FRAME_SAMPLES, HOP_SAMPLES, window=hann, return_complex=True)
    # Its frames lie around their time, so there is one more than fits: the last, around the end.
    power = spectrum[:, :FRAMES].abs().square()
    levels = (filters @ power).clamp(min=QUIETEST).log10()
    return (levels.clamp(min=levels.max() - RANGE) + 4) / 4
