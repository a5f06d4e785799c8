"""`python -m tests.bench.crowd URL COUNT`: sockets that are greeted and say nothing, until it is killed.

A bare minimum of a client, so that it costs little beside what is measured: its handshake is always the same,
and of all that comes it knows the greeting and pings. Prints a line when all are greeted.
"""

from __future__ import annotations

import asyncio
import sys
from urllib.parse import urlsplit

from tests.bench.process import allow_files

AT_ONCE = 50
"""Handshakes under way at a time: an edge is not asked for all of them in one moment."""

HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0\r\n"
    "Accept: */*\r\nAccept-Language: en-GB,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
PING, PONG, MASK = b"\x89", b"\x8a", bytes(4)


class Silent(asyncio.Protocol):
    """One client. `greeted` is done once it is."""

    def __init__(self, handshake: bytes) -> None:
        self.greeted = asyncio.get_running_loop().create_future()
        self._handshake = handshake
        self._received = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Ask for a WebSocket."""
        self._transport = transport
        transport.write(self._handshake)

    def connection_lost(self, exc: Exception | None) -> None:
        """A client that was sent away: then there is nothing to measure."""
        if not self.greeted.done():
            self.greeted.set_exception(ConnectionError(f"not let in: {self._received[:200]!r}"))
        else:
            sys.exit("the edge closed a silent socket")

    def data_received(self, data: bytes) -> None:
        """Wait for the greeting; then answer pings, of four bytes each."""
        if self.greeted.done():
            if data.startswith(PING):
                self._transport.write(PONG + bytes([0x80 | 4]) + MASK + data[2:6])
            return
        self._received += data
        if b"resume_token" in self._received:
            self._received = b""
            self.greeted.set_result(None)


async def main(url: str, count: int) -> None:
    """Open them all, and stay."""
    allow_files(count + AT_ONCE)
    place = urlsplit(url)
    assert place.hostname is not None and place.port is not None
    host, port = place.hostname, place.port
    handshake = HANDSHAKE.format(path=place.path + "?encoding=msgpack").encode()
    loop = asyncio.get_running_loop()
    opened = 0
    while opened < count:
        more = min(AT_ONCE, count - opened)
        dialled = [loop.create_connection(lambda: Silent(handshake), host, port) for _ in range(more)]
        await asyncio.gather(*(client.greeted for _, client in await asyncio.gather(*dialled)))
        opened += more
    print("all are greeted", flush=True)
    await loop.create_future()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
