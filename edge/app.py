"""The routes of an edge: the socket, the page, and how it is.

/ws        the protocol, in JSON or with ?encoding=msgpack; with ?resume=1 its first message will be `resume`;
           a plain GET tells why a handshake would be refused
/healthz   200 while this process serves
/readyz    200 when conversations can be had here, whether or not there is room for one more
/          the page
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from edge.auth import Gate, subprotocol
from edge.protocols import messages
from edge.protocols.encoding import Encoding
from edge.room import ROLE_NAMES
from edge.services import Services
from edge.session import Session
from edge.sessions import Sessions
from shared.errors import ClientError
from shared.keys import JOBS

log = logging.getLogger(__name__)

FOLDER = Path(__file__).parent / "page"

_STATUS = {"unauthorized": 401, "not_found": 404, "overloaded": 503}
"""How a refused handshake is answered; anything else is 400."""


_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cache-Control": "no-cache",  # or modules of two versions would mix after an update
}
"""What goes with each file of the page."""


class Page(StaticFiles):
    """The page's files, by name."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """A file, with the headers that keep the page to itself."""
        response = super().file_response(*args, **kwargs)
        response.headers.update(_HEADERS)
        return response


class App:
    """The endpoints, over the services of this edge: an ASGI application."""

    def __init__(self, services: Services, sessions: Sessions) -> None:
        self._services = services
        self._sessions = sessions
        self._gate = Gate(services.settings)
        self._routes = self._routed()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request by its route; a socket beside them, for all their layers would stand around it."""
        if scope["type"] == "websocket":
            await self._ws(WebSocket(scope, receive, send))
        else:
            await self._routes(scope, receive, send)

    def _routed(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/ws", self._door),
                Route("/healthz", self._healthz),
                Route("/readyz", self._readyz),
                Mount("/", Page(directory=FOLDER, html=True)),
            ],
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        running = asyncio.create_task(self._services.run(), name="services")
        watching = asyncio.create_task(self._sessions.watch(), name="watch")
        yield
        running.cancel()
        watching.cancel()
        await asyncio.wait([running, watching])

    async def _ws(self, socket: WebSocket) -> None:
        try:
            if socket.url.path != "/ws":
                raise ClientError("not_found", "the socket is at /ws")
            encoding = _encoding(socket)
            with self._let_in(socket):
                await socket.accept(subprotocol=subprotocol(socket.headers))
                admit = self._admit_after_all if _resumes(socket) else None
                session = Session(self._services, socket, encoding, admit)
                with self._sessions.running(session):
                    await session.run()
        except ClientError as error:
            await socket.send_denial_response(_refusal(error))

    async def _door(self, request: Request) -> Response:
        """What a browser is not told of a refused handshake: the same refusal, over HTTP."""
        try:
            with self._let_in(request):
                error = ClientError("bad_message", "this is a WebSocket")
        except ClientError as refusal:
            return _refusal(refusal)
        return JSONResponse(messages.error(error), status_code=426, headers={"Upgrade": "websocket"})

    @contextlib.contextmanager
    def _let_in(self, asking: HTTPConnection) -> Iterator[None]:
        """A place for one socket. Raises `ClientError` if it may not come in, or there is none.

        What comes to resume was let in before, and its turns are under way: it is not asked for room again.
        """
        self._gate.check(asking.headers)
        with self._sessions.place(resumes=_resumes(asking)):
            if not _resumes(asking):
                self._services.room.admit_conversation()
            yield

    def _admit_after_all(self) -> None:
        """A socket that said it would resume does not. Raises `ClientError` if there is no room for that."""
        self._sessions.check_regular()
        self._services.room.admit_conversation()

    async def _healthz(self, _: Request) -> Response:
        return JSONResponse({"status": "ok", "sessions": len(self._sessions)})

    async def _readyz(self, _: Request) -> Response:
        room = self._services.room
        missing = room.missing()
        ready = room.ready and not self._sessions.draining
        body = {
            "ready": ready,
            "draining": self._sessions.draining,
            "redis": not room.away,
            "missing": ROLE_NAMES[missing] if missing else None,
            "engines": room.engines(),
            "voices": len(room.voices()),
            "workers": {
                name: [worker.name for worker in room.workers if worker.role == role]
                for role, name in (*ROLE_NAMES.items(), (JOBS, JOBS))
            },
        }
        return JSONResponse(body, status_code=200 if ready else 503)


def _encoding(socket: WebSocket) -> Encoding:
    asked = socket.query_params.get("encoding", Encoding.JSON.value)
    try:
        return Encoding(asked)
    except ValueError:
        raise ClientError("unsupported", "encoding is json or msgpack") from None


def _resumes(asking: HTTPConnection) -> bool:
    return asking.query_params.get("resume") == "1"


def _refusal(error: ClientError) -> Response:
    headers = {}
    if error.retry_after_ms is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after_ms / 1000))
    status = _STATUS.get(error.code, 400)
    return JSONResponse(messages.error(error), status_code=status, headers=headers)
