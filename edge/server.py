"""An edge as a process: the listening socket, uvicorn, signals, drain, exit status."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Iterator

import uvicorn
import uvloop

from edge.app import App
from edge.auth import check_listening
from edge.detection import Detector
from edge.detection.silero import Silero
from edge.keeper import Keeper
from edge.room import Room
from edge.services import Services
from edge.sessions import Sessions
from edge.sockets import Config
from shared import heap, logs
from shared.batch import Batch
from shared.errors import ParleyError, SettingsError
from shared.keys import conversation_ttl_s
from shared.reader import Reader
from shared.settings import EX_CONFIG, Settings, load, redis_url
from shared.store import Store

log = logging.getLogger(__name__)

REDIS_WAIT_S = 30.0

UNREAD_TIMEOUT_MS = 10_000
"""After how long the kernel gives up a connection whose peer does not take what was sent."""

END_S = 1.4
"""What is left of `DRAIN_S` for uvicorn, which gives what hangs a second."""

MOMENT_S = 0.5
"""For how long at least an edge that stops says so to those who come: its balancer still sends them."""

CLIENTS_FAULTS = {
    "ASGI callable returned without completing handshake.",  # It was refused, and has been told why.
    "Invalid UTF-8 sequence received from client.",
}
"""What uvicorn calls errors, and is none of this server's."""

UNSENT_BYTES = 128 << 10
"""How much the kernel takes of what it cannot send yet. More would wait where nobody sees it: a client that
reads slowly would seem to read well, and a ping would come minutes late."""


def main() -> int:
    """Run an edge until SIGTERM or SIGINT; its exit status. 78 means a setting that cannot be used."""
    settings = load()
    logs.configure(settings.log_level, "edge")
    try:
        check_listening(settings)
        return uvloop.run(_serve(settings))
    except SettingsError as error:
        log.error("bad setting: %s", error)
        return EX_CONFIG
    except (ParleyError, OSError) as error:
        log.error("%s", error)
        return 1


def listen(host: str, port: int) -> socket.socket:
    """The listening socket; port 0 takes any. Raises `OSError`."""
    family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listening = socket.socket(family, kind, proto)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted sockets inherit it. Without it a client that vanished, or never reads, is held for ever.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_TIMEOUT_MS)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        listening.bind(address)
    except OSError as error:
        listening.close()
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from None
    return listening


class Server(uvicorn.Server):
    """uvicorn, with the signals left to us: it would end by the signal, and drop every socket at once."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def make_server(services: Services, sessions: Sessions) -> Server:
    """The server of an edge, not yet listening."""
    logging.getLogger("uvicorn.error").addFilter(_worth_a_line)
    return Server(Config(App(services, sessions), services.settings))


def make_services(settings: Settings, store: Store, detector: Detector | None = None) -> Services:
    """The process-wide parts of an edge; the application runs them.

    The detector of voices is Silero VAD unless another is given. Raises `EngineError` if it cannot be loaded.
    """
    keeper = Keeper(store, resume_ttl_s=conversation_ttl_s(settings.resume_window_s))
    detector = detector or Silero()
    room = Room(store, admit_within_s=settings.admit_within_ms / 1000)
    return Services(settings, store, Reader(store), room, keeper, detector, Batch(store.url))


async def _serve(settings: Settings) -> int:
    listening = listen(settings.host, settings.port)
    store = Store(await asyncio.to_thread(redis_url, settings, REDIS_WAIT_S))
    services, sessions = make_services(settings, store), Sessions(settings.max_conversations)
    server = make_server(services, sessions)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    serving = asyncio.create_task(server.serve(sockets=[listening]), name="serve")
    heap.settle()
    telling = asyncio.create_task(_tell_when_ready(settings, services.room), name="ready")
    waits = [asyncio.create_task(stop.wait()), asyncio.create_task(services.broken.wait())]
    await asyncio.wait({serving, *waits}, return_when=asyncio.FIRST_COMPLETED)
    if not serving.done():
        # Whoever comes meanwhile is told to go elsewhere; a socket that listens no more would reset them.
        within_s = max(0.0, settings.drain_s - END_S)
        await asyncio.gather(sessions.drain(within_s), asyncio.sleep(min(MOMENT_S, within_s)))
        server.should_exit = True
    await serving
    for task in (telling, *waits):
        task.cancel()
    await store.close()
    return 1 if services.broken.is_set() else 0


async def _tell_when_ready(settings: Settings, room: Room) -> None:
    await room.until_ready()
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    sys.stdout.write(f"Parley is ready: http://{host}:{settings.port} ({'; '.join(room.reasons())})\n")
    sys.stdout.flush()


def _worth_a_line(record: logging.LogRecord) -> bool:
    """No client may write errors: that its socket is closed for what it sent, `edge.sockets` says."""
    return record.msg not in CLIENTS_FAULTS
