"""The servers that the Functions must work on: the embedded one, and a Redis where one is installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deploy.embedded import start_server
from shared.store import libraries
from tests.conftest import DEBIAN_REDIS
from tests.raw import Raw

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
