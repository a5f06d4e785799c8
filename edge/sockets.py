"""How uvicorn speaks to clients, with the bounds that it leaves out: how long a client may take to ask for
something, and to read what it is sent.

    accept ─ Http ─┬─ request ─> the application
                   └─ upgrade ─> WebSocket ─> the application

Owns the connections of an edge from the first byte to the last, and knows no conversation. Stands on private
parts of uvicorn, which has no other place for this: what is overridden here is named in its source, and
pyproject.toml keeps to the version that was read.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from shared.settings import Settings

log = logging.getLogger(__name__)

MAX_HEAD_BYTES = 16 << 10
"""The longest request line and headers together."""

PING_S = 20.0

ABOVE_LIMIT_BYTES = 64 << 10
"""By how much a message may be too large and still be answered by `error`; beyond, the socket is closed."""

SEND_WITHIN_S = 10.0
SLOWEST_BYTES = 48 << 10
"""What a client must take in `SEND_WITHIN_S` of what waits for it: a tenth of what speech needs.

As much as lies between the marks of the transport's buffer (64 and 16 KiB): many small messages are judged
like a large one.
"""


class Config(uvicorn.Config):
    """What uvicorn serves an application by."""

    def __init__(self, application: Any, settings: Settings) -> None:
        super().__init__(
            application,
            http=Http,
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
            ws=WebSocket,
            ws_max_size=settings.max_message_bytes + ABOVE_LIMIT_BYTES,
            ws_per_message_deflate=False,
            ws_ping_interval=PING_S,
            ws_ping_timeout=PING_S,
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        self.handshake_s = settings.handshake_s


class Http(H11Protocol):
    """A connection until it is a WebSocket, if it ever is.

    While the server waits for the client, for all of a request, its time runs: whatever it sends meanwhile.
    """

    config: Config
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first request is awaited."""
        super().connection_made(transport)
        self._mind()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        super().connection_lost(exc)
        self._stop_minding()

    def data_received(self, data: bytes) -> None:
        """Some of a request has come, or all of it."""
        super().data_received(data)
        self._mind()

    def on_response_complete(self) -> None:
        """The next request is awaited, unless it is here."""
        super().on_response_complete()
        self._mind()

    def _mind(self) -> None:
        awaited = self.conn.their_state in (h11.IDLE, h11.SEND_BODY)
        upgraded = self.transport.get_protocol() is not self
        if not awaited or upgraded or self.transport.is_closing():
            self._stop_minding()
        elif self._late is None:
            self._late = self.loop.call_later(self.config.handshake_s, self.transport.abort)

    def _stop_minding(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class WebSocket(WebSocketsSansIOProtocol):
    """A connection from its upgrade on.

    While more waits for the client than the transport's buffer should hold, the client is watched. One that
    takes too little is cut off: closing would wait for it to take the rest.
    """

    _watch: asyncio.TimerHandle | None = None
    _waiting_bytes = 0

    def start_keepalive(self) -> None:
        """The socket is accepted: forget the headers, which take more room than anything else of it."""
        super().start_keepalive()
        del self.request, self.response
        # The parser of the handshake stands in the middle of a function that remembers the request.
        self.conn.parser = self.conn.parse()
        next(self.conn.parser)
        cast(list[Any], self.scope["headers"]).clear()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing waits for the client any more."""
        super().connection_lost(exc)
        self._stop_watching()

    def pause_writing(self) -> None:
        """The client falls behind."""
        super().pause_writing()
        self._watch_on()

    def resume_writing(self) -> None:
        """It has caught up."""
        super().resume_writing()
        self._stop_watching()

    def send_keepalive_ping(self) -> None:
        """Ask whether the client is there; not behind what it is still taking: it would answer late."""
        if self.transport.get_write_buffer_size():
            self.schedule_ping()
        else:
            super().send_keepalive_ping()

    def data_received(self, data: bytes) -> None:
        """The first data are all of the request: one that is none by now never will be."""
        super().data_received(data)
        if not self.handshake_initiated:
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()

    def _watch_on(self) -> None:
        self._waiting_bytes = self.transport.get_write_buffer_size()
        self._watch = self.loop.call_later(SEND_WITHIN_S, self._look)

    def _look(self) -> None:
        taken_bytes = self._waiting_bytes - self.transport.get_write_buffer_size()
        if taken_bytes >= SLOWEST_BYTES:
            self._watch_on()
        else:
            log.info("cut off: the client took %d bytes in %g s", max(0, taken_bytes), SEND_WITHIN_S)
            self.transport.abort()

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
