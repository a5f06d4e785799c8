"""Choosing an engine by name."""

from __future__ import annotations

import pytest

from shared.errors import SettingsError
from shared.settings import Settings
from workers.llm.engines import load


@pytest.mark.parametrize(
    ("name", "taken"), [("auto", "parrot"), ("parrot", "parrot"), ("scripted", "scripted")]
)
def test_the_engine_is_the_one_asked_for_and_the_reason_says_so(name: str, taken: str) -> None:
    engine, reason = load(name, Settings())
    assert engine.name == taken
    assert reason.startswith(taken)
    assert "LLM_ENGINE" in reason
    assert "\n" not in reason


def test_the_script_comes_from_the_settings() -> None:
    load("scripted", Settings.from_env({"SCRIPT_TOKENS": '["a", "b"]', "SCRIPT_FIRST_TOKEN_MS": "1"}))


@pytest.mark.parametrize("name", ["", "Parrot", "gpt"])
def test_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=f"LLM_ENGINE is '{name}'; expected auto, parrot or scripted"):
        load(name, Settings())
