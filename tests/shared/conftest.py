"""Servers and the ways to them: of either kind, through a proxy, by impatient readers, as a worker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deploy.embedded import start_server
from shared import reader as reader_module
from shared.keys import Role
from shared.store import Store, libraries
from shared.work import WorkQueue
from tests.conftest import DEBIAN_REDIS
from tests.proxy import Proxy
from tests.raw import Raw
from tests.shared.working import LEASE_S, Worker

SERVERS = ("embedded", "redis") if DEBIAN_REDIS else ("embedded",)


@pytest.fixture(scope="session")
def server_urls(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The URL of each kind of server."""
    with ExitStack() as stack:
        urls = {"embedded": server_url}
        if DEBIAN_REDIS:
            server = start_server(tmp_path_factory.mktemp("debian"), binary=Path(DEBIAN_REDIS))
            stack.callback(server.stop)
            urls["redis"] = server.url
        yield urls


@pytest.fixture(params=SERVERS)
def raw(request: pytest.FixtureRequest, server_urls: dict[str, str]) -> Iterator[Raw]:
    """A connection to each kind of server in turn, which holds nothing but our Functions."""
    yield from _empty(server_urls[request.param])


@pytest.fixture
def embedded(server_url: str) -> Iterator[Raw]:
    """A connection to the embedded server, which holds nothing but our Functions."""
    yield from _empty(server_url)


def _empty(url: str) -> Iterator[Raw]:
    with Raw(url) as raw:
        raw.ask("FLUSHALL")
        raw.ask("FUNCTION", "FLUSH")
        for source in libraries():
            raw.ask("FUNCTION", "LOAD", source)
        yield raw


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers that leave a silent log alone: what a push should have brought is missed if it does not."""
    monkeypatch.setattr(reader_module, "SILENCE_S", (3600.0,))


@pytest.fixture
def impatient(patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers that look after a lost push, and wait for a lost entry, for a moment only."""
    monkeypatch.setattr(reader_module, "SILENCE_S", (0.05, 0.1))
    monkeypatch.setattr(reader_module, "MISSING_S", (0.01, 0.3))


@pytest.fixture
async def worker(store: Store) -> AsyncIterator[Worker]:
    """Makes the queue of one role as a worker of some name sees it."""
    queues = []

    def make(name: str, role: Role = Role.REPLY, lease_s: float = LEASE_S) -> WorkQueue:
        queues.append(WorkQueue(store, role, name, lease_s=lease_s))
        return queues[-1]

    yield make
    for queue in queues:
        await queue.close()


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[Proxy]:
    """A proxy in front of the server."""
    async with Proxy(redis_url) as proxy:
        yield proxy


@pytest.fixture
async def far(proxy: Proxy) -> AsyncIterator[Store]:
    """A store that reaches the server through the proxy, and soon loses patience."""
    far = Store(proxy.url, timeout_s=0.25)
    yield far
    await far.close()


@pytest.fixture
async def at_maxmemory(store: Store) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Makes the server refuse what needs memory, until the test ends."""

    async def fill() -> None:
        await store.call("CONFIG", "SET", "maxmemory", 1)

    yield fill
    await store.call("CONFIG", "SET", "maxmemory", 0)
