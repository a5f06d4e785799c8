"""A Redis connection with nothing in between: blocking, raw replies, whole pipelines at once."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import hiredis

Arg = str | bytes | int
Command = Sequence[Arg]
Reply = Any

TIMEOUT_S = 20.0

_pack: Any = hiredis.pack_command  # whose stub knows commands of one word only


class Raw:
    """One connection. An error reply is returned as a `hiredis.ReplyError`, and raised by `ask` only."""

    def __init__(self, url: str) -> None:
        self.url = url
        place = urlsplit(url)
        self._socket = socket.create_connection((place.hostname or "", place.port or 6379), TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._replies = hiredis.Reader(notEnoughData=self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def ask(self, *command: Arg) -> Reply:
        """Send one command; its reply. Raises `hiredis.ReplyError`."""
        (reply,) = self.ask_all([command])
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply

    def ask_all(self, commands: Iterable[Command]) -> list[Reply]:
        """Send all commands in one go; their replies in order."""
        packed = [_pack(tuple(command)) for command in commands]
        self._socket.sendall(b"".join(packed))
        return [self.read() for _ in packed]

    def read(self) -> Reply:
        """The next reply, or push."""
        while (reply := self._replies.gets()) is self:
            received = self._socket.recv(1 << 16)
            if not received:
                raise ConnectionError("the server closed the connection")
            self._replies.feed(received)
        return reply
