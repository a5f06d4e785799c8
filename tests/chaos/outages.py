"""What can happen to Redis: it dies, sleeps, forgets, is full, or hangs up on everybody."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from deploy import child
from shared.errors import StoreError
from shared.keys import GROUP, Role, work_key
from tests.chaos.places import Place
from tests.chaos.world import RESTART_S, World

FORGOTTEN_S = 1.0
"""How much of its last time Redis forgets, when it does: it may be two seconds."""

KILL_EACH_S = 0.1
NEIGHBOUR_AHEAD_S = 1.0

NEIGHBOUR = """
import os, sys
with open(sys.argv[1], "wb") as file:
    while True:
        file.seek(0)
        file.write(os.urandom(1 << 22))
        file.flush()
        os.fsync(file.fileno())
"""


@asynccontextmanager
async def killed(world: World, place: Place | None) -> AsyncIterator[None]:
    """`kill -9` of Redis, which is started again at once."""
    await world.kill_redis()
    await asyncio.sleep(RESTART_S)
    await world.restart_redis()
    yield


@asynccontextmanager
async def killed_on_a_busy_disk(world: World, place: Place | None) -> AsyncIterator[None]:
    """The same, while a neighbour writes 4 MB after 4 MB to the same disk and waits for each."""
    command = [sys.executable, "-c", NEIGHBOUR, str(world.folder / "neighbour")]
    neighbour = child.start(command)
    try:
        await asyncio.sleep(NEIGHBOUR_AHEAD_S)
        async with killed(world, place):
            yield
    finally:
        neighbour.kill()
        neighbour.wait()


@asynccontextmanager
async def tail_lost(world: World, place: Place | None) -> AsyncIterator[None]:
    """`kill -9` of Redis, whose last second never came to the disk."""
    file = append_only_file(world.server.directory)
    size = file.stat().st_size
    await asyncio.sleep(FORGOTTEN_S)
    await world.kill_redis()
    os.truncate(file, size)
    await asyncio.sleep(RESTART_S)
    await world.restart_redis()
    yield


def append_only_file(directory: Path) -> Path:
    """The file that a server over this folder appends to now."""
    return max(directory.glob("appendonlydir/*.incr.aof"), key=lambda path: path.stat().st_mtime)


@asynccontextmanager
async def frozen(world: World, place: Place | None) -> AsyncIterator[None]:
    """Redis keeps its connections and says nothing."""
    os.kill(world.server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(world.server.pid, signal.SIGCONT)


@asynccontextmanager
async def hanging_up(world: World, place: Place | None, kind: str) -> AsyncIterator[None]:
    """Every connection of a kind is closed, ten times a second."""

    async def hang_up() -> None:
        while True:
            with suppress(StoreError):
                await world.store.call("CLIENT", "KILL", "TYPE", kind)
            await asyncio.sleep(KILL_EACH_S)

    task = asyncio.create_task(hang_up(), name="hang-up")
    yield
    task.cancel()
    await asyncio.wait([task])


@asynccontextmanager
async def told(world: World, place: Place | None, *command: str) -> AsyncIterator[None]:
    """Somebody sends a command that nobody should."""
    await world.store.call(*command)
    yield


@asynccontextmanager
async def groups_destroyed(world: World, place: Place | None) -> AsyncIterator[None]:
    """The consumer groups of the work streams are gone, and with them every claim."""
    for role in Role:
        await world.store.call("XGROUP", "DESTROY", work_key(role), GROUP)
    yield


@asynccontextmanager
async def full(world: World, place: Place | None) -> AsyncIterator[None]:
    """Redis is at its `maxmemory`."""
    await world.store.call("CONFIG", "SET", "maxmemory", "1")
    yield
    await world.store.call("CONFIG", "SET", "maxmemory", "0")
