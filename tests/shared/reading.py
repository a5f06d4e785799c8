"""What tests of readers share: a running reader, and what it has read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared.reader import Cursor, Reader
from shared.store import Store
from shared.wire import Address, Entry
from tests.conftest import eventually

START = Address(1, -1)


@asynccontextmanager
async def reading(url: str) -> AsyncIterator[Reader]:
    """A running reader on a store of its own."""
    store = Store(url)
    reader = Reader(store)
    running = asyncio.create_task(reader.run())
    yield reader
    running.cancel()
    await asyncio.wait([running])
    await store.close()


async def subscribers(store: Store, key: str) -> int:
    """How many connections the pushes of a log go to."""
    _, count = await store.call("PUBSUB", "SHARDNUMSUB", key)
    return int(count)


async def subscribed(store: Store, *keys: str) -> None:
    """Wait until the pushes of these logs go to somebody."""

    async def all_are() -> bool:
        return all([await subscribers(store, key) == 1 for key in keys])

    await eventually(all_are, "the channels are subscribed")


async def read(cursor: Cursor, count: int) -> list[Entry]:
    """The next entries."""
    return [await cursor.next() for _ in range(count)]


async def read_turns(cursor: Cursor, last: int) -> list[Entry]:
    """Everything through the first final entry of turn `last`."""
    entries = []
    async for entry in cursor:
        entries.append(entry)
        if entry.final and entry.address.turn == last:
            break
    return entries
