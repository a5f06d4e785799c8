"""The way out of one WebSocket: messages one at a time, each whole.

A client that stops reading holds a send for ever; how long the present one has been held is said here, for
the session to cut it off. It may resume: what it has not read stands in the logs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from starlette.types import Send
from starlette.websockets import WebSocketDisconnect

from edge.protocols.encoding import Encoding, encode
from edge.protocols.messages import Message

CLOSE_WITHIN_S = 1.0


GONE = (WebSocketDisconnect, OSError, RuntimeError)
"""What starlette and uvicorn raise for a socket that is closed: it depends on which of them noticed first."""


class SocketGone(Exception):
    """Raised when the client has gone."""


class Outlet:
    """Sends on an accepted WebSocket (an ASGI `send`)."""

    def __init__(self, send: Send, encoding: Encoding) -> None:
        self._send = send
        self._encoding = encoding
        self._sending_since: float | None = None
        self._lock = asyncio.Lock()

    @property
    def held_s(self) -> float:
        """How long the client has not taken the present message."""
        return 0.0 if self._sending_since is None else time.monotonic() - self._sending_since

    async def send(self, message: Message, *, unless: Callable[[], bool] | None = None) -> bool:
        """Write the message, after those before it; false if `unless()` when its turn came.

        Raises `SocketGone`. When this returns true, the message was handed to the socket.
        """
        data = encode(message, self._encoding)
        async with self._lock:
            if unless is not None and unless():
                return False
            await self._write(data)
            return True

    async def _write(self, data: str | bytes) -> None:
        field = "text" if isinstance(data, str) else "bytes"
        try:
            self._sending_since = time.monotonic()
            await self._send({"type": "websocket.send", field: data})
        except GONE as error:
            raise SocketGone("the client has gone") from error
        finally:
            self._sending_since = None

    async def close(self, code: int, reason: str = "") -> None:
        """Close the socket, if it is still open and its client still reads."""
        try:
            async with asyncio.timeout(CLOSE_WITHIN_S), self._lock:
                await self._send({"type": "websocket.close", "code": code, "reason": reason})
        except (TimeoutError, *GONE):
            return  # It is closed already, or will be by its transport's own time-out.
