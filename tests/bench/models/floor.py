"""What no program can beat: the bytes of the weights that a token needs, over the speed of the memory.

The speed is that of a copy within the device's memory, read and written bytes counted, measured here and now.
"""

from __future__ import annotations

import time

import torch

from tests.bench.models.bench import Bench, Figures
from tests.bench.models.figures import short
from tests.bench.models.models import bytes_of

COPY_BYTES = {"cuda": 4 << 30, "cpu": 128 << 20}
"""Far more than any cache holds."""

COPIES = 15


def run(bench: Bench, figures: Figures) -> None:
    """The speed, and the floors in ms that follow from it."""
    bench.say("floor: copying within the memory")
    speed = bytes_per_s(bench.models.device)
    model = bench.models.voxtral
    text = model.model.language_model
    token = bytes_of(text.layers, text.norm, model.lm_head)
    first = token + bytes_of(model.model.audio_tower, model.model.multi_modal_projector)
    figures |= {
        "copy_bytes_per_s": short(speed),
        "token_weight_bytes": token,
        "token_ms": short(token / speed * 1000),
        "first_token_weight_bytes": first,
        "first_token_ms": short(first / speed * 1000),
    }


def bytes_per_s(device: torch.device) -> float:
    """Bytes read and written a second by the fastest of a few copies: a floor is for the best case."""
    size = COPY_BYTES[device.type]
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    seconds = []
    for _ in range(COPIES):
        wait_for(device)
        began = time.perf_counter()
        target.copy_(source)
        wait_for(device)
        seconds.append(time.perf_counter() - began)
    return 2 * size / min(seconds)


def wait_for(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
