"""Checkpoints that are not what they should be, and the one line that says so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from shared.errors import EngineError
from tests.checkpoints import kokoro as tiny
from workers.checkpoint import find
from workers.tts.engines.kokoro.checkpoint import device_of, load
from workers.tts.engines.kokoro.files import COMMAND, FILES

CPU = torch.device("cpu")
WEIGHTS = "kokoro-v1_0.pth"

Parts = dict[str, dict[str, torch.Tensor]]


@pytest.fixture
def folder(kokoro_folder: Path, tmp_path: Path) -> Path:
    """A checkpoint of one's own, to spoil, with one voice."""
    for name in ("config.json", WEIGHTS, "voices/ef_dora.pt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(kokoro_folder / name, tmp_path / name)
    return tmp_path


def spoil(folder: Path, change: Callable[[Parts], object]) -> None:
    """Change what stands in the weights."""
    parts = torch.load(folder / WEIGHTS, weights_only=True)
    change(parts)
    torch.save(parts, folder / WEIGHTS)


def refusal(folder: Path) -> str:
    """The one line with which it is refused."""
    with pytest.raises(EngineError) as raised:
        load(folder, CPU)
    assert "\n" not in str(raised.value) and not raised.value.retryable
    return str(raised.value)


def test_weights_as_they_were_released_are_in_the_model_when_loaded(folder: Path) -> None:
    given = torch.load(folder / WEIGHTS, weights_only=True)
    checkpoint = load(folder, CPU)
    loaded = checkpoint.model.state_dict()
    compared = 0
    for part, tensors in given.items():
        for name, tensor in tensors.items():
            if (inside := loaded.get(f"{part}.{name.removeprefix('module.')}")) is not None:
                assert torch.equal(inside, tensor), name
                compared += 1
    assert compared > 100
    assert checkpoint.phonemes == 510
    assert checkpoint.vocabulary == set(tiny.SYMBOLS)
    assert torch.equal(checkpoint.voices["ef_dora"], tiny.voice("ef_dora"))
    assert not checkpoint.model.training
    assert not any(tensor.requires_grad for tensor in checkpoint.model.parameters())
    # Where a direction and a length were given, they are multiplied out.
    assert not any(name.endswith(("weight_g", "weight_v")) for name in loaded)
    direction = given["decoder"]["module.F0_conv.weight_v"]
    length = given["decoder"]["module.F0_conv.weight_g"]
    assert torch.allclose(loaded["decoder.F0_conv.weight"], length * direction / direction.norm())


def test_weights_without_the_prefix_of_the_released_ones_load_too(folder: Path) -> None:
    def rename(parts: Parts) -> None:
        for part in parts:
            parts[part] = {name.removeprefix("module."): tensor for name, tensor in parts[part].items()}

    spoil(folder, rename)
    load(folder, CPU)


def test_missing_foreign_and_misshapen_tensors_are_named(folder: Path) -> None:
    def change(parts: dict[str, Any]) -> None:
        del parts["predictor"]["module.lstm.weight_ih_l0"]
        parts["text_encoder"]["module.embedding.bias"] = torch.zeros(3)
        parts["bert_encoder"]["module.weight"] = torch.zeros(512, 17)
        parts["bert_encoder"]["module.bias"] = "zeros"
        parts["vocoder"] = {"weight": torch.zeros(1)}

    spoil(folder, change)
    said = refusal(folder)
    assert said.startswith(f"{folder / WEIGHTS} does not fit its config.json: ")
    assert "missing: predictor.lstm.weight_ih_l0;" in said
    assert "foreign: vocoder, bert_encoder.bias, text_encoder.embedding.bias;" in said
    assert said.endswith("of another shape: bert_encoder.weight (512, 17) for (512, 16)")


def test_of_many_missing_tensors_a_few_are_named(folder: Path) -> None:
    spoil(folder, lambda parts: parts.pop("decoder"))
    said = refusal(folder)
    assert said.count("decoder.") == 3 and said.endswith(" more")


def test_a_list_of_tensors_is_no_checkpoint(folder: Path) -> None:
    torch.save([torch.zeros(3)], folder / WEIGHTS)
    assert "holds no weights of Kokoro" in refusal(folder)


def test_a_file_that_would_run_code_is_not_opened(folder: Path) -> None:
    torch.save({"bert": Path("anywhere")}, folder / WEIGHTS)
    assert f"{folder / WEIGHTS} cannot be read as tensors" in refusal(folder)


def test_a_file_that_is_cut_short_is_refused(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:5000])
    assert f"{folder / WEIGHTS} cannot be read as tensors" in refusal(folder)


def test_two_files_of_weights_are_one_too_many(folder: Path) -> None:
    (folder / "kokoro-v0_19.pth").write_bytes(b"")
    assert "in one file *.pth; found: kokoro-v0_19.pth, kokoro-v1_0.pth" in refusal(folder)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "config.json cannot be read"),
        ("[1, 2]", "it has no vocab, plbert, style_dim"),
        ('{"model_type": "voxtral"}', "it has no vocab"),
    ],
)
def test_a_config_of_something_else_is_refused(folder: Path, text: str, says: str) -> None:
    (folder / "config.json").write_text(text)
    assert says in refusal(folder)


def test_a_config_of_another_size_than_the_weights_is_refused(folder: Path) -> None:
    config = tiny.tiny_config() | {"n_layer": 2}
    (folder / "config.json").write_text(json.dumps(config))
    assert "missing: predictor.text_encoder.lstms.2." in refusal(folder)


@pytest.mark.parametrize(
    ("voice", "says"),
    [
        (torch.zeros(511, 1, 256), r"(510, 1, 256) was expected, and it holds (511, 1, 256)"),
        (torch.zeros(510, 256), "it holds (510, 256)"),
        ({"style": torch.zeros(510, 1, 256)}, "it holds dict"),
        (torch.full((510, 1, 256), torch.nan), "not all of it are numbers"),
    ],
)
def test_a_voice_that_is_none_is_refused(folder: Path, voice: Any, says: str) -> None:
    torch.save(voice, folder / "voices" / "af_odd.pt")
    said = refusal(folder)
    assert said.startswith(f"{folder / 'voices' / 'af_odd.pt'} is no voice") and says in said


def test_a_folder_without_voices_is_refused_with_the_command_that_gets_them(folder: Path) -> None:
    (folder / "voices" / "ef_dora.pt").unlink()
    (folder / "voices").rmdir()
    with pytest.raises(EngineError, match=r"missing in .*: voices/\*\.pt; .*parley models pull kokoro"):
        find(str(folder), FILES, COMMAND)
    assert refusal(folder).endswith("holds no voice (*.pt)")


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of("auto") == device_of("cpu") == CPU
    with pytest.raises(EngineError, match="DEVICE is cuda"):
        device_of("cuda")
