from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import SettingsError, StoreError
from shared.portfile import PortFile
from shared.settings import EX_CONFIG, Settings, redis_url, rows, unknown_names

ROWS = {row.env_name: row for row in rows()}
NUMBERS = {
    name: tuple(map(float, bounds.groups()))
    for name, row in ROWS.items()
    if (bounds := re.match(r"([\d.]+) to ([\d.]+)", row.kind.bounds))
}


def test_an_empty_environment_gives_the_defaults() -> None:
    settings = Settings.from_env({})
    assert settings == Settings()
    assert (settings.port, settings.host, settings.redis_url) == (8000, "127.0.0.1", None)
    assert (settings.drain_s, settings.lease_s, settings.playout_lead_ms) == (30, 2, 300)
    assert settings.max_message_bytes == 4 * 2**20
    assert settings.parley_api_keys == () and settings.parley_open is False
    assert len(settings.script_tokens) == 24 and "".join(settings.script_tokens).startswith(
        "Hello! Yes, I can"
    )


def test_a_variable_that_is_empty_counts_as_unset() -> None:
    assert Settings.from_env(dict.fromkeys(ROWS, " ")) == Settings()


def test_every_kind_of_value_is_read() -> None:
    settings = Settings.from_env(
        {
            "PORT": "9000",
            "REDIS_URL": "rediss://user:secret@redis.example:6380/1",
            "PARLEY_DATA": "/var/lib/parley",
            "LLM_ENGINE": "Scripted",
            "DRAIN_S": "2.5",
            "PARLEY_OPEN": "1",
            "PARLEY_API_KEYS": "first-key-1, second~key",
            "PARLEY_ORIGINS": "https://Example.org,http://localhost:3000",
            "SCRIPT_TOKENS": '["Né", "!"]',
            "CONCURRENCY": "llm=2,tts=3",
            "UNRELATED": "x",
        }
    )
    assert settings.port == 9000
    assert settings.redis_url == "rediss://user:secret@redis.example:6380/1"
    assert settings.parley_data == Path("/var/lib/parley")
    assert settings.llm_engine == "scripted"
    assert settings.drain_s == 2.5
    assert settings.parley_open is True
    assert settings.parley_api_keys == ("first-key-1", "second~key")
    assert settings.parley_origins == ("https://example.org", "http://localhost:3000")
    assert settings.script_tokens == ("Né", "!")
    assert settings.concurrency == "llm=2,tts=3"


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "0"),
        ("PORT", "65536"),
        ("PORT", "8000.0"),
        ("PORT", "٨٠٠٠"),
        ("PORT", "9" * 5000),
        ("HOST", "a b"),
        ("REDIS_URL", "localhost:6379"),
        ("REDIS_URL", "http://localhost"),
        ("REDIS_URL", "redis://"),
        ("REDIS_URL", "redis://host:99999"),
        ("LLM_ENGINE", "gpt"),
        ("TTS_ENGINE", "parrot"),
        ("CONCURRENCY", "llm"),
        ("CONCURRENCY", "llm=x"),
        ("CONCURRENCY", "cook=1"),
        ("DRAIN_S", "-1"),
        ("DRAIN_S", "nan"),
        ("DRAIN_S", "inf"),
        ("DRAIN_S", "soon"),
        ("MAX_UTTERANCE_S", "500.5"),
        ("PARLEY_OPEN", "maybe"),
        ("PARLEY_ORIGINS", "example.org"),
        ("PARLEY_ORIGINS", "https://example.org/"),
        ("PARLEY_ORIGINS", "*"),
        ("LOG_LEVEL", "loud"),
        ("WORKER_NAME", "a/b"),
        ("SCRIPT_TOKENS", "Hello"),
        ("SCRIPT_TOKENS", "[]"),
        ("SCRIPT_TOKENS", "[1]"),
        ("SCRIPT_TOKENS", "[" * 100_000),
    ],
)
def test_a_bad_value_is_refused_with_its_name_itself_and_what_was_expected(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.from_env({name: value})
    message = str(refused.value)
    assert message.startswith(f"{name} is '{value[:20]}")
    assert message.endswith(f"expected {ROWS[name].kind.expected}")
    assert len(message) < 300 and "\n" not in message


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_may_reach_its_bounds_and_not_pass_them(name: str) -> None:
    low, high = NUMBERS[name]
    for allowed in (low, high):
        assert float(ROWS[name].parse(f"{allowed:.15g}")) == allowed
    for refused in (low - 1, high + 1):
        with pytest.raises(SettingsError):
            ROWS[name].parse(f"{refused:.15g}")


@pytest.mark.parametrize("name", ROWS)
def test_every_default_is_itself_allowed(name: str) -> None:
    row = ROWS[name]
    shown = row.show(row.default)
    assert shown == "" or row.parse(shown) == row.default


@given(st.sampled_from(sorted(ROWS)), st.text())
def test_whatever_stands_in_a_variable_is_a_value_or_a_settings_error(name: str, text: str) -> None:
    try:
        Settings.from_env({name: text})
    except SettingsError as error:
        assert str(error).startswith(name)


@pytest.mark.parametrize("keys", ["short", "has a space in it", "good-key-1,bad/key/2", "ключ-ключ"])
def test_a_bad_key_is_refused_and_never_shown(keys: str) -> None:
    with pytest.raises(SettingsError, match=r"PARLEY_API_KEYS is \(not shown\);") as refused:
        Settings.from_env({"PARLEY_API_KEYS": keys})
    assert not any(key in str(refused.value) for key in keys.split(","))


def test_no_secret_is_shown() -> None:
    keys = ROWS["PARLEY_API_KEYS"]
    assert keys.show(keys.parse("first-key-1")) == "1 key"
    assert keys.show(keys.parse("first-key-1,second-key")) == "2 keys"
    url = ROWS["REDIS_URL"]
    assert url.show(url.parse("redis://user:hush@host:1/0")) == "redis://user:***@host:1/0"
    assert url.show(url.parse("redis://:hu:sh@host")) == "redis://:***@host"
    with pytest.raises(SettingsError) as refused:
        url.parse("rediz://user:hush@host")
    assert "hush" not in str(refused.value)


def test_misspelt_names_are_found() -> None:
    environ = {"PARLEY_OPN": "1", "PARLEY_OPEN": "1", "PORT": "1", "OTHER": "1"}
    assert unknown_names(environ) == ("PARLEY_OPN",)


def test_a_bad_setting_ends_a_process_with_one_line_and_its_own_exit_code() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "from shared import settings; settings.load()"],
        env={**os.environ, "MAX_ATTACHED": "none"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == EX_CONFIG
    assert ended.stderr == "bad setting: MAX_ATTACHED is 'none'; expected a whole number from 1 to 10000\n"


def test_redis_is_where_redis_url_says() -> None:
    assert redis_url(Settings(redis_url="redis://elsewhere:1/0")) == "redis://elsewhere:1/0"


def test_without_redis_url_the_embedded_server_is_waited_for(tmp_path: Path) -> None:
    found: list[str] = []
    settings = Settings(parley_data=tmp_path / "data")
    waiting = threading.Thread(target=lambda: found.append(redis_url(settings, wait_s=60)))
    waiting.start()
    (tmp_path / "data").mkdir()
    announced = PortFile(tmp_path / "data" / "redis.port")
    announced.announce(6391)
    waiting.join()
    announced.withdraw()
    assert found == ["redis://127.0.0.1:6391"]


def test_without_any_redis_the_wait_ends(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"REDIS_URL is not set, and no embedded server"):
        redis_url(Settings(parley_data=tmp_path), wait_s=0)


def test_the_default_script_is_a_json_list_away_from_another() -> None:
    shown = ROWS["SCRIPT_TOKENS"].show(Settings().script_tokens)
    assert tuple(json.loads(shown)) == Settings().script_tokens
