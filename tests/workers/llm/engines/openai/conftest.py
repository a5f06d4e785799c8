"""An endpoint, and engines that ask it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from shared.settings import Settings
from tests.endpoint import MODEL, Endpoint
from workers.llm.engines.openai import Openai

Asking = Callable[..., Openai]


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    """An endpoint on loopback that answers as vLLM does."""
    async with Endpoint() as endpoint:
        yield endpoint


@pytest.fixture
async def asking(endpoint: Endpoint) -> AsyncIterator[Asking]:
    """Makes engines that ask the endpoint; other settings than its place and model may be given."""
    made: list[Openai] = []

    def make(**env: str) -> Openai:
        made.append(
            Openai(Settings.from_env({"OPENAI_BASE_URL": endpoint.url, "OPENAI_MODEL": MODEL, **env}))
        )
        return made[-1]

    yield make
    for engine in made:
        await engine.close()
