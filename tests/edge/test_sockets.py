from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from edge.sockets import MAX_HEAD_BYTES
from shared.settings import Settings
from tests.edge.world import Client, World, running

UPGRADE = (
    b"GET /ws?encoding=msgpack HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


class Raw:
    """A bare TCP connection to an edge."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.gone = False
        """Whether it was found closed at a write."""

    async def write(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._writer.write(data)
        try:
            await self._writer.drain()
        except ConnectionError:
            self.gone = True

    async def upto(self, end: bytes) -> bytes:
        """What comes next, up to these bytes."""
        async with asyncio.timeout(10):
            return await self._reader.readuntil(end)

    async def rest(self) -> bytes:
        """All that comes until the connection is closed."""
        data = b""
        async with asyncio.timeout(20):
            try:
                while more := await self._reader.read(1 << 16):
                    data += more
            except ConnectionError:
                return data
        return data

    async def drip(self, data: bytes, each_s: float) -> None:
        """Send byte after byte, for as long as the connection is there."""
        for byte in data:
            await self.write(bytes([byte]))
            if self.gone or self._reader.at_eof():
                return
            await asyncio.sleep(each_s)


@asynccontextmanager
async def dial(world: World) -> AsyncIterator[Raw]:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    try:
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()


@pytest.fixture
async def brisk(redis_url: str) -> AsyncIterator[World]:
    """An edge that does not wait for long."""
    async with running(redis_url, Settings(handshake_s=0.3)) as world:
        yield world


async def answers(client: Client) -> None:
    await client.send("ping")
    await client.until("pong")


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"GET /healthz HTTP/1.1\r\nHost: x",
        UPGRADE,
        b"POST /ws HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhalf",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HTTP/1.1\r\n",
    ],
    ids=["nothing", "half a header", "half a handshake", "half a body", "half a second request"],
)
async def test_a_request_that_is_not_finished_in_time_is_waited_for_no_longer(
    brisk: World, begun: bytes
) -> None:
    async with brisk.client() as good, dial(brisk) as raw:
        await raw.write(begun)
        assert b"101 Switching" not in await raw.rest()
        await answers(good)


@pytest.mark.parametrize(
    ("begun", "dripped"),
    [
        (b"", UPGRADE + b"\r\n"),
        (b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n", bytes(500)),
    ],
    ids=["headers", "a body"],
)
async def test_a_request_that_comes_drop_by_drop_is_waited_for_no_longer(
    brisk: World, begun: bytes, dripped: bytes
) -> None:
    async with brisk.client() as good, dial(brisk) as raw:
        await raw.write(begun)
        dripping = asyncio.create_task(raw.drip(dripped, 0.05))
        assert b"101 Switching" not in await raw.rest()
        await answers(good)
        dripping.cancel()


async def test_a_head_that_is_too_long_is_refused_at_once(world: World) -> None:
    async with dial(world) as raw:
        await raw.write(b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 2 * MAX_HEAD_BYTES)
        assert (await raw.upto(b"\r\n")).startswith(b"HTTP/1.1 400 ")


async def test_a_handshake_that_cannot_be_understood_is_answered_and_closed(world: World) -> None:
    async with dial(world) as raw:
        await raw.write(UPGRADE + b"X: " + b"x" * 9000 + b"\r\n\r\n")
        assert b"HTTP/1.1 4" in await raw.rest()


async def test_who_has_asked_in_time_is_served_on(brisk: World) -> None:
    async with brisk.client() as client, dial(brisk) as raw:
        for _ in range(3):
            await raw.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"HTTP/1.1 200 " in await raw.upto(b'"sessions":1}')
        await raw.rest()
        await answers(client)
