from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.edge.world import World, running


@pytest.fixture
async def world(redis_url: str) -> AsyncIterator[World]:
    """An edge with both workers announced."""
    async with running(redis_url) as world:
        yield world
