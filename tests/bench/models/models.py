"""The models that are measured: the real classes with random weights, made at first use on the device."""

from __future__ import annotations

import gc
import wave
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from tests.bench.models import kokoro_alone
from tests.bench.models.plan import Plan
from tests.checkpoints import kokoro, voxtral
from workers.llm.engines.voxtral import prompt
from workers.llm.engines.voxtral.checkpoint import Checkpoint, load_vocabulary
from workers.llm.engines.voxtral.pieces import SAMPLE_RATE, Ids, Piece, Window
from workers.llm.engines.voxtral.text import Vocabulary

RECORDING = Path(__file__).parents[2] / "audio" / "jfk.wav"

INSTRUCTIONS = "You are a friendly assistant who speaks. Answer in one or two short sentences."

WHOLE_VOCABULARY = 131_072 - voxtral.SPECIALS

NAMES = {
    "full": ("Voxtral Mini 3B (2507)", "Kokoro-82M"),
    "tiny": ("a tiny Voxtral", "a tiny Kokoro"),
}


class Models:
    """Of one plan. `folder` is for what has to lie in files."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._plan = plan
        self._folder = folder
        self.device = torch.device(plan.device)

    @cached_property
    def voxtral(self) -> Any:
        """A `VoxtralForConditionalGeneration`."""
        full = self._plan.size == "full"
        config = voxtral.full_size_config() if full else voxtral.tiny_config()
        return voxtral.random_model(config, self.device, getattr(torch, self._plan.dtype))

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Voxtral's tokenizer, as large as the model knows it."""
        path = self._folder / "tekken.json"
        voxtral.write_tokenizer(path, WHOLE_VOCABULARY if self._plan.size == "full" else voxtral.WORDS)
        return load_vocabulary(path)

    @property
    def checkpoint(self) -> Checkpoint:
        """Model and tokenizer as the engine takes them."""
        return Checkpoint(self.voxtral, self.vocabulary, getattr(torch, self._plan.dtype), self.device)

    @cached_property
    def kokoro_folder(self) -> Path:
        """A checkpoint of Kokoro in files, with one voice."""
        kokoro_alone.let_import_alone()
        config = kokoro.full_size_config() if self._plan.size == "full" else kokoro.tiny_config()
        return kokoro.build(self._folder / "kokoro", voices=("af_heart",), config=config)

    @property
    def configuration(self) -> dict[str, Any]:
        """What is measured, in names and numbers."""
        voxtral_name, kokoro_name = NAMES[self._plan.size]
        config = self.voxtral.config
        text, audio = config.text_config, config.audio_config
        return {
            "voxtral": {
                "name": voxtral_name,
                "weights": "random",
                "parameters": sum(weight.numel() for weight in self.voxtral.parameters()),
                "dtype": self._plan.dtype,
                "text": {name: getattr(text, name) for name in _OF_TEXT},
                "audio": {name: getattr(audio, name) for name in _OF_AUDIO},
                "slots": self._plan.slots,
                "context": self._plan.context,
            },
            "kokoro": {"name": kokoro_name, "weights": "random", "dtype": "float32"},
        }

    def release(self) -> None:
        """Give the memory of Voxtral back, to processes that make their own."""
        self.__dict__.pop("voxtral", None)
        collect()

    def utterance(self, number: int) -> bytes:
        """What a user says in a turn: PCM16 mono 16 kHz, of each number another."""
        return speech(number, self._plan.utterance_s)

    def prompt(self, pcm: bytes) -> tuple[list[Piece], list[Piece]]:
        """A turn's prompt: what is known before the user has spoken, and what comes when they have."""
        vocabulary = self.vocabulary
        before = Ids((vocabulary.begin, vocabulary.begin_user, vocabulary.begin_audio))
        return [before], [*prompt.windows(pcm), prompt.closing(vocabulary, (INSTRUCTIONS,), ())]

    def ids(self, prompt: list[Piece]) -> list[int]:
        """The ids of a prompt for the library's own model, in which each place of sound has one."""
        ids: list[int] = []
        for piece in prompt:
            ids += [self.vocabulary.audio] * piece.tokens if isinstance(piece, Window) else piece.ids
        return ids


_OF_TEXT = (
    "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads",
    "head_dim", "vocab_size",
)  # fmt: skip
_OF_AUDIO = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_mel_bins")


def speech(number: int, seconds: float) -> bytes:
    """Speech, PCM16 mono 16 kHz: a piece of a recording, of each number another."""
    with wave.open(str(RECORDING)) as recording:
        pcm: bytes = recording.readframes(recording.getnframes())
    start = number * SAMPLE_RATE // 3 * 2 % len(pcm)
    wanted = round(seconds * SAMPLE_RATE) * 2
    return ((pcm[start:] + pcm) * (1 + wanted // len(pcm)))[:wanted]


def collect() -> None:
    """Give back what nobody holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def bytes_of(*modules: Any) -> int:
    """Of the weights of these modules."""
    weights = {id(weight): weight for module in modules for weight in module.parameters()}
    return sum(weight.numel() * weight.element_size() for weight in weights.values())
