"""Checkpoints of Kokoro that nobody trained: the real classes in the layout of the released files.

    build(folder)                              the smallest that the classes allow, quick on a CPU
    build(folder, config=full_size_config())   as large as the real one, for benchmarks

What they say is noise; how long it lasts, what it costs and what stands in the files is as it should be.
Nearly all weights are views into a few short strips of random numbers, so that 57 or 82 million of them take
some megabytes on disk and no time to make.
"""

# ruff: noqa: RUF001 (the phonemes)

from __future__ import annotations

import io
import json
import math
import re
import warnings
import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

VOICES = (
    "af_heart", "am_adam", "bf_emma", "ef_dora", "ff_siwis", "hf_alpha", "if_sara", "jf_alpha", "pf_dora",
    "zf_xiaobei",
)  # fmt: skip
"""At least one of each language that the model speaks."""

SYMBOLS = (
    ';:,.!?—…"()“” \u0303ʣʥʦʨᵝ\uab67AIOQSTWYᵊabcdefhijklmnopqrstuvwxyzɑɐɒæβɔɕçɖðʤəɚɛɜɟɡɥɨɪʝɯɰŋɳɲɴøɸθœɹɾɻʁɽ'
    "ʂʃʈʧʊʋʌɣɤχʎʒʔˈˌːʰʲ↓→↗↘ᵻ"
)
"""What the pronunciations of its languages are written in."""

PHONEME_FRAMES = 3.0
"""How long a phoneme lasts: frames of 600 samples, 25 ms."""

PITCH_HZ = 130.0

LOUDNESS = 0.2
"""So that about half of the range is used."""

_STRIP = 1 << 16

_ADAPTIVE_NORM = re.compile(r"\b(norm[12]|adain[12]\.\d)\.norm\.")
_ZERO = re.compile(r"\b(bias\w*|beta)$")
_ONE = re.compile(r"\b(weight_g|gamma|alpha[12]\.\d)$")


def tiny_config(phonemes: int = 510) -> dict[str, Any]:
    """The smallest configuration: most widths are fixed in the classes, the depths are not.

    `phonemes`: how many it takes at once.
    """
    return _config(
        phonemes=phonemes,
        n_layer=1,
        max_dur=8,
        plbert={
            "hidden_size": 16,
            "embedding_size": 16,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
        },
        istftnet={
            "upsample_rates": [3, 2],
            "upsample_kernel_sizes": [5, 4],
            "resblock_kernel_sizes": [3],
            "resblock_dilation_sizes": [[1, 3, 5]],
            "gen_istft_n_fft": 200,
            "gen_istft_hop_size": 50,
        },
    )


def full_size_config() -> dict[str, Any]:
    """The hyperparameters of Kokoro-82M."""
    return _config(
        n_layer=3,
        max_dur=50,
        plbert={
            "hidden_size": 768,
            "num_attention_heads": 12,
            "intermediate_size": 2048,
            "num_hidden_layers": 12,
        },
        istftnet={
            "upsample_rates": [10, 6],
            "upsample_kernel_sizes": [20, 12],
            "resblock_kernel_sizes": [3, 7, 11],
            "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]],
            "gen_istft_n_fft": 20,
            "gen_istft_hop_size": 5,
        },
    )


def build(
    folder: Path, voices: Sequence[str] = VOICES, config: Mapping[str, Any] | None = None, seed: int = 0
) -> Path:
    """Write `config.json`, `kokoro-v1_0.pth` and `voices/*.pt` into `folder`, and return it."""
    config = tiny_config() if config is None else config
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")
    torch.save(weights(config, seed), folder / "kokoro-v1_0.pth")
    (folder / "voices").mkdir(exist_ok=True)
    rows = config["plbert"]["max_position_embeddings"] - 2
    for name in voices:
        torch.save(voice(name, rows), folder / "voices" / f"{name}.pt")
    return folder


def voice(name: str, rows: int = 510) -> torch.Tensor:
    """A voice of that name: (rows, 1, 256), the same every time, and another for every name."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return 0.1 * torch.randn(rows, 1, 256, generator=generator)


def weights(config: Mapping[str, Any], seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    """The content of a `.pth`: for each part of the model its tensors, named as in the released one.

    There all names begin with `module.`; the affine part of the adaptive norms, which was not trained, is
    absent; and positions, which the model counts by itself, are present.
    """
    strips = _Strips(seed)
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for part, name, shape in _shapes(json.dumps(config)):
        if _ADAPTIVE_NORM.search(name):
            continue
        if name == "duration_proj.linear_layer.bias":
            tensor = _constant(-math.log(config["max_dur"] / PHONEME_FRAMES - 1), shape)
        elif name == "F0_proj.bias":
            tensor = _constant(PITCH_HZ, shape)
        elif name == "generator.conv_post.weight_g":
            tensor = _constant(LOUDNESS, shape)  # it is the logarithm of the spectrum that comes from there
        elif _ZERO.search(name):
            tensor = _constant(0.0, shape)
        elif _ONE.search(name) or len(shape) == 1:
            tensor = _constant(1.0, shape)
        else:
            tensor = strips.view(name, shape)
        parts.setdefault(part, {})[f"module.{name}"] = tensor
    positions = config["plbert"]["max_position_embeddings"]
    parts["bert"]["module.embeddings.position_ids"] = torch.arange(positions).expand((1, positions))
    return parts


def _config(phonemes: int = 510, **parts: Any) -> dict[str, Any]:
    parts["plbert"] |= {"max_position_embeddings": phonemes + 2, "dropout": 0.1}
    parts["istftnet"] |= {"upsample_initial_channel": 512}
    return parts | {
        "n_token": 178,
        "hidden_dim": 512,
        "style_dim": 128,
        "n_mels": 80,
        "dropout": 0.2,
        "text_encoder_kernel_size": 5,
        "vocab": {symbol: number for number, symbol in enumerate(SYMBOLS, 1)},
    }


@cache
def _shapes(config_json: str) -> list[tuple[str, str, torch.Size]]:
    """Every tensor of the model: its part, its name in it, its shape. The model itself takes no memory."""
    from kokoro import KModel

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = KModel("none", json.loads(config_json), nothing)
    return [
        (part, name, tensor.shape)
        for part, module in model.named_children()
        for name, tensor in module.state_dict().items()
    ]


def _constant(value: float, shape: torch.Size) -> torch.Tensor:
    return torch.tensor(value).expand(shape)


class _Strips:
    """Random numbers, and views into them whose rows overlap."""

    def __init__(self, seed: int) -> None:
        self._strip = torch.randn(_STRIP, generator=torch.Generator().manual_seed(seed))
        self._scaled: dict[int, torch.Tensor] = {}

    def view(self, name: str, shape: torch.Size) -> torch.Tensor:
        """Numbers of about the size at which a layer keeps its input's."""
        halvings = round(math.log2(math.prod(shape[1:])) / 2) - name.startswith("duration_proj")
        strip = self._scaled.setdefault(halvings, self._strip * 2.0**-halvings)
        strides = (13, 3, 1)[-len(shape) :]
        span = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        return torch.as_strided(strip, shape, strides, zlib.crc32(name.encode()) % (len(strip) - span))
