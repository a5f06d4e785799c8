"""The one way to Redis: commands, Functions, and a connection that pushes arrive on.

Everything above this module speaks in commands and raw replies, so that another client can take its place.
Nothing here retries: whether a command may be sent again is the caller's knowledge. (The usual client library
retries ten times by default, and a command whose reply was lost may have been executed.)
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import hiredis

from shared.connection import Arg, Command, Connection, Reply, as_error, connect
from shared.errors import StoreError

__all__ = ["Arg", "Call", "Pushes", "Reply", "Store"]

Call = tuple[str, Sequence[str], Sequence[Arg]]
"""A call of a Function: its name, keys and arguments."""

TIMEOUT_S = 1.5
"""How long a reply may take before the connection is given up; blocking reads add their own time."""

FUNCTION_MISSING = "Function not found"
LIBRARY_THERE = "already exists"
"""What a server says that lacks a Function, or has its library already."""


class Store:
    """One Redis or Valkey server. Its methods raise `StoreError` and `StoreFull`.

    All commands share a connection, each on its way without waiting for those before it; so one that blocks
    needs a store of its own. A connection that fails is followed by another at the next command.
    """

    def __init__(self, url: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self.url = url
        self._timeout_s = timeout_s
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[Connection] | None = None

    async def call(self, *command: Arg) -> Reply:
        """Send one command; its raw reply."""
        connection = self._connection
        if connection is None or not connection.open:
            connection = await self._connected()
        return await connection.send(command)[0]

    async def call_all(self, commands: Iterable[Command]) -> list[Reply]:
        """Send several commands in one round trip; all their replies, or the first error."""
        connection = self._connection
        if connection is None or not connection.open:
            connection = await self._connected()
        replies = connection.send(*commands)
        return [await reply for reply in replies]

    async def function(self, name: str, keys: Sequence[str], *args: Arg) -> Reply:
        """Call a Redis Function of `shared/*.lua`; the libraries are loaded where the server lacks them."""
        return (await self.functions([(name, keys, args)]))[0]

    async def functions(self, calls: Sequence[Call]) -> list[Reply]:
        """Call several Functions in one round trip."""
        commands = [("FCALL", name, len(keys), *keys, *args) for name, keys, args in calls]
        for _ in range(2):
            try:
                return await self.call_all(commands)
            except StoreError as error:
                # A Function that is missing has not run; one that stood before it in the pipeline has. All
                # of ours answer a repeat with a verdict, so sending the whole pipeline again is sound.
                if FUNCTION_MISSING not in str(error):
                    raise
            await self.load()
        raise StoreError("Redis loses its Functions as fast as they are loaded")

    async def run(self) -> str:
        """Which process the server is: another than before may have forgotten its last seconds."""
        info: bytes = await self.call("INFO", "server")
        return next(line for line in info.decode().splitlines() if line.startswith("run_id:"))

    async def load(self) -> None:
        """Load every library of Functions, without replacing: versions stand side by side."""
        for source in libraries():
            try:
                await self.call("FUNCTION", "LOAD", source)
            except StoreError as error:
                if LIBRARY_THERE not in str(error):
                    raise

    async def pushes(self) -> Pushes:
        """A connection of its own, for pushes only."""
        return Pushes(await connect(self.url, self._timeout_s))

    async def close(self) -> None:
        """Close the connection."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            self._connection.close()

    async def _connected(self) -> Connection:
        """The connection, once it is made. All who wait for it wait for one attempt, and share its error."""
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect(), name="connect")
        return await asyncio.shield(self._connecting)

    async def _connect(self) -> Connection:
        try:
            self._connection = await connect(self.url, self._timeout_s)
            return self._connection
        finally:
            self._connecting = None


class Pushes:
    """A connection in subscribed state: channels in, pushed messages out.

    `read` never times out; whoever keeps the connection alive calls `ping`, sees whether `read` brings the
    answer, and calls `close` when it does not, which ends the `read`.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._connection.on_push = self._pushed
        self._connection.on_end = self._lost
        self._messages: deque[Reply] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._error: StoreError | None = None

    async def subscribe(self, channels: Sequence[str]) -> None:
        """Ask for the channels; `read` brings a confirmation for each."""
        self._connection.write(("SSUBSCRIBE", *channels))

    async def unsubscribe(self, channels: Sequence[str]) -> None:
        """Ask to leave the channels; `read` brings a confirmation for each."""
        self._connection.write(("SUNSUBSCRIBE", *channels))

    async def ping(self) -> None:
        """Ask for a sign of life; `read` brings `pong`."""
        self._connection.write(("PING",))

    async def read(self) -> tuple[str, str, bytes]:
        """The next message: its kind (`smessage`, `ssubscribe`, `sunsubscribe`, `pong`), channel and data."""
        while not self._messages:
            if self._error is not None:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        reply = self._messages.popleft()
        if isinstance(reply, hiredis.ReplyError):
            raise as_error(reply)
        if not isinstance(reply, list):
            return "pong", "", b""
        kind, channel, data = reply if len(reply) == 3 else (reply[0], b"", reply[1])
        return kind.decode(), channel.decode(), data if isinstance(data, bytes) else b""

    async def close(self) -> None:
        """Drop the connection."""
        self._connection.close()

    def _pushed(self, reply: Reply) -> None:
        self._messages.append(reply)
        self._wake()

    def _lost(self, error: StoreError) -> None:
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


@cache
def libraries() -> tuple[str, ...]:
    """The sources of all Redis Functions."""
    return tuple(path.read_text() for path in sorted(Path(__file__).parent.glob("*.lua")))
