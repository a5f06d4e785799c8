"""Choosing an engine by name, and what `auto` makes of what is here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from shared.errors import EngineError, SettingsError
from shared.settings import Settings
from workers.llm.engines import load


@pytest.fixture
def weights(tmp_path: Path) -> str:
    """A folder that holds files of the right names."""
    for name in (
        "config.json",
        "preprocessor_config.json",
        "tekken.json",
        "model-00001-of-00001.safetensors",
    ):
        (tmp_path / name).touch()
    return str(tmp_path)


def give_cuda(monkeypatch: pytest.MonkeyPatch, free_bytes: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free_bytes, 80 * 10**9))


@pytest.mark.parametrize("name", ["parrot", "scripted"])
def test_the_engine_is_the_one_asked_for_and_the_reason_says_so(name: str) -> None:
    engine, reason = load(name, Settings())
    assert engine.name == name
    assert reason == f"{name}: LLM_ENGINE asks for it"


def test_the_script_comes_from_the_settings() -> None:
    load("scripted", Settings.from_env({"SCRIPT_TOKENS": '["a", "b"]', "SCRIPT_FIRST_TOKEN_MS": "1"}))


@pytest.mark.parametrize("name", ["", "Parrot", "gpt"])
def test_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(
        SettingsError, match=f"LLM_ENGINE is '{name}'; expected auto, voxtral, openai, parrot or"
    ):
        load(name, Settings())


def test_auto_without_weights_is_the_parrot_and_says_how_to_get_them(tmp_path: Path) -> None:
    engine, reason = load("auto", Settings(voxtral_model=str(tmp_path)))
    assert engine.name == "parrot"
    assert reason == "parrot, the embedded engine: no weights of Voxtral here (parley models pull voxtral)"


def test_auto_without_the_packages_is_the_parrot_and_says_how_to_get_them(
    weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mistral_common", None)
    engine, reason = load("auto", Settings(voxtral_model=weights))
    assert engine.name == "parrot"
    assert reason.endswith("the packages of the models are not installed (make models)")


def test_auto_without_cuda_is_the_parrot(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    engine, reason = load("auto", Settings(voxtral_model=weights))
    assert (engine.name, reason) == ("parrot", "parrot, the embedded engine: no CUDA device")


def test_auto_on_a_full_cuda_device_is_the_parrot(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    give_cuda(monkeypatch, free_bytes=11_900_000_000)
    engine, reason = load("auto", Settings(voxtral_model=weights))
    assert engine.name == "parrot"
    assert reason.endswith("11.9 GB of 12 GB are free on the CUDA device")


def test_auto_told_to_stay_on_the_cpu_is_the_parrot(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    give_cuda(monkeypatch, free_bytes=80 * 10**9)
    engine, _ = load("auto", Settings(voxtral_model=weights, device="cpu"))
    assert engine.name == "parrot"


def test_auto_with_weights_and_room_is_voxtral_and_does_not_hide_that_they_are_bad(
    weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_cuda(monkeypatch, free_bytes=12 * 10**9)
    with pytest.raises(EngineError):
        load("auto", Settings(voxtral_model=weights))


def test_voxtral_asked_for_by_name_never_falls_back(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="parley models pull voxtral"):
        load("voxtral", Settings(voxtral_model=str(tmp_path)))


@pytest.mark.parametrize(
    ("name", "package"), [("voxtral", "mistral_common"), ("openai", "openai")], ids=["voxtral", "openai"]
)
def test_a_missing_package_is_one_line_that_says_what_installs_it(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = f"workers.llm.engines.{name}"
    for module in [
        each for each in sys.modules if each.partition(".")[0] == package or each.startswith(ours)
    ]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    settings = Settings(openai_base_url="http://127.0.0.1:1/v1", openai_model="voxtral")
    with pytest.raises(EngineError) as told:
        load(name, settings)
    expected = (
        f"LLM_ENGINE={name} needs the package '{package}', which is not installed: make models installs it"
    )
    assert str(told.value) == expected
