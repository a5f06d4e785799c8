from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.names import WorkerName
from shared import kinds
from shared.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(parley_data=tmp_path / "data")


def name(settings: Settings, role: str, process: str | None) -> str:
    with WorkerName(settings, role, process) as given:
        return str(given)


def test_under_honcho_a_name_outlives_a_restart_of_everything(settings: Settings) -> None:
    first = name(settings, "llm", "llm.1")
    assert first.endswith(".llm.1")
    assert name(settings, "llm", "llm.1") == first


def test_processes_of_one_honcho_have_names_of_their_own(settings: Settings) -> None:
    assert name(settings, "llm", "llm.1") != name(settings, "llm", "llm.2")


def test_two_honchos_on_one_folder_give_different_names(settings: Settings) -> None:
    with ExitStack() as stack:
        names = [str(stack.enter_context(WorkerName(settings, "llm", "llm.1"))) for _ in range(2)]
    assert names[0] != names[1]
    assert name(settings, "llm", "llm.1") == names[0]


def test_two_installations_on_one_host_give_different_names(settings: Settings, tmp_path: Path) -> None:
    elsewhere = replace(settings, parley_data=tmp_path / "elsewhere")
    assert name(settings, "llm", "llm.1") != name(elsewhere, "llm", "llm.1")


def test_a_name_that_is_set_is_obeyed(settings: Settings) -> None:
    assert name(replace(settings, worker_name="mine"), "llm", "llm.1") == "mine"
    assert not settings.parley_data.exists()


@pytest.mark.parametrize("process", [None, "llm.1"])
def test_a_folder_that_cannot_be_written_still_gives_a_name(tmp_path: Path, process: str | None) -> None:
    (tmp_path / "file").write_text("in the way")
    settings = Settings(parley_data=tmp_path / "file")
    names = {name(settings, "llm", process) for _ in range(2)}
    assert len(names) == 2
    assert all(kinds.NAME.parse(each) for each in names)


@pytest.mark.parametrize("process", [None, "llm.1"])
def test_every_name_is_one_that_worker_name_allows(settings: Settings, process: str | None) -> None:
    assert kinds.NAME.parse(name(settings, "llm", process))
