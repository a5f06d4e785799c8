"""Where a checkpoint is found, and what is said of one that is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import EngineError
from workers.checkpoint import find, present

NAME = "somebody/something@0123456789abcdef0123456789abcdef01234567"
FILES = ("config.json", "model*.safetensors", "voices/*.pt")
COMMAND = "parley models pull something"


def fill(folder: Path) -> Path:
    for name in ("config.json", "model-00001-of-00002.safetensors", "voices/one.pt"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, where the library looks for it."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def snapshot(cache: Path) -> Path:
    name, revision = NAME.split("@")
    return cache / f"models--{name.replace('/', '--')}" / "snapshots" / revision


def test_a_folder_that_holds_everything_is_found(tmp_path: Path) -> None:
    assert find(str(fill(tmp_path)), FILES, COMMAND) == tmp_path
    assert present(str(tmp_path), FILES)


def test_a_folder_that_is_not_there_is_named_with_the_command_that_gets_it(tmp_path: Path) -> None:
    name = str(tmp_path / "nowhere")
    with pytest.raises(EngineError, match=rf"nowhere.*{COMMAND}") as refusal:
        find(name, FILES, COMMAND)
    assert "\n" not in str(refusal.value)
    assert not present(name, FILES)


def test_what_a_folder_lacks_is_named(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "voices" / "one.pt").unlink()
    (tmp_path / "config.json").unlink()
    with pytest.raises(EngineError) as refusal:
        find(str(tmp_path), FILES, COMMAND)
    assert str(refusal.value) == f"missing in {tmp_path}: config.json, voices/*.pt; get it with: {COMMAND}"
    assert not present(str(tmp_path), FILES)


def test_a_revision_in_the_cache_of_the_hub_is_found(cache: Path) -> None:
    folder = fill(snapshot(cache))
    assert find(NAME, FILES, COMMAND) == folder
    assert present(NAME, FILES)


def test_a_revision_that_is_not_in_the_cache_is_named_with_the_cache(cache: Path) -> None:
    fill(snapshot(cache).with_name("another"))
    with pytest.raises(EngineError) as refusal:
        find(NAME, FILES, COMMAND)
    assert str(refusal.value) == f"{NAME} is not, or not whole, in {cache}; get it with: {COMMAND}"
    assert not present(NAME, FILES)


def test_a_revision_that_came_in_part_is_refused(cache: Path) -> None:
    (fill(snapshot(cache)) / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(EngineError, match=r"model\*\.safetensors"):
        find(NAME, FILES, COMMAND)


def test_without_the_library_of_the_hub_only_folders_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    assert present(str(fill(tmp_path)), FILES)
    assert not present(NAME, FILES)
    with pytest.raises(EngineError, match="huggingface-hub is not installed"):
        find(NAME, FILES, COMMAND)
