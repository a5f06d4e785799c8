"""What is loaded, and each way in which a folder is refused: with one line that says what and where."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from shared.errors import EngineError, SettingsError
from shared.settings import Settings
from tests.checkpoints import voxtral
from workers.llm.engines.voxtral.checkpoint import Checkpoint, device_of, dtype_of, load, slots_of
from workers.llm.engines.voxtral.text import Vocabulary

WEIGHTS = "model.safetensors"
KEYS = "layers.1.self_attn.k_proj.weight"
"""The end of a name; before it, the library has another one on disk than in the model."""
CPU = torch.device("cpu")


def settings_of(folder: Path, **others: Any) -> Settings:
    return Settings(voxtral_model=str(folder), device="cpu", **others)


@pytest.fixture
def folder(voxtral_folder: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(voxtral_folder, tmp_path / "copy"))


def refusal(folder: Path, said: str) -> str:
    with pytest.raises(EngineError, match=re.escape(said)) as error:
        load(settings_of(folder))
    message = str(error.value)
    assert str(folder) in message
    assert "\n" not in message
    assert not error.value.retryable
    return message


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def keys_in(weights: dict[str, torch.Tensor]) -> str:
    return next(name for name in weights if name.endswith(KEYS) and "language_model" in name)


def change_weights(folder: Path, spoil: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(folder / WEIGHTS)
    spoil(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def test_the_model_is_what_was_saved_and_only_answers(voxtral_folder: Path) -> None:
    checkpoint = load(settings_of(voxtral_folder))
    saved = voxtral.tiny_model().state_dict()
    loaded = checkpoint.model.state_dict()
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name], weights) for name, weights in saved.items())
    assert (checkpoint.dtype, checkpoint.device.type) == (torch.float32, "cpu")
    assert not checkpoint.model.training
    assert not any(weights.requires_grad for weights in checkpoint.model.parameters())


def test_the_type_that_was_asked_for_holds_for_all_but_the_encoders_positions(voxtral_folder: Path) -> None:
    model = load(settings_of(voxtral_folder, voxtral_dtype="bfloat16")).model
    others = {name for name, weights in model.named_parameters() if weights.dtype != torch.bfloat16}
    assert others == {"model.audio_tower.embed_positions.weight"}


@pytest.mark.parametrize(
    "name", ["config.json", "preprocessor_config.json", "tekken.json", "model.safetensors"]
)
def test_a_missing_file_is_named_with_the_command_that_gets_it(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert "parley models pull voxtral" in refusal(folder, name.replace("model.", "model*."))


def test_a_checkpoint_of_another_model_is_refused(folder: Path) -> None:
    change(folder / "config.json", model_type="llama")
    refusal(folder, "config.json is of the model type 'llama'; expected 'voxtral'")


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_config_that_is_none_is_refused(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    refusal(folder, "config.json")


def test_another_spectrogram_is_refused(folder: Path) -> None:
    change(folder / "preprocessor_config.json", feature_size=80)
    refusal(folder, "preprocessor_config.json has feature_size 80; expected 128")


def test_missing_weights_are_refused_by_name(folder: Path) -> None:
    def drop(weights: dict[str, torch.Tensor]) -> None:
        del weights[keys_in(weights)]

    change_weights(folder, drop)
    assert refusal(folder, f"the weights in {folder} lack model.").endswith(KEYS)


def test_of_many_missing_weights_a_few_are_named(folder: Path) -> None:
    def drop(weights: dict[str, torch.Tensor]) -> None:
        for name in [name for name in weights if ".layers.1." in name and "language" in name]:
            del weights[name]

    change_weights(folder, drop)
    refusal(folder, " and 6 more")


def test_foreign_weights_are_refused_by_name(folder: Path) -> None:
    change_weights(folder, lambda weights: weights.update({"model.extra.weight": torch.zeros(2)}))
    refusal(folder, f"the weights in {folder} hold what Voxtral has not: model.extra.weight")


def test_weights_of_another_shape_are_refused_by_name(folder: Path) -> None:
    change_weights(folder, lambda weights: weights.update({keys_in(weights): torch.zeros(3, 5)}))
    assert refusal(folder, f"the weights in {folder} have another shape for model.").endswith(KEYS)


def test_broken_weights_are_refused(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"nothing of the kind")
    refusal(folder, "cannot be loaded")


def test_pickled_weights_are_refused_and_never_opened(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"would run code")
    refusal(folder, "pickled (.bin); expected safetensors")


def test_the_tokenizer_of_a_text_model_is_refused(folder: Path) -> None:
    voxtral.write_tokenizer(folder / "tekken.json", audio=False)
    refusal(folder, "tekken.json says nothing of audio")


def test_a_tokenizer_that_is_none_is_refused(folder: Path) -> None:
    (folder / "tekken.json").write_text('{"config": {"version": "v7"}}')
    refusal(folder, "tekken.json is not a tokenizer of Mistral")


def test_a_tokenizer_without_the_tokens_of_speech_is_refused(folder: Path) -> None:
    path = folder / "tekken.json"
    path.write_text(path.read_text().replace("[BEGIN_AUDIO]", "[BEGIN_OTHER]"))
    refusal(folder, "tekken.json is not the tokenizer of Voxtral")


def test_a_tokenizer_with_another_token_for_sound_is_refused(folder: Path) -> None:
    change(folder / "config.json", audio_token_id=26)
    refusal(folder, "config.json has audio_token_id 26; expected 24")


def test_a_tokenizer_that_knows_more_than_the_model_is_refused(folder: Path) -> None:
    voxtral.write_tokenizer(folder / "tekken.json", words=voxtral.WORDS + 1)
    refusal(folder, "the model knows 8000 tokens, and tekken.json has 8001")


def test_a_gpu_that_is_not_there_is_a_bad_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingsError, match="DEVICE is cuda"):
        device_of(Settings(device="cuda"))
    assert device_of(Settings()) == CPU


def test_the_device_decides_the_type_where_nothing_is_set() -> None:
    assert dtype_of(Settings(), CPU) is torch.float32
    assert dtype_of(Settings(), torch.device("cuda")) is torch.bfloat16
    assert dtype_of(Settings(voxtral_dtype="float32"), torch.device("cuda")) is torch.float32


@pytest.fixture(scope="session")
def full_size(vocabulary: Vocabulary) -> Checkpoint:
    """The real model's measures, with no memory behind them, as if on a GPU."""
    config = voxtral.full_size_config()
    model = type("Model", (), {"config": config})
    return Checkpoint(model, vocabulary, torch.bfloat16, torch.device("cuda"))


@pytest.mark.parametrize(("free_gib", "slots"), [(100, 64), (10, 17), (0.6, 1)])
def test_a_gpu_has_slots_as_its_free_memory_holds(
    monkeypatch: pytest.MonkeyPatch, full_size: Checkpoint, free_gib: float, slots: int
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(free_gib * 2**30), 2**40))
    assert slots_of(Settings(), full_size) == slots


def test_a_gpu_without_room_for_one_conversation_is_refused(
    monkeypatch: pytest.MonkeyPatch, full_size: Checkpoint
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (300 * 2**20, 2**40))
    with pytest.raises(EngineError, match=r"300 MiB are free on cuda, .* VOXTRAL_CONTEXT=4096"):
        slots_of(Settings(), full_size)


def test_the_slots_that_are_set_are_taken_as_they_are(full_size: Checkpoint) -> None:
    assert slots_of(Settings(voxtral_slots=3), full_size) == 3


def test_the_full_size_has_as_many_parameters_as_the_real_model() -> None:
    from transformers import VoxtralForConditionalGeneration

    with torch.device("meta"):
        model = VoxtralForConditionalGeneration(voxtral.full_size_config())
    assert sum(weights.numel() for weights in model.parameters()) == 4_676_271_104
