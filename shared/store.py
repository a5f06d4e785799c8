"""The one way to Redis: commands, Functions, and a connection that pushes arrive on.

Everything above this module speaks in commands and raw replies, so that a leaner client can take its place.
Nothing here retries: whether a command may be sent again is the caller's knowledge.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from shared.errors import StoreError, StoreFull

Arg = str | bytes | int | float
Reply = Any
"""A raw RESP2 reply: bytes, int, None, or a list of replies."""

Call = tuple[str, Sequence[str], Sequence[Arg]]
"""A call of a Function: its name, keys and arguments."""

TIMEOUT_S = 1.5
"""How long a reply may take before the connection is given up; blocking reads add their own time."""

POOL_WAIT_S = 5.0

_UNREACHABLE = (exceptions.ConnectionError, exceptions.TimeoutError, OSError, asyncio.TimeoutError)


class Store:
    """A pool of connections to one Redis or Valkey server. Its methods raise `StoreError` and `StoreFull`."""

    def __init__(self, url: str, *, connections: int = 32, timeout_s: float = TIMEOUT_S) -> None:
        # No retries: a command whose reply was lost may have been executed, and only its sender knows
        # whether sending it again does harm.
        self.url = url
        self._pool = BlockingConnectionPool.from_url(
            url,
            max_connections=connections,
            timeout=POOL_WAIT_S,
            protocol=2,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
        )
        self._redis = Redis(connection_pool=self._pool)
        self._redis.response_callbacks.clear()

    async def call(self, *command: Arg) -> Reply:
        """Send one command; its raw reply."""
        try:
            return await self._redis.execute_command(*command)  # type: ignore[no-untyped-call]
        except (exceptions.RedisError, OSError) as error:
            raise _translated(error) from error

    async def call_all(self, commands: Iterable[Sequence[Arg]]) -> list[Reply]:
        """Send several commands in one round trip; all their replies, or the first error."""
        pipeline = self._redis.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        try:
            return await pipeline.execute()
        except (exceptions.RedisError, OSError) as error:
            raise _translated(error) from error

    async def function(self, name: str, keys: Sequence[str], *args: Arg) -> Reply:
        """Call a Redis Function of `shared/*.lua`; the libraries are loaded where the server lacks them."""
        return (await self.functions([(name, keys, args)]))[0]

    async def functions(self, calls: Sequence[Call]) -> list[Reply]:
        """Call several Functions in one round trip."""
        commands = [("FCALL", name, len(keys), *keys, *args) for name, keys, args in calls]
        for _ in range(2):
            try:
                if len(commands) == 1:
                    return [await self.call(*commands[0])]
                return await self.call_all(commands)
            except StoreError as error:
                # A Function that is missing has not run; one that stood before it in the pipeline has. All
                # of ours answer a repeat with a verdict, so sending the whole pipeline again is sound.
                if "Function not found" not in str(error):
                    raise
            await self.load()
        raise StoreError("Redis loses its Functions as fast as they are loaded")

    async def load(self) -> None:
        """Load every library of Functions, without replacing: versions stand side by side."""
        for source in libraries():
            try:
                await self.call("FUNCTION", "LOAD", source)
            except StoreError as error:
                if "already exists" not in str(error):
                    raise

    async def pushes(self) -> Pushes:
        """A connection of its own, for pushes only."""
        connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.connect()
        except (exceptions.RedisError, OSError) as error:
            raise _translated(error) from error
        return Pushes(connection)

    async def close(self) -> None:
        """Close every connection of the pool."""
        await self._redis.aclose()
        await self._pool.aclose()


class Pushes:
    """A connection in subscribed state: channels in, pushed messages out.

    `read` never times out; whoever keeps the connection alive calls `ping`, sees whether `read` brings the
    answer, and calls `close` when it does not, which ends the `read`.
    """

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self._closed = False

    async def subscribe(self, channels: Sequence[str]) -> None:
        """Ask for the channels; `read` brings a confirmation for each."""
        await self._send("SSUBSCRIBE", *channels)

    async def unsubscribe(self, channels: Sequence[str]) -> None:
        """Ask to leave the channels; `read` brings a confirmation for each."""
        await self._send("SUNSUBSCRIBE", *channels)

    async def ping(self) -> None:
        """Ask for a sign of life; `read` brings `pong`."""
        await self._send("PING")

    async def read(self) -> tuple[str, str, bytes]:
        """The next message: its kind (`smessage`, `ssubscribe`, `sunsubscribe`, `pong`), channel and data."""
        try:
            reply = await self._connection.read_response(timeout=None, disconnect_on_error=False)
        except (exceptions.RedisError, OSError) as error:
            raise _translated(error) from error
        if not isinstance(reply, list):
            return "pong", "", b""
        kind, channel, data = reply if len(reply) == 3 else (reply[0], b"", reply[1])
        return kind.decode(), channel.decode(), data if isinstance(data, bytes) else b""

    async def close(self) -> None:
        """Drop the connection."""
        self._closed = True
        await self._connection.disconnect(nowait=True)

    async def _send(self, *command: str) -> None:
        if self._closed:
            # The client library would connect again in silence, to a connection that nobody reads.
            raise StoreError("the connection for pushes was closed")
        try:
            await self._connection.send_command(*command)
        except (exceptions.RedisError, OSError) as error:
            raise _translated(error) from error


@cache
def libraries() -> tuple[str, ...]:
    """The sources of all Redis Functions."""
    return tuple(path.read_text() for path in sorted(Path(__file__).parent.glob("*.lua")))


def _translated(error: Exception) -> StoreError:
    text = str(error)
    if isinstance(error, exceptions.OutOfMemoryError) or text.startswith("OOM"):
        return StoreFull("Redis is at its maxmemory and refuses writes")
    if isinstance(error, _UNREACHABLE):
        return StoreError(f"Redis does not answer: {text or type(error).__name__}")
    return StoreError(text)
