"""Voxtral with random weights: a tiny checkpoint for the tests, a full-size model for the benchmarks.

Both are made by the real classes. The tokenizer is cut from the one that mistral-common ships, with the
special tokens and the section on audio that the tokenizer of Voxtral Mini 3B (2507) has.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import mistral_common
import torch
from transformers import (
    LlamaConfig,
    MistralCommonBackend,
    VoxtralConfig,
    VoxtralEncoderConfig,
    VoxtralForConditionalGeneration,
    VoxtralProcessor,
    WhisperFeatureExtractor,
)
from transformers.initialization import no_init_weights

SOURCE = Path(mistral_common.__file__).parent / "data" / "tekken_240911.json"

SPECIALS = 1000
WORDS = 7000
PAD = 11

LIVELY = 2.0
"""The gain at which a tiny model's answers do not fall into a loop of two tokens."""

_NAMED = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]",
    "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]",
)  # fmt: skip
_NAMED_OF_SPEECH = {24: "[AUDIO]", 25: "[BEGIN_AUDIO]", 34: "[TRANSCRIBE]"}

_AUDIO = {
    "sampling_rate": 16_000,
    "frame_rate": 12.5,
    "chunk_length_s": 30.0,
    "audio_encoding_config": {"num_mel_bins": 128, "hop_length": 160, "window_size": 400},
}


def build(folder: Path, seed: int = 0, **sizes: int) -> Path:
    """Write a tiny checkpoint in the hub's layout and return its folder. `sizes` go to `tiny_config`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder / "tekken.json")
    tokenizer = MistralCommonBackend(tokenizer_path=folder / "tekken.json")
    VoxtralProcessor(WhisperFeatureExtractor(feature_size=128), tokenizer).save_pretrained(folder)
    # A processor saves its parts in a file of its own; the hub's repository has this one.
    WhisperFeatureExtractor(feature_size=128, processor_class="VoxtralProcessor").save_pretrained(folder)
    tiny_model(seed, **sizes).save_pretrained(folder)
    return folder


def write_tokenizer(path: Path, words: int = WORDS, audio: bool = True) -> None:
    """Write a `tekken.json` of `words` entries besides the special ones, with its section on audio or not."""
    source = json.loads(SOURCE.read_text())
    names = {i: f"<SPECIAL_{i}>" for i in range(SPECIALS)} | dict(enumerate(_NAMED)) | _NAMED_OF_SPEECH
    special = [{"rank": i, "token_str": name, "is_control": True} for i, name in names.items()]
    config = {
        **source["config"],
        "num_vocab_tokens": words,
        "default_vocab_size": words + SPECIALS,
        "default_num_special_tokens": SPECIALS,
        "version": "v7",
    }
    cut = {"config": config, "vocab": source["vocab"][:words], "special_tokens": special}
    path.write_text(json.dumps(cut | ({"audio": _AUDIO} if audio else {})))


def tiny_config(
    hidden: int = 64, layers: int = 2, heads: int = 4, kv_heads: int = 2, audio_hidden: int = 32
) -> VoxtralConfig:
    """Two layers of everything, and the real numbers of frames, bins and tokens a window."""
    text = LlamaConfig(
        vocab_size=WORDS + SPECIALS,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=hidden // heads,
        max_position_embeddings=131_072,
        rms_norm_eps=1e-5,
        rope_theta=1e8,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )
    audio = VoxtralEncoderConfig(
        hidden_size=audio_hidden,
        intermediate_size=4 * audio_hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
    )
    return VoxtralConfig(audio_config=audio.to_dict(), text_config=text.to_dict(), audio_token_id=24)


def full_size_config() -> VoxtralConfig:
    """Voxtral Mini 3B (2507): every number that its config.json has."""
    text = LlamaConfig(
        vocab_size=131_072,
        hidden_size=3072,
        intermediate_size=8192,
        num_hidden_layers=30,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=131_072,
        rms_norm_eps=1e-5,
        rope_theta=1e8,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )
    audio = VoxtralEncoderConfig(
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
        num_attention_heads=20,
        num_mel_bins=128,
        max_source_positions=1500,
    )
    return VoxtralConfig(
        audio_config=audio.to_dict(),
        text_config=text.to_dict(),
        audio_token_id=24,
        projector_hidden_act="gelu",
    )


def tiny_model(seed: int = 0, **sizes: int) -> Any:
    """A model of `tiny_config` in float32 on the CPU."""
    return random_model(tiny_config(**sizes), "cpu", torch.float32, seed, gain=LIVELY)


def random_model(
    config: VoxtralConfig, device: torch.device | str, dtype: torch.dtype, seed: int = 0, gain: float = 1.0
) -> Any:
    """A `VoxtralForConditionalGeneration` made on `device` in `dtype`, ready to answer; 9.5 GB take seconds.

    Every matrix gives out about `gain` times what it takes in, attention twice that: what flows through stays
    finite, and the answer depends on all of the prompt. The only special token that it may say is `</s>`.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with no_init_weights(), torch.device(device):
            model = VoxtralForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    noise = _Noise(torch.device(device), dtype, seed)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.dim() == 1:
                weights.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
            elif "embed_tokens" in name:
                noise.fill(weights, 0.1)
            elif "embed_positions" in name:
                noise.fill(weights, 0.5)
                weights.data = weights.data.float()  # as the loader does, whatever the dtype
            else:
                attends = "language_model" in name and ("q_proj" in name or "o_proj" in name)
                noise.fill(weights, (2 if attends else 1) * gain / math.sqrt(weights[0].numel()))
        specials = model.lm_head.weight[:SPECIALS]
        specials[torch.arange(len(specials), device=device) != config.text_config.eos_token_id] = 0
    model.generation_config.eos_token_id = config.text_config.eos_token_id
    model.generation_config.pad_token_id = PAD
    return model.eval().requires_grad_(False)


class _Noise:
    """Normal numbers out of one block, again and again: to draw billions of them would take minutes."""

    # Odd, so that it falls in step with no width.
    BLOCK = (1 << 24) - 3

    def __init__(self, device: torch.device, dtype: torch.dtype, seed: int) -> None:
        generator = torch.Generator(device).manual_seed(seed)
        self._block = torch.randn(self.BLOCK, generator=generator, device=device, dtype=dtype)
        self._place = 0

    def fill(self, weights: torch.Tensor, scale: float) -> None:
        flat = weights.view(-1)
        done = 0
        while done < len(flat):
            count = min(len(flat) - done, self.BLOCK - self._place)
            torch.mul(self._block[self._place : self._place + count], scale, out=flat[done : done + count])
            done += count
            self._place = (self._place + count) % self.BLOCK
