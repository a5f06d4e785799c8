"""How uvicorn speaks to clients, with the bounds that it leaves out: how long a client may take to ask for
something, to say a message to its end and to read what it is sent; and how much it may say at a time.

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
from uvicorn._types import ASGIReceiveEvent
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from shared.settings import Settings

log = logging.getLogger(__name__)

POLICY_VIOLATION = 1008

MAX_HEAD_BYTES = 16 << 10
"""The longest request line and headers together."""

PING_S = 20.0

ABOVE_LIMIT_BYTES = 64 << 10
"""By how much a message may be too large and still be answered by `error`; beyond, the socket is closed."""

AT_ONCE_BYTES = 8 << 10
"""What is parsed at a time of all that has come: more only when the application has taken the messages in it.
The kernel gives 256 KB at once, and in those may be 40,000 messages."""

MESSAGE_WITHIN_S = 30.0
MAX_FRAGMENTS = 1024
"""What a message may come in; empty fragments count for nothing in its size."""

MAX_CONTROLS = 100
"""Pings and pongs of a client in a second."""

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
    _unparsed = b""
    _unfinished: asyncio.TimerHandle | None = None
    _controls = 0
    _controls_since_s = 0.0
    _owed_pong = b""

    def start_keepalive(self) -> None:
        """The socket is accepted: forget the headers, which take more room than anything else of it."""
        super().start_keepalive()
        del self.request, self.response
        # The parser of the handshake stands in the middle of a function that remembers the request.
        self.conn.parser = self.conn.parse()
        next(self.conn.parser)
        cast(list[Any], self.scope["headers"]).clear()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        super().connection_lost(exc)
        self._unparsed = b""
        self._stop_watching()
        self._finish()

    def handle_parser_exception(self) -> None:
        """What the client says cannot be read, or goes beyond a bound: the socket is closed."""
        log.debug("closed: %s", self.conn.close_sent)
        super().handle_parser_exception()

    # ---- what the client says

    def data_received(self, data: bytes) -> None:
        """The first data are all of the request: one that is none by now never will be."""
        self._unparsed += data
        self._parse()
        if not self.handshake_initiated:
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()

    async def receive(self) -> ASGIReceiveEvent:
        """The next message. However many one client sends together, others have their turn between them."""
        if not self.queue.empty():
            await asyncio.sleep(0)
        message = await super().receive()
        self._parse()
        return message

    def handle_text(self, event: Frame) -> None:
        """A message, or the beginning of one."""
        super().handle_text(event)
        self._begin(event)

    def handle_bytes(self, event: Frame) -> None:
        """A message, or the beginning of one."""
        super().handle_bytes(event)
        self._begin(event)

    def handle_cont(self, event: Frame) -> None:
        """More of a message, or its end."""
        super().handle_cont(event)
        if event.fin:
            self._finish()
        elif len(self.frames) > MAX_FRAGMENTS:
            self._refuse("a message of too many fragments")

    def handle_ping(self) -> None:
        """Answer it. A client that does not read gets one answer, to the last of its pings, when it does."""
        if self._count_control():
            pongs = b"".join(self.conn.data_to_send())
            if self.writable.is_set():
                self.transport.write(pongs)
            elif pongs:
                self._owed_pong = pongs

    def handle_pong(self, event: Frame) -> None:
        """The client is there."""
        if self._count_control():
            super().handle_pong(event)

    def _parse(self) -> None:
        data, start = self._unparsed, 0
        while start < len(data) and not self.read_paused:
            super().data_received(data[start : start + AT_ONCE_BYTES])
            start += AT_ONCE_BYTES
        self._unparsed = data[start:]

    def _begin(self, event: Frame) -> None:
        if not event.fin:
            self._unfinished = self.loop.call_later(
                MESSAGE_WITHIN_S, self._refuse, "a message that does not end"
            )

    def _finish(self) -> None:
        if self._unfinished is not None:
            self._unfinished.cancel()
            self._unfinished = None

    def _count_control(self) -> bool:
        """Count a ping or a pong; false if it is one too many."""
        now_s = self.loop.time()
        if now_s - self._controls_since_s > 1:
            self._controls, self._controls_since_s = 0, now_s
        self._controls += 1
        if self._controls > MAX_CONTROLS:
            self._refuse("too many pings")
        return self._controls <= MAX_CONTROLS

    def _refuse(self, reason: str) -> None:
        if not self.close_sent:
            self.conn.fail(POLICY_VIOLATION, reason)
            self.handle_parser_exception()
            self.frames.clear()

    # ---- what it takes

    def send_keepalive_ping(self) -> None:
        """Ask whether the client is there; not behind what it is still taking: it would answer late."""
        if self.transport.get_write_buffer_size():
            self.schedule_ping()
        else:
            super().send_keepalive_ping()

    def pause_writing(self) -> None:
        """The client falls behind."""
        super().pause_writing()
        self._watch_on()

    def resume_writing(self) -> None:
        """It has caught up."""
        super().resume_writing()
        self._stop_watching()
        pong, self._owed_pong = self._owed_pong, b""
        self.transport.write(pong)

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
