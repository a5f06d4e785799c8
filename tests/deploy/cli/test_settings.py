from __future__ import annotations

import json
import os

import pytest

from deploy.cli.main import COMMANDS, main
from shared.settings import EX_CONFIG, rows


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that sets nothing of Parley's."""
    for name in [*(row.env_name for row in rows()), *(name for name in os.environ if "PARLEY_" in name)]:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_every_setting_is_a_row_with_default_bounds_and_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["NAME", "VALUE", "DEFAULT", "ALLOWED", "MEANING"]
    assert [line.split()[0] for line in lines] == [row.env_name for row in rows()]
    meanings = head.index("MEANING")
    assert [line[meanings:] for line in lines] == [row.meaning for row in rows()]
    port = next(line for line in lines if line.startswith("PORT"))
    assert port.split()[1:6] == ["8000", "8000", "1", "to", "65535"]


def test_what_the_environment_says_is_shown_beside_the_default(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("PORT", "9000")
    environment.setenv("PARLEY_API_KEYS", "hush-hush-1,hush-hush-2")
    environment.setenv("REDIS_URL", "redis://user:hush@host/0")
    assert main(["settings", "--json"]) == 0
    out = capsys.readouterr().out
    values = {row["name"]: (row["value"], row["default"]) for row in json.loads(out)}
    assert values["PORT"] == ("9000", "8000")
    assert values["PARLEY_API_KEYS"] == ("2 keys", None)
    assert values["REDIS_URL"] == ("redis://user:***@host/0", None)
    assert "hush" not in out


def test_every_bad_value_is_named_and_the_rest_still_shown(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("PORT", "none")
    environment.setenv("LEASE_S", "0")
    assert main(["settings"]) == EX_CONFIG
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == len(rows()) + 1
    assert [line.split(";")[0] for line in printed.err.splitlines()] == [
        "bad setting: PORT is 'none'",
        "bad setting: LEASE_S is '0'",
    ]


def test_check_prints_only_what_is_wrong(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["settings", "--check"]) == 0
    assert capsys.readouterr() == ("", "")
    environment.setenv("PARLEY_OPN", "1")
    assert main(["settings", "--check"]) == 0
    assert capsys.readouterr() == ("", "PARLEY_OPN is no setting of Parley: misspelt?\n")


def test_the_command_lists_its_subcommands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert all(name in out for name in COMMANDS)


@pytest.mark.parametrize("words", [[], ["sing"], ["settings", "--no-such-option"]])
def test_a_command_line_that_makes_no_sense_exits_with_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
