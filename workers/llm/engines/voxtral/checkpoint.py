"""Voxtral off the disk: the model and its tokenizer, or one line that says what is wrong with them.

Loads through the real classes, from local files alone. Whatever would only show in the answers is refused
here: weights that are missing, foreign or of another shape, and a tokenizer of another model. Knows no
conversation.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from transformers import VoxtralForConditionalGeneration
from transformers.utils import logging as library_logging

from shared.errors import EngineError, SettingsError
from shared.settings import Settings
from workers.checkpoint import find
from workers.llm.engines.voxtral import mel
from workers.llm.engines.voxtral.cache import bytes_per_slot
from workers.llm.engines.voxtral.files import COMMAND, FILES
from workers.llm.engines.voxtral.pieces import SAMPLE_RATE, WINDOW_S, WINDOW_TOKENS
from workers.llm.engines.voxtral.text import Vocabulary

log = logging.getLogger(__name__)

MOST_SLOTS = 64
CPU_SLOTS = 8
SHARE_OF_FREE = 0.85
"""Of the GPU's memory that the weights leave; the rest is for what flows through them."""

SHOWN = 3
"""Of many wrong names so many are told."""

_SOUND = {
    "feature_size": mel.BINS,
    "sampling_rate": SAMPLE_RATE,
    "hop_length": mel.HOP_SAMPLES,
    "n_fft": mel.FRAME_SAMPLES,
    "chunk_length": WINDOW_S,
}
"""What `preprocessor_config.json` has to say of the spectrogram: what `mel` computes."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A `VoxtralForConditionalGeneration` that only answers, and its vocabulary."""

    model: Any
    vocabulary: Vocabulary
    dtype: torch.dtype
    device: torch.device


def load(settings: Settings) -> Checkpoint:
    """The checkpoint that `VOXTRAL_MODEL` names, where `DEVICE` says, as `VOXTRAL_DTYPE` says.

    Raises `EngineError`, or `SettingsError` for a device that is not there.
    """
    device = device_of(settings)
    dtype = dtype_of(settings, device)
    _refuse_pickles(Path(settings.voxtral_model))
    folder = find(settings.voxtral_model, FILES, COMMAND)
    _check_config(folder / "config.json")
    _check_sound(folder / "preprocessor_config.json")
    vocabulary = load_vocabulary(folder / "tekken.json")
    model = _load_model(folder, dtype)
    _check_match(folder, model.config, vocabulary)
    try:
        model = model.to(device).eval().requires_grad_(False)
    except torch.OutOfMemoryError as error:
        # A process that was killed may hold its memory a moment longer than its successor takes to get here.
        message = f"the weights of Voxtral do not fit on {device}: {first_line(error)}"
        raise EngineError(message, retryable=True) from None
    return Checkpoint(model, vocabulary, dtype, device)


