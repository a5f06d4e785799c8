"""A model of the real classes that is small enough to be asked often, and what it says when asked alone."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import (
    DynamicCache,
    GenerationConfig,
    LlamaConfig,
    VoxtralConfig,
    VoxtralEncoderConfig,
    VoxtralForConditionalGeneration,
    WhisperFeatureExtractor,
)

from workers.llm.engines.voxtral.batch import Batch
from workers.llm.engines.voxtral.pieces import WINDOW_TOKENS, Ids, Piece, Window
from workers.llm.engines.voxtral.rows import Event, Failed, Finished, Row, Sampled
from workers.llm.engines.voxtral.sampling import Sampling, choose, draw

VOCABULARY = 211
AUDIO_ID = 24
EOS_ID = 2
GREEDY = Sampling(temperature=0, top_p=1, seed=0)


def tiny_model(seed: int = 0) -> Any:
    """Two layers each, two query heads to a head of keys, weights so wide that each token depends on much."""
    text = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=4096,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=EOS_ID,
    )
    audio = VoxtralEncoderConfig(
        hidden_size=16,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.3,
    )
    torch.manual_seed(seed)
    config = VoxtralConfig(audio_config=audio.to_dict(), text_config=text.to_dict(), audio_token_id=AUDIO_ID)
    model = VoxtralForConditionalGeneration(config).eval().requires_grad_(False)
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=EOS_ID, pad_token_id=11)
    return model


class Alone:
    """A copy of a model that answers one prompt at a time with the library's own code."""

    def __init__(self, model: Any) -> None:
        self._model = copy.deepcopy(model)
        self._extractor = WhisperFeatureExtractor(feature_size=128)
        self._features: dict[bytes, torch.Tensor] = {}
        self._answers: dict[tuple[Any, ...], list[int]] = {}

    def greedy(self, prompt: Sequence[Piece], most: int) -> list[int]:
        """What `generate` says, without the end's id."""
        key = (ids_of(prompt), tuple(piece.pcm for piece in prompt if isinstance(piece, Window)), most)
        if key not in self._answers:
            answer = self._model.generate(
                **self._inputs(prompt), max_new_tokens=most, do_sample=False, num_beams=1
            )
            tokens = answer[0].tolist()[len(ids_of(prompt)) :]
            self._answers[key] = tokens[:-1] if tokens[-1:] == [EOS_ID] else tokens
        return self._answers[key]

    def sampled(self, prompt: Sequence[Piece], most: int, sampling: Sampling) -> list[int]:
        """The same with draws, token by token through the model's own `forward` and cache."""
        tokens: list[int] = []
        temperature, top_p = torch.tensor([sampling.temperature]), torch.tensor([sampling.top_p])
        inputs = self._inputs(prompt)
        past = DynamicCache(config=self._model.config.text_config)
        while len(tokens) < most:
            output = self._model(**inputs, past_key_values=past, use_cache=True, logits_to_keep=1)
            number = torch.tensor([draw(sampling.seed, len(tokens))])
            token = int(choose(output.logits[:, -1], temperature, top_p, number, VOCABULARY))
            if token == EOS_ID:
                break
            tokens.append(token)
            inputs = {"input_ids": torch.tensor([[token]])}
        return tokens

    def says(self, prompt: Sequence[Piece], most: int, sampling: Sampling) -> list[int]:
        """One or the other."""
        return self.sampled(prompt, most, sampling) if sampling.temperature else self.greedy(prompt, most)

    def hears(self, window: Window) -> torch.Tensor:
        """What the encoder makes of a window, (WINDOW_TOKENS, width)."""
        features = self._inputs([window])["input_features"]
        heard: torch.Tensor = self._model.get_audio_features(features).pooler_output
        return heard

    def _inputs(self, prompt: Sequence[Piece]) -> dict[str, Any]:
        ids = torch.tensor([ids_of(prompt)])
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        windows = [piece for piece in prompt if isinstance(piece, Window)]
        if windows:
            inputs["input_features"] = torch.cat([self._features_of(window.pcm) for window in windows])
        return inputs

    def _features_of(self, pcm: bytes) -> torch.Tensor:
        if pcm not in self._features:
            wave = np.frombuffer(pcm, "<i2").astype(np.float32) / 32768
            self._features[pcm] = self._extractor(
                wave, sampling_rate=16_000, return_tensors="pt", padding="max_length"
            ).input_features
        return self._features[pcm]


def joined(*pieces: Piece) -> list[Piece]:
    """A prompt."""
    return list(pieces)


def ids_of(prompt: Sequence[Piece]) -> tuple[int, ...]:
    """The prompt as the library takes it: windows as their places' ids."""
    parts = (piece.ids if isinstance(piece, Ids) else (AUDIO_ID,) * WINDOW_TOKENS for piece in prompt)
    return tuple(id_ for part in parts for id_ in part)


def text(chance: random.Random, count: int) -> Ids:
    """`count` ids, none of them special."""
    return Ids(tuple(chance.randrange(40, VOCABULARY) for _ in range(count)))


def sound(seed: int, duration_s: float = 1.0) -> Window:
    """Tones and noise that differ by seed."""
    numbers = np.random.default_rng(seed)
    at_s = np.arange(int(duration_s * 16_000)) / 16_000
    tone = np.sin(2 * np.pi * numbers.uniform(100, 3000) * at_s * (1 + 0.3 * np.sin(3 * at_s)))
    wave = 6000 * tone + numbers.normal(0, 800, len(at_s))
    return Window(wave.astype("<i2").tobytes())


class Heard:
    """What a batch has told, by row."""

    def __init__(self) -> None:
        self.tokens: dict[Row, list[int]] = {}
        self.ends: dict[Row, str] = {}

    def take(self, events: Iterable[Event]) -> None:
        for event in events:
            assert event.row not in self.ends, "something was told of a row after its end"
            match event:
                case Sampled(row, token):
                    self.tokens.setdefault(row, []).append(token)
                case Finished(row, reason):
                    self.ends[row] = reason
                case Failed(row, error):
                    assert row.error is error
                    self.ends[row] = "failed"

    def of(self, row: Row) -> list[int]:
        return self.tokens.get(row, [])


def run(batch: Batch, heard: Heard | None = None, most: int = 20_000) -> Heard:
    """Step until nothing is left to do."""
    heard = heard or Heard()
    for _ in range(most):
        if batch.idle:
            return heard
        heard.take(batch.step())
    raise AssertionError(f"the batch is not idle after {most} steps")


def ask(
    batch: Batch,
    prompt: Sequence[Piece],
    most: int = 12,
    sampling: Sampling = GREEDY,
    position: int = 0,
    script: tuple[int, ...] | None = None,
) -> Row:
    """Open, feed and start at once."""
    row = batch.open(sampling, most, script)
    for piece in prompt:
        batch.feed(row, piece)
    batch.start(row, position)
    return row
