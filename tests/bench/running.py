"""All roles as processes on a Redis of their own, for as long as a benchmark measures them."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from deploy.embedded import start_server
from tests.stack import SCRIPTED, Stack


@asynccontextmanager
async def running(*others: str, **env: str) -> AsyncIterator[tuple[Stack, str]]:
    """An edge, a worker of each kind and `others`, scripted, ready; and the URL of the edge."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        server = start_server(path / "redis")
        stack = Stack(server.url, path, {**SCRIPTED, "LOG_LEVEL": "warning", **env})
        try:
            edge = stack.start("edge")
            for role in ("llm", "tts", *others):
                stack.start(role)
            await stack.ready(edge, llm=1, tts=1)
            yield stack, stack.url(edge)
        finally:
            stack.stop()
            server.stop()
