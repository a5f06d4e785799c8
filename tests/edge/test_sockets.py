from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Self

import pytest
from websockets.asyncio.client import connect
from websockets.frames import Frame, Opcode

from edge.sockets import MAX_FRAGMENTS, MAX_HEAD_BYTES
from shared.keys import JOBS
from shared.settings import Settings
from tests.conftest import eventually
from tests.edge.test_batch import answered
from tests.edge.world import SECOND, Client, World, running

UPGRADE = (
    b"GET /ws?encoding=msgpack HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)

SIP_S = 0.02


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
        """What comes, until these bytes are in it."""
        data = b""
        async with asyncio.timeout(20):
            while end not in data[-(1 << 17) :]:
                more = await self._reader.read(1 << 16)
                assert more, f"closed before {end!r}"
                data += more
        return data

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


class Straw:
    """Between a client and an edge: of what the edge sends, so many bytes pass in each sip."""

    def __init__(self, world: World, bytes_each: int) -> None:
        self.bytes_each = bytes_each
        self.port = 0
        self._world = world
        self._passing: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for passing in self._passing:
            passing.cancel()
        await asyncio.gather(*self._passing, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        narrow = socket.socket()
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        narrow.setblocking(False)
        await asyncio.get_running_loop().sock_connect(narrow, ("127.0.0.1", self._world.port))
        from_edge, to_edge = await asyncio.open_connection(sock=narrow, limit=1 << 14)
        self._passing += [
            asyncio.create_task(self._sip(from_edge, writer)),
            asyncio.create_task(self._pour(reader, to_edge)),
        ]

    async def _sip(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(self.bytes_each):
                writer.write(data)
                await asyncio.sleep(SIP_S)
        finally:
            writer.transport.abort()

    async def _pour(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        finally:
            writer.transport.abort()


@asynccontextmanager
async def sipping(world: World, bytes_each: int) -> AsyncIterator[Client]:
    """A client that reads no quicker than this, greeted and configured."""
    async with Straw(world, bytes_each) as straw:
        url = f"ws://127.0.0.1:{straw.port}/ws?encoding=msgpack"
        async with connect(url, proxy=None, compression=None, max_size=None) as bare:
            client = await Client(bare, "msgpack").greet()
            await client.configure(pacing="none")
            yield client


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


async def test_a_large_message_may_take_its_time(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.sockets.SEND_WITHIN_S", 0.5)
    monkeypatch.setattr("edge.sockets.PING_S", 1.0)
    async with running(redis_url) as world, sipping(world, 20_000) as client:
        await world.announce(JOBS)
        await client.speak(SECOND, streaming=False)
        response = await answered(world, client, frames=400)
        assert response["audio_duration_ms"] == 80_000.0
        await answers(client)


async def test_a_client_that_reads_a_little_for_ever_is_cut_off(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.sockets.SEND_WITHIN_S", 0.5)
    async with world.client() as good, sipping(world, 500) as slow:
        await slow.speak()
        answer = await world.answer(slow)
        for _ in range(40):
            await answer.say("Much to say.", frames=40)
        connections = world.server.server_state.connections
        await eventually(lambda: len(world.sessions) == len(connections) == 1, "the client is cut off")
        await answers(good)
        slow.socket.transport.abort()


async def test_a_flood_of_pings_closes_its_socket_only(world: World) -> None:
    async with world.client() as good, world.client() as flooding:
        flooding.socket.transport.write(frame(Opcode.PING, b"") * 100_000)
        assert await flooding.closed() == 1008
        await answers(good)


async def test_of_a_client_that_does_not_read_only_the_last_ping_is_answered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.sockets.MAX_CONTROLS", 1_000_000)
    async with world.client() as good, dial(world) as raw:
        await raw.write(UPGRADE + b"\r\n")
        await raw.upto(b"resume_token")
        for _ in range(200):
            await raw.write(frame(Opcode.PING, bytes(125)) * 1000)
            await answers(good)
        assert waiting_bytes(world) < 1 << 20
        await raw.write(frame(Opcode.PING, b"the last"))
        await answers(good)
        await raw.upto(b"\x8a\x08the last")


async def test_a_flood_of_messages_waits_for_its_answers_to_be_read(world: World) -> None:
    async with world.client() as good, dial(world) as raw:
        await raw.write(UPGRADE + b"\r\n")
        await raw.upto(b"resume_token")
        flooding = asyncio.create_task(raw.write(frame(Opcode.BINARY, b"?") * 2_000_000))
        for _ in range(100):
            await answers(good)
        assert waiting_bytes(world) < 1 << 20
        assert not flooding.done()
        flooding.cancel()


@pytest.mark.parametrize("fragment", [b"", b"x"])
async def test_a_message_of_too_many_fragments_closes_its_socket_only(world: World, fragment: bytes) -> None:
    async with world.client() as good, world.client() as endless:
        begin = frame(Opcode.BINARY, b"", fin=False)
        endless.socket.transport.write(begin + frame(Opcode.CONT, fragment, fin=False) * (MAX_FRAGMENTS + 1))
        assert await endless.closed() == 1008
        await answers(good)


async def test_a_message_may_come_in_many_fragments(world: World) -> None:
    async with world.client("json") as client:
        *most, last = json.dumps({"type": "ping"}).ljust(MAX_FRAGMENTS).encode()
        await client.socket.send([chr(each) for each in (*most, last)])
        await client.until("pong")


async def test_a_message_that_does_not_end_is_waited_for_no_longer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.sockets.MESSAGE_WITHIN_S", 0.3)
    async with world.client() as good, world.client() as endless:
        endless.socket.transport.write(frame(Opcode.BINARY, b"half", fin=False))
        assert await endless.closed() == 1008
        await answers(good)


async def test_many_clients_that_read_through_a_straw_hold_nobody_up(world: World) -> None:
    async with AsyncExitStack() as stack:
        good = await stack.enter_async_context(world.client(pacing="none"))
        slow = [await stack.enter_async_context(sipping(world, 500)) for _ in range(10)]
        for client in slow:
            stack.callback(client.socket.transport.abort)
            await client.speak()
            answer = await world.answer(client)
            for _ in range(10):
                await answer.say("Much to say.", frames=40)
        await good.speak()
        answer = await world.answer(good)
        await answer.say("Hello!", frames=40)
        await answer.end()
        await good.until("chunked_streaming_complete")
        assert waiting_bytes(world) < 10 << 17


def frame(opcode: Opcode, data: bytes, *, fin: bool = True) -> bytes:
    """A frame of a client."""
    return Frame(opcode, data, fin).serialize(mask=True)


def waiting_bytes(world: World) -> int:
    """What waits in this edge for all clients to be read."""
    connections: set[Any] = world.server.server_state.connections
    return sum(each.transport.get_write_buffer_size() for each in connections)
