"""The plain way: the library's own `generate()` with a streamer, one conversation at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from transformers import WhisperFeatureExtractor

from tests.bench.models.bench import Bench, Figures
from tests.bench.models.figures import short, spread
from tests.bench.models.models import Models
from workers.llm.engines.voxtral.pieces import SAMPLE_RATE


class Times:
    """A streamer that only notes when it was given something. The first gift is the prompt."""

    def __init__(self) -> None:
        self.at_s: list[float] = []

    def put(self, ids: Any) -> None:
        """Ids on the host: what made them has ended."""
        self.at_s.append(time.perf_counter())

    def end(self) -> None:
        """Nothing more comes."""


def run(bench: Bench, figures: Figures) -> None:
    """First token after the end of an utterance, and each token then, in ms; tokens a second."""
    plan, models = bench.plan, bench.models
    run_s = plan.first_token_s + plan.plain_tokens * plan.token_s
    firsts, tokens = [], []
    with never_ending(models.voxtral):
        if plan.plain_runs > 1 and bench.time_for("plain: generate(), to warm up", run_s):
            answer(models, models.utterance(0), plan.plain_tokens)
        for number in range(plan.plain_runs):
            if bench.time_for(f"plain: generate(), run {number + 1} of {plan.plain_runs}", run_s):
                first_ms, gaps_ms = answer(models, models.utterance(number), plan.plain_tokens)
                firsts.append(first_ms)
                tokens += gaps_ms
                figures |= {
                    "first_token_ms": spread(firsts),
                    "token_ms": spread(tokens),
                    "tokens_per_s": short(1000 * len(tokens) / sum(tokens)),
                }


def answer(models: Models, pcm: bytes, tokens: int) -> tuple[float, list[float]]:
    """One answer: ms to its first token, and from each to the next."""
    times = Times()
    began = time.perf_counter()
    wave = np.frombuffer(pcm, "<i2").astype(np.float32) / 32768
    features = _extractor()(wave, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
    before, after = models.prompt(pcm)
    ids = torch.tensor([models.ids(before + after)], device=models.device)
    model = models.voxtral
    with torch.inference_mode():
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            input_features=features.to(models.device, model.dtype),
            max_new_tokens=tokens,
            do_sample=False,
            streamer=times,
        )
    _, first, *_ = times.at_s
    gaps = zip(times.at_s[1:], times.at_s[2:], strict=False)
    return (first - began) * 1000, [(later - earlier) * 1000 for earlier, later in gaps]


@cache
def _extractor() -> Any:
    return WhisperFeatureExtractor(feature_size=128)


@contextmanager
def never_ending(model: Any) -> Iterator[None]:
    """Within, the model does not stop by itself, and computes attention as the library does."""
    settings, text = model.generation_config, model.model.language_model
    ends, settings.eos_token_id = settings.eos_token_id, None
    attention = text.config._attn_implementation
    text.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        settings.eos_token_id = ends
        text.set_attn_implementation(attention)