def device_of(settings: Settings) -> torch.device:
    """Where to compute. Raises `SettingsError` where CUDA is asked for and there is none."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise SettingsError("DEVICE is cuda, and PyTorch finds no GPU here; expected cpu or auto")
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(settings.device)


def dtype_of(settings: Settings, device: torch.device) -> torch.dtype:
    """What to compute in."""
    if settings.voxtral_dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    dtype: torch.dtype = getattr(torch, settings.voxtral_dtype)
    return dtype


def slots_of(settings: Settings, checkpoint: Checkpoint) -> int:
    """How many conversations to have room for. Raises `EngineError` where there is room for none."""
    if settings.voxtral_slots is not None:
        return settings.voxtral_slots
    if checkpoint.device.type != "cuda":
        return CPU_SLOTS
    free_bytes, _ = torch.cuda.mem_get_info(checkpoint.device)
    text = checkpoint.model.config.text_config
    slot_bytes = bytes_per_slot(text, settings.voxtral_context, checkpoint.dtype)
    slots = min(MOST_SLOTS, int(free_bytes * SHARE_OF_FREE) // slot_bytes)
    if slots < 1:
        raise EngineError(
            f"{free_bytes >> 20} MiB are free on {checkpoint.device}, too few for one conversation of"
            f" VOXTRAL_CONTEXT={settings.voxtral_context} tokens",
            retryable=True,
        )
    return slots


def load_vocabulary(path: Path) -> Vocabulary:
    """The tokenizer in a `tekken.json`. Raises `EngineError`."""
    try:
        tokenizer = Tekkenizer.from_file(path)
    except Exception as error:  # its checks are assertions, lookups and type errors
        raise EngineError(f"{path} is not a tokenizer of Mistral: {first_line(error)}") from None
    if tokenizer.audio is None:
        raise EngineError(f"{path} says nothing of audio: it is the tokenizer of a text model")
    try:
        return Vocabulary(tokenizer)
    except ValueError as error:
        raise EngineError(f"{path} is not the tokenizer of Voxtral: {first_line(error)}") from None


def _refuse_pickles(folder: Path) -> None:
    if any(folder.glob("*.bin")) and not any(folder.glob("*.safetensors")):
        raise EngineError(f"the weights in {folder} are pickled (.bin); expected safetensors: {COMMAND}")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EngineError(f"{path} cannot be read: {first_line(error)}") from None
    if not isinstance(content, dict):
        raise EngineError(f"{path} is not an object of JSON")
    return content


def _check_config(path: Path) -> None:
    kind = _read(path).get("model_type")
    if kind != "voxtral":
        raise EngineError(f"{path} is of the model type {kind!r}; expected 'voxtral'")


def _check_sound(path: Path) -> None:
    content = _read(path)
    for name, expected in _SOUND.items():
        if content.get(name, expected) != expected:
            raise EngineError(f"{path} has {name} {content[name]!r}; expected {expected}")


def _load_model(folder: Path, dtype: torch.dtype) -> Any:
    try:
        with _quiet():
            model, found = VoxtralForConditionalGeneration.from_pretrained(
                folder,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                # Told apart from a broken file, and with names; refused below all the same.
                ignore_mismatched_sizes=True,
            )
    except Exception as error:  # of what a foreign file makes the library raise there is no list
        raise EngineError(f"the weights in {folder} cannot be loaded: {first_line(error)}") from None
    for what, names in (
        ("lack", found["missing_keys"]),
        ("hold what Voxtral has not:", found["unexpected_keys"]),
        ("have another shape for", (key[0] for key in found["mismatched_keys"])),
    ):
        names = sorted(map(str, names))
        if names:
            raise EngineError(f"the weights in {folder} {what} {_few(names)}")
    return model


def _check_match(folder: Path, config: Any, vocabulary: Vocabulary) -> None:
    """Refuse parts that do not belong together, or are not of the shape that the engine is built for."""
    audio = config.audio_config
    tokens = audio.max_source_positions * audio.hidden_size // audio.intermediate_size
    for what, found, expected in (
        ("audio_token_id", config.audio_token_id, vocabulary.audio),
        ("audio_config.num_mel_bins", audio.num_mel_bins, mel.BINS),
        ("audio_config.max_source_positions", audio.max_source_positions, mel.FRAMES // 2),
        ("tokens of a window of sound", tokens, WINDOW_TOKENS),
    ):
        if found != expected:
            raise EngineError(f"{folder}: config.json has {what} {found}; expected {expected}")
    if config.text_config.vocab_size < vocabulary.size:
        model = f"the model knows {config.text_config.vocab_size} tokens"
        raise EngineError(f"{folder}: {model}, and tekken.json has {vocabulary.size}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's progress bars and reports: what matters of them is in the error."""
    level = library_logging.get_verbosity()
    bars = library_logging.is_progress_bar_enabled()
    library_logging.set_verbosity(logging.CRITICAL)
    library_logging.disable_progress_bar()
    try:
        yield
    finally:
        library_logging.set_verbosity(level)
        if bars:
            library_logging.enable_progress_bar()


def _few(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def first_line(error: BaseException) -> str:
    """What an error of a library says, as far as it goes into one line of ours."""
    return next(iter(str(error).splitlines()), type(error).__name__) or type(error).__name__
