"""What may happen between a client and a server: TCP proxies that cut, hold back, lose and disorder.

`Proxy` knows bytes only. `PushProxy` knows where a RESP2 message ends and which ones are pushes.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import urlsplit

CHUNK_BYTES = 1 << 16
CLOSING_S = 1.0

PUSH = b"*3\r\n$8\r\nsmessage\r\n"


class Stream(Protocol):
    """What becomes of the bytes that one connection brings from the server."""

    def feed(self, received: bytes) -> bytes:
        """Take what the server sent; what the client is to get now."""
        ...


class Proxy:
    """Listens on a port of its own and passes on what comes, in both directions, while the test lets it."""

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        self._upstream = (place.hostname or "127.0.0.1", place.port or 6379)
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._requests = asyncio.Event()
        self._replies = asyncio.Event()
        self._requests.set()
        self._replies.set()
        self._losing = 0
        self._losing_to = b""
        self.refusing = False
        """Whether new connections are closed at once."""
        self.accepted = 0
        """How many connections were made."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """The same as a Redis URL."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def connected(self) -> bool:
        """Whether a client has not hung up yet."""
        return bool(self._connections)

    @property
    def losing(self) -> bool:
        """Whether a reply that is to be lost has not come yet."""
        return self._losing > 0 or self._losing_to != b""

    def cut(self) -> None:
        """Reset every connection."""
        for writer in self._connections.values():
            writer.transport.abort()

    def lose_replies(self, count: int = 1) -> None:
        """Swallow the next replies, and reset each time the connection that waits for it."""
        self._losing = count

    def lose_reply_to(self, request: bytes) -> None:
        """Swallow the reply to the next request in which these bytes stand, and reset its connection."""
        self._losing_to = request

    def hold_replies(self) -> None:
        """Read no more of what the server sends, on any connection, as a client that does not read."""
        self._replies.clear()

    def hold_requests(self) -> None:
        """Keep back what clients send. It reaches the server at `release`, whether they still wait or not."""
        self._requests.clear()

    def freeze(self) -> None:
        """Pass nothing on, in either direction; connections stay up."""
        self._requests.clear()
        self._replies.clear()

    def release(self) -> None:
        """Pass on what was kept back, and what comes."""
        self._requests.set()
        self._replies.set()

    def stream(self) -> Stream | None:
        """What handles the bytes from the server on a new connection; `None` passes them as they are."""
        return None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = writer
        self.accepted += 1
        try:
            if not self.refusing:
                await self._connect(reader, writer)
        except asyncio.CancelledError:
            return  # By `__aexit__` alone; the event loop would complain of it.
        finally:
            del self._connections[task]
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Where one of both sides is gone, the other is told.
        with suppress(OSError):
            from_server, to_server = await asyncio.open_connection(*self._upstream)
            lost = asyncio.Event()
            replying = asyncio.create_task(self._reply(from_server, writer, lost))
            try:
                # What was received is sent on even if its sender is gone by then, as a kernel would.
                while received := await _read(reader):
                    await self._requests.wait()
                    if self._losing_to and self._losing_to in received:
                        self._losing_to = b""
                        lost.set()
                    if to_server.is_closing():
                        break
                    to_server.write(received)
                    await to_server.drain()
                if not to_server.is_closing():
                    to_server.write_eof()
                await asyncio.wait([replying], timeout=CLOSING_S)
            finally:
                replying.cancel()
                to_server.transport.abort()  # First: what follows may be cancelled.
                await asyncio.wait([replying])

    async def _reply(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lost: asyncio.Event
    ) -> None:
        stream = self.stream()
        try:
            while received := await _read(reader):
                await self._replies.wait()
                if self._losing or lost.is_set():
                    self._losing = max(0, self._losing - 1)
                    return
                if not writer.is_closing():
                    writer.write(stream.feed(received) if stream else received)
                    await writer.drain()
        except ConnectionError:
            return
        finally:
            writer.transport.abort()


class PushProxy(Proxy):
    """Drops, doubles and reorders pushes; passes everything else on as it comes."""

    def __init__(
        self, url: str, seed: int, *, drop: float = 0.1, double: float = 0.1, delay: float = 0.2
    ) -> None:
        super().__init__(url)
        self.rng = random.Random(seed)
        self.drop = drop
        self.double = double
        self.delay = delay
        self.dropped = self.doubled = self.delayed = 0

    def stream(self) -> Stream:
        """A new connection's disorder."""
        return _Disorder(self)


class _Disorder:
    def __init__(self, proxy: PushProxy) -> None:
        self._proxy = proxy
        self._rest = b""
        self._late: list[bytes] = []

    def feed(self, received: bytes) -> bytes:
        messages, self._rest = split(self._rest + received)
        return b"".join(self._passed(message) for message in messages)

    def _passed(self, message: bytes) -> bytes:
        """What goes out now that this message has come in: it, or not, and whatever was late before it."""
        proxy = self._proxy
        if not message.startswith(PUSH):
            return message
        draw = proxy.rng.random() - proxy.drop
        if draw < 0:
            proxy.dropped += 1
            return b""
        if draw < proxy.delay:
            proxy.delayed += 1
            self._late.append(message)
            return b""
        if draw < proxy.delay + proxy.double:
            proxy.doubled += 1
            message += message
        proxy.rng.shuffle(self._late)
        late, self._late = b"".join(self._late), []
        return message + late


def split(received: bytes) -> tuple[list[bytes], bytes]:
    """The whole RESP2 messages in `received`, and the beginning of the next."""
    messages = []
    start = 0
    while (end := _end(received, start)) is not None:
        messages.append(received[start:end])
        start = end
    return messages, received[start:]


def _end(received: bytes, start: int) -> int | None:
    """Where the message that begins at `start` ends, if all of it is there."""
    head = received.find(b"\r\n", start)
    if head < 0:
        return None
    end: int | None = head + 2
    kind, number = received[start : start + 1], received[start + 1 : head]
    if kind == b"$" and int(number) >= 0:
        end = head + 2 + int(number) + 2
        return end if end <= len(received) else None
    if kind == b"*":
        for _ in range(int(number)):
            if end is not None:
                end = _end(received, end)
    return end


async def _read(reader: asyncio.StreamReader) -> bytes:
    with suppress(ConnectionError):
        return await reader.read(CHUNK_BYTES)
    return b""
