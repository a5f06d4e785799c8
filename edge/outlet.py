"""The way out of one WebSocket: messages one at a time, each whole.

A client that does not read holds a send until its socket is cut off (`edge.sockets`). It may resume: what it
has not read stands in the logs. So what waits here is bounded by who writes: each task of a session, one
message at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.types import Send
from starlette.websockets import WebSocketDisconnect

from edge.protocols.encoding import Encoding, encode
from edge.protocols.messages import Message

CLOSE_WITHIN_S = 1.0

MAX_IN_LINE = 8
"""Messages that may wait here: what answers the client, what logs, player and catching up tell it, what is
too late, what a drain says; and one to spare."""

GONE = (WebSocketDisconnect, OSError, RuntimeError)
"""What starlette and uvicorn raise for a socket that is closed: it depends on which of them noticed first."""


class SocketGone(Exception):
    """Raised when the client has gone."""


class Outlet:
    """Sends on an accepted WebSocket (an ASGI `send`)."""

    def __init__(self, send: Send, encoding: Encoding) -> None:
        self._send = send
        self._encoding = encoding
        self._lock = asyncio.Lock()
        self.in_line = 0
        """How many messages wait, with the one that is being written."""

    async def send(self, message: Message, *, unless: Callable[[], bool] | None = None) -> bool:
        """Write the message, after those before it; false if `unless()` when its turn came.

        Raises `SocketGone`. When this returns true, the message was handed to the socket.
        """
        data = encode(message, self._encoding)
        self.in_line += 1
        assert self.in_line <= MAX_IN_LINE, "somebody does not wait for its messages to leave"
        try:
            async with self._lock:
                if unless is not None and unless():
                    return False
                await self._write(data)
                return True
        finally:
            self.in_line -= 1

    async def _write(self, data: str | bytes) -> None:
        field = "text" if isinstance(data, str) else "bytes"
        try:
            await self._send({"type": "websocket.send", field: data})
        except GONE as error:
            raise SocketGone("the client has gone") from error

    async def close(self, code: int, reason: str = "") -> None:
        """Close the socket, if it is still open and its client still reads."""
        try:
            async with asyncio.timeout(CLOSE_WITHIN_S), self._lock:
                await self._send({"type": "websocket.close", "code": code, "reason": reason})
        except (TimeoutError, *GONE):
            return  # It is closed already, or will be by its transport's own time-out.
