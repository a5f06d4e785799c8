"""A real server for every test: started once a process, empty at the start of each test."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import redis
from hypothesis import HealthCheck, settings

from deploy.embedded import start_server
from shared.reader import Reader
from shared.store import Store

# A busy machine is slow; that is no property of what is tested.
settings.register_profile("parley", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("parley")

AUDIO = Path(__file__).parent / "audio"
WITHIN_S = 20.0

# Several tests run at once, with processes of their own: threads of one model that wait for each other's turn
# on a few cores take many times as long as one. Before torch is imported, here and in those processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

DEBIAN_REDIS = shutil.which("redis-server")


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The embedded server, on a free port, for the whole run."""
    server = start_server(tmp_path_factory.mktemp("redis"))
    yield server.url
    server.stop()


@pytest.fixture
def redis_url(server_url: str) -> str:
    """The URL of a server that holds nothing, not even Functions."""
    with redis.Redis.from_url(server_url) as client:
        client.flushall()
        client.function_flush()
    return server_url


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[Store]:
    """A store on the empty server."""
    store = Store(redis_url)
    yield store
    await store.close()


@pytest.fixture
async def reader(store: Store) -> AsyncIterator[Reader]:
    """A reader that is running."""
    reader = Reader(store)
    running = asyncio.create_task(reader.run())
    yield reader
    running.cancel()
    await asyncio.wait([running])


@pytest.fixture(scope="session")
def voxtral_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Voxtral with random weights, in the hub's layout."""
    from tests.checkpoints import voxtral

    return voxtral.build(tmp_path_factory.mktemp("voxtral"))


@pytest.fixture(scope="session")
def kokoro_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Kokoro with random weights and a voice of each language, in the hub's layout."""
    from tests.checkpoints import kokoro

    return kokoro.build(tmp_path_factory.mktemp("kokoro"))


async def eventually(
    holds: Callable[[], bool | Awaitable[bool]], what: str, within_s: float = WITHIN_S
) -> None:
    """Wait until `holds()`; fail with `what` when it does not come true."""
    deadline = asyncio.get_running_loop().time() + within_s
    while True:
        answer = holds()
        if answer is True or (isinstance(answer, Awaitable) and await answer):
            return
        assert asyncio.get_running_loop().time() < deadline, f"never came true: {what}"
        await asyncio.sleep(0.01)
