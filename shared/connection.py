"""One connection to Redis: any number of commands on their way, their replies in the same order.

Written for latency: a command is one write, a reply one callback, with no lock, pool or task between them.
(Beside the client library's pooled connections: half the time of a hop, a third of the processor.) Knows no
retries, no Functions and no pushes' meaning.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

import hiredis
from redis.asyncio.connection import SSLConnection, parse_url

from shared.errors import StoreError, StoreFull

Arg = str | bytes | int | float
Reply = Any
"""A raw RESP2 reply: bytes, int, None, or a list of replies."""

Command = Sequence[Arg]

CONNECT_WITHIN_S = 1.5

MISCONF = "MISCONF"
"""What a server's refusals begin with that could not write its last snapshot, or its append-only file."""

NO_MEMORY = "Redis is at its maxmemory and refuses writes"
NO_DISK = "Redis cannot write to its disk and refuses writes"


class Connection(asyncio.Protocol):
    """Open it with `connect`. `on_push`, once set, takes every reply that comes; no command awaits one then.

    A reply that takes longer than `timeout_s` ends the connection, and with it every command on its way.
    """

    def __init__(self, timeout_s: float) -> None:
        self.on_push: Callable[[Reply], None] | None = None
        self.on_end: Callable[[StoreError], None] | None = None
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self._waiting: deque[tuple[asyncio.Future[Reply], float]] = deque()
        self._transport: asyncio.Transport | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._ended: StoreError | None = None

    @property
    def open(self) -> bool:
        """Whether commands can be sent."""
        return self._transport is not None and self._ended is None

    def send(self, *commands: Command) -> list[asyncio.Future[Reply]]:
        """Send commands in one write; a future for each reply. An error reply is raised by its future."""
        if self._transport is None or self._ended is not None:
            raise self._ended or StoreError("Redis is not connected")
        due = self._loop.time() + self._timeout_s
        replies: list[asyncio.Future[Reply]] = [self._loop.create_future() for _ in commands]
        self._waiting.extend((reply, due) for reply in replies)
        self._transport.write(b"".join(map(_packed, commands)))
        if self._watch is None:
            self._watch = self._loop.call_at(due, self._look)
        return replies

    def write(self, command: Command) -> None:
        """Send a command whose answer comes through `on_push`."""
        if self._transport is None or self._ended is not None:
            raise self._ended or StoreError("Redis is not connected")
        self._transport.write(_packed(command))

    def close(self, why: str = "the connection to Redis was closed") -> None:
        """End the connection now; what is on its way fails."""
        if self._transport is not None:
            self._transport.abort()
        self._end(StoreError(why))

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        transport = cast(asyncio.Transport, transport)  # uvloop has transports of its own
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Called by the event loop: hand replies out."""
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                self._hand_out(reply)
        except hiredis.ProtocolError as error:
            self.close(f"Redis does not speak its protocol: {error}")

    def connection_lost(self, error: Exception | None) -> None:
        """Called by the event loop."""
        self._end(StoreError(f"Redis does not answer: {error or 'it closed the connection'}"))

    # ----

    def _hand_out(self, reply: Reply) -> None:
        if self.on_push is not None:
            self.on_push(reply)
            return
        if not self._waiting:
            # As when the server has too many clients: it says so unasked, and hangs up.
            return self.close(f"Redis said what it was not asked for: {reply}")
        future, _ = self._waiting.popleft()
        if future.done():
            return  # Its caller was cancelled.
        if isinstance(reply, hiredis.ReplyError):
            _fail(future, as_error(reply))
        else:
            future.set_result(reply)

    def _look(self) -> None:
        """End the connection when its oldest command has waited for too long."""
        self._watch = None
        if not self._waiting:
            return
        due = self._waiting[0][1]
        if self._loop.time() >= due:
            self.close(f"Redis does not answer: no reply within {self._timeout_s:g} s")
        else:
            self._watch = self._loop.call_at(due, self._look)

    def _end(self, error: StoreError) -> None:
        if self._ended is not None:
            return
        self._ended = error
        if self._watch is not None:
            self._watch.cancel()
        while self._waiting:
            future, _ = self._waiting.popleft()
            if not future.done():
                _fail(future, StoreError(str(error)))
        if self.on_end is not None:
            self.on_end(error)


def _packed(command: Command) -> bytes:
    packed: bytes = hiredis.pack_command(tuple(command))  # type: ignore[arg-type] # it names tuples of one
    return packed


def _fail(future: asyncio.Future[Reply], error: StoreError) -> None:
    future.set_exception(error)
    future.exception()  # Whoever was cancelled does not look any more; that is no reason to complain.


async def connect(url: str, timeout_s: float) -> Connection:
    """A connection to the server of a `redis://`, `rediss://` or `unix://` URL. Raises `StoreError`."""
    options: dict[str, Any] = {**parse_url(url)}
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_WITHIN_S):
            if path := options.get("path"):
                _, connection = await loop.create_unix_connection(lambda: Connection(timeout_s), path)
            else:
                tls = _tls(options) if options.get("connection_class") is SSLConnection else None
                host, port = options.get("host", "localhost"), options.get("port", 6379)
                _, connection = await loop.create_connection(
                    lambda: Connection(timeout_s), host, port, ssl=tls
                )
            try:
                await _greet(connection, options)
            except BaseException:
                connection.close()
                raise
    except (OSError, TimeoutError) as error:
        raise StoreError(f"Redis cannot be reached: {error or 'no connection in time'}") from error
    return connection


def as_error(reply: hiredis.ReplyError) -> StoreError:
    """What an error reply means."""
    text = str(reply)
    if text.startswith("OOM"):
        return StoreFull(NO_MEMORY)
    if text.startswith(MISCONF):
        return StoreFull(NO_DISK)
    return StoreError(text)


async def _greet(connection: Connection, options: dict[str, Any]) -> None:
    commands: list[tuple[Arg, ...]] = []
    if password := options.get("password"):
        user = options.get("username")
        commands.append(("AUTH", user, password) if user else ("AUTH", password))
    if db := options.get("db"):
        commands.append(("SELECT", db))
    for reply in connection.send(*commands) if commands else ():
        await reply


def _tls(options: dict[str, Any]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    if options.get("ssl_certfile"):
        context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    return context
