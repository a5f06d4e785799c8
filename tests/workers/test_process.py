"""A worker that cannot load its engine: one line, the status that its supervisor understands, no network."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from shared.keys import Role
from shared.settings import EX_CONFIG
from tests.workers.conftest import QUICK, Desk

ROOT = Path(__file__).parents[2]


@pytest.fixture
def hub() -> Iterator[socket.socket]:
    """A listening socket in the hub's place."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


def run(words: Sequence[str], environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "REDIS_URL": "redis://127.0.0.1:1", **environ}
    return subprocess.run([sys.executable, *words], cwd=ROOT, env=environ, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("module", "setting", "command"),
    [
        ("workers.llm", "LLM_ENGINE=voxtral", "parley models pull voxtral"),
        ("workers.tts", "TTS_ENGINE=kokoro", "parley models pull kokoro"),
    ],
)
def test_missing_weights_are_one_line_and_nothing_is_asked_of_the_hub(
    module: str, setting: str, command: str, hub: socket.socket, tmp_path: Path
) -> None:
    name, _, value = setting.partition("=")
    environ = {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.getsockname()[1]}",
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "0",
        name: value,
    }
    ended = run(["-m", module], environ)
    assert ended.returncode == EX_CONFIG
    (line,) = (ended.stdout + ended.stderr).splitlines()
    assert "ERROR" in line and command in line and str(tmp_path) in line
    with pytest.raises(BlockingIOError):
        hub.accept()


ASKING = """
import sys
from shared.errors import EngineError
from workers.process import main

def handler(settings):
    from huggingface_hub import HfApi
    try:
        HfApi().model_info("somebody/something")
    except Exception as error:
        raise EngineError(type(error).__name__, retryable="retryable" in sys.argv)

sys.exit(main("llm", handler))
"""


def test_no_library_in_a_worker_gets_to_the_hub(hub: socket.socket, tmp_path: Path) -> None:
    environ = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.getsockname()[1]}", "HF_HOME": str(tmp_path)}
    ended = run(["-c", ASKING], environ)
    assert "OfflineModeIsEnabled" in ended.stdout + ended.stderr
    with pytest.raises(BlockingIOError):
        hub.accept()


@pytest.mark.parametrize(("words", "status"), [([], EX_CONFIG), (["retryable"], 1)])
def test_a_worker_is_started_again_only_where_that_may_help(words: list[str], status: int) -> None:
    assert run(["-c", ASKING, *words], {}).returncode == status


HANGING = """
import sys, time
from tests.workers.replies import Replies
from workers.process import main

async def hang(turn):
    time.sleep(3600)

sys.exit(main("llm", lambda settings: Replies(hang)))
"""


async def test_a_worker_whose_event_loop_hangs_ends_and_says_so(redis_url: str, desk: Desk) -> None:
    await desk.ask(1, None, Role.REPLY)
    ended = await asyncio.to_thread(run, ["-c", HANGING], {**QUICK, "REDIS_URL": redis_url})
    assert ended.returncode == 1
    assert "the event loop hangs" in ended.stderr
