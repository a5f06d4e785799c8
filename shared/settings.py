"""Every setting of Parley: one frozen object, parsed once from the environment.

The fields of `Settings` are the one table: each says its default, what is allowed and what it means, and both
the parser and `parley settings` read it from there. Knows nothing of what the settings are used for.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from shared import kinds
from shared.errors import SettingsError, StoreError
from shared.keys import LONGEST_UTTERANCE_S
from shared.kinds import Kind
from shared.portfile import PortFile

EX_CONFIG = 78
"""The exit code of a process that a bad setting stopped (as in sysexits.h): starting it again is no use."""

PORT_FILE = "redis.port"
"""The file in `PARLEY_DATA` in which the embedded Redis announces its port."""

DEFAULT_SCRIPT = (
    "Hello", "!", " Yes", ",", " I", " can", " hear", " you", " perfectly", ".", " How", " can",
    " I", " help", " you", " today", "?", " Just", " tell", " me", " what", " you", " need", ".",
)  # fmt: skip


def _setting(default: Any, kind: Kind, meaning: str) -> Any:
    return field(default=default, metadata={"kind": kind, "meaning": meaning})


@dataclass(frozen=True, slots=True)
class Settings:
    """The effective settings of one process. A field's environment variable is its name in capitals.

    `Settings()` holds the defaults. An empty variable counts as unset.
    """

    port: int = _setting(8000, kinds.PORT, "TCP port of the edge")
    host: str = _setting("127.0.0.1", kinds.HOST, "address that the edge listens on")
    redis_url: str | None = _setting(None, kinds.REDIS_URL, "the Redis to use; unset: the embedded server")
    parley_redis_port: int = _setting(
        6390, kinds.PORT, "port of the embedded Redis; if it is taken, the next free one"
    )
    parley_redis_fsync: str = _setting(
        "everysec",
        kinds.one_of("everysec", "always"),
        "how soon the embedded Redis has its writes on the disk; always: before it answers, far slower",
    )
    parley_data: Path = _setting(  # noqa: RUF009 (a field, as in every other line)
        Path(".parley"), kinds.FOLDER, "folder of the embedded Redis and its redis.port"
    )
    llm_engine: str = _setting(
        "auto", kinds.one_of("auto", "voxtral", "openai", "parrot", "scripted"), "engine of the LLM workers"
    )
    tts_engine: str = _setting(
        "auto", kinds.one_of("auto", "kokoro", "espeak", "scripted"), "engine of the TTS workers"
    )
    concurrency: str = _setting("all=1", kinds.CONCURRENCY, "processes of each role under make run")
    drain_s: float = _setting(
        30.0, kinds.number(0, 3600, "s"), "time that SIGTERM leaves to finish what runs (make run: 3)"
    )
    resume_window_s: float = _setting(
        60.0, kinds.number(1, 86_400, "s"), "how long a conversation waits for a lost client"
    )
    playout_lead_ms: float = _setting(
        300.0, kinds.number(0, 5000, "ms"), "how far ahead of real time speech is sent"
    )
    max_message_bytes: int = _setting(
        4 * 1024 * 1024, kinds.whole(1024, 64 * 1024 * 1024), "largest message of a client, in bytes"
    )
    max_utterance_s: float = _setting(
        60.0, kinds.number(1, LONGEST_UTTERANCE_S, "s"), "longest utterance: there the server ends it"
    )
    max_conversations: int = _setting(1000, kinds.whole(1, 1_000_000), "conversations that one edge admits")
    admit_within_ms: float = _setting(
        5000.0,
        kinds.number(100, 60_000, "ms"),
        "how long a turn may wait for a worker before no more turns and conversations are let in",
    )
    handshake_s: float = _setting(
        5.0, kinds.number(0.1, 60, "s"), "how long a connection may take to ask for something"
    )
    max_attached: int = _setting(64, kinds.whole(1, 10_000), "turns that one worker is attached to at once")
    parley_api_keys: tuple[str, ...] = _setting((), kinds.API_KEYS, "keys, one of which a client must show")
    parley_open: bool = _setting(False, kinds.FLAG, "1: listen beyond loopback without keys")
    parley_origins: tuple[str, ...] = _setting(
        (), kinds.ORIGINS, "other origins whose pages may connect, besides the edge's own"
    )
    lease_s: float = _setting(
        2.0, kinds.number(0.2, 60, "s"), "after how long a silent worker's turns are reclaimed"
    )
    stall_s: float = _setting(
        10.0, kinds.number(0.5, 600, "s"), "after how long an engine without a step is given up"
    )
    log_level: str = _setting(
        "info", kinds.one_of("debug", "info", "warning", "error"), "least level that is logged"
    )
    worker_name: str | None = _setting(
        None, kinds.NAME, "name of this worker; unset: its supervisor gives one that outlives restarts"
    )
    history_tokens: int = _setting(
        3072, kinds.whole(0, 1_000_000), "how much of the conversation the LLM is given back, in its tokens"
    )
    history_audio_s: float = _setting(
        120.0, kinds.number(0, 3600, "s"), "how much of what the user said is kept for that, as audio"
    )
    think_ahead: bool = _setting(
        True, kinds.FLAG, "1: an answer is begun at a pause, and thrown away if the user goes on"
    )
    device: str = _setting(
        "auto",
        kinds.one_of("auto", "cpu", "cuda"),
        "where Voxtral and Kokoro compute; auto: CUDA if there is",
    )
    voxtral_model: str = _setting(
        "mistralai/Voxtral-Mini-3B-2507@3060fe34b35ba5d44202ce9ff3c097642914f8f3",
        kinds.MODEL,
        "weights of Voxtral: NAME@REVISION on the hub, or a folder in the hub's layout",
    )
    voxtral_dtype: str = _setting(
        "auto", kinds.one_of("auto", "bfloat16", "float32"), "auto: bfloat16 on CUDA, float32 on a CPU"
    )
    voxtral_slots: int | None = _setting(
        None,
        kinds.whole(1, 1024),
        "conversations in Voxtral's batch; unset: what the memory holds, at most 64",
    )
    voxtral_context: int = _setting(
        4096, kinds.whole(512, 32_768), "tokens of one conversation in Voxtral's cache, its answer included"
    )
    kokoro_model: str = _setting(
        "hexgrad/Kokoro-82M@f3ff3571791e39611d31c381e3a41a3af07b4987",
        kinds.MODEL,
        "weights and voices of Kokoro: NAME@REVISION on the hub, or a folder in the hub's layout",
    )
    kokoro_parallel: int | None = _setting(
        None, kinds.whole(1, 16), "chunks that Kokoro speaks at once; unset: 1 on a CPU, 3 on CUDA"
    )
    openai_base_url: str | None = _setting(
        None, kinds.HTTP_URL, "the endpoint of LLM_ENGINE=openai, with its /v1"
    )
    openai_api_key: str | None = _setting(None, kinds.SECRET, "the key that the endpoint asks for")
    openai_model: str | None = _setting(None, kinds.MODEL_NAME, "the model that the endpoint is asked for")
    openai_timeout_s: float = _setting(
        8.0,
        kinds.number(0.1, 600, "s"),
        "how long the endpoint may be silent before an attempt fails; below STALL_S",
    )
    openai_continue: str = _setting(
        "auto",
        kinds.one_of("auto", "yes", "no"),
        "whether the endpoint can go on with an answer begun (auto: where it says that it is vLLM)",
    )
    script_tokens: tuple[str, ...] = _setting(DEFAULT_SCRIPT, kinds.STRINGS, "what the scripted LLM answers")
    script_first_token_ms: float = _setting(
        95.0, kinds.number(0, 60_000, "ms"), "from the question to the scripted LLM's first token"
    )
    script_inter_token_ms: float = _setting(
        40.0, kinds.number(0, 60_000, "ms"), "from one token of the scripted LLM to the next"
    )
    script_tts_ms: float = _setting(
        50.0, kinds.number(0, 60_000, "ms"), "what the scripted voice waits for each semantic chunk"
    )
    script_ms_per_char: float = _setting(
        60.0, kinds.number(1, 1000, "ms"), "audio that the scripted voice makes of a character"
    )
    script_echo_history: bool = _setting(
        False, kinds.FLAG, "1: the scripted LLM answers with the history that it was given"
    )
    script_keyed: bool = _setting(
        False, kinds.FLAG, "1: the scripted LLM's words say whose they are, and what it heard"
    )

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Parse the settings out of `environ`, which may hold anything else too.

        Raises `SettingsError`, whose one line gives the setting's name, its value and what was expected.
        """
        values: dict[str, Any] = {}
        for row in rows():
            text = environ.get(row.env_name, "").strip()
            if text:
                values[row.field_name] = row.parse(text)
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table of settings."""

    field_name: str
    default: Any
    kind: Kind
    meaning: str

    @classmethod
    def of(cls, source: Field[Any]) -> Self:
        """The row that a field of `Settings` stands for."""
        return cls(source.name, source.default, source.metadata["kind"], source.metadata["meaning"])

    @property
    def env_name(self) -> str:
        """The environment variable."""
        return self.field_name.upper()

    def parse(self, text: str) -> Any:
        """The value that `text` stands for. Raises `SettingsError`."""
        try:
            return self.kind.parse(text)
        except (ValueError, RecursionError):
            shown = "(not shown)" if self.kind.secret else repr(_shorten(kinds.mask_password(text)))
            raise SettingsError(f"{self.env_name} is {shown}; expected {self.kind.expected}") from None

    def show(self, value: Any) -> str:
        """The value as a person may read it: no secret in it, and empty for one that is not set."""
        return "" if value is None or value == () else self.kind.show(value)


def rows() -> tuple[Row, ...]:
    """The table of settings, in the order of `Settings`."""
    return tuple(Row.of(source) for source in fields(Settings))


def unknown_names(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Variables that begin with `PARLEY_` and are no setting: most likely misspelt."""
    known = {row.env_name for row in rows()}
    return tuple(sorted(name for name in environ if name.startswith("PARLEY_") and name not in known))


def load() -> Settings:
    """The settings of this process, for its entry point: a bad one ends it, with one line and `EX_CONFIG`."""
    try:
        return Settings.from_env(os.environ)
    except SettingsError as error:
        sys.stderr.write(f"bad setting: {error}\n")
        raise SystemExit(EX_CONFIG) from None


def redis_url(settings: Settings, wait_s: float = 30.0) -> str:
    """Where Redis is: `REDIS_URL`, or the embedded server on this host, once it has announced its port.

    Blocks for `wait_s` at most: for the start of a process, before its event loop runs. Raises `StoreError`.
    """
    if settings.redis_url is not None:
        return settings.redis_url
    port_file = PortFile(settings.parley_data / PORT_FILE)
    give_up_at = time.monotonic() + wait_s
    while (port := port_file.read()) is None:
        if time.monotonic() >= give_up_at:
            raise StoreError(
                f"no Redis: REDIS_URL is not set, and no embedded server is up in {port_file.path}"
            )
        time.sleep(0.02)
    return f"redis://127.0.0.1:{port}"


def _shorten(text: str) -> str:
    return text if len(text) <= 80 else text[:79] + "…"
