"""The role `redis`: it supervises the embedded server, says where it listens, and lets it go last.

Idle where `REDIS_URL` names another Redis, for Honcho ends everything when one process ends.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator

from deploy import child
from deploy.embedded.errors import FolderInUse, PortTaken, ServerError
from deploy.embedded.folder import FolderLock
from deploy.embedded.probe import Probe, is_free
from deploy.embedded.server import RedisServer
from deploy.supervise import KILL_MARGIN_S, Backoff
from deploy.wakeups import Wakeups
from shared import logs, settings
from shared.portfile import PortFile
from shared.settings import PORT_FILE, Settings

logger = logging.getLogger(__name__)

PORT_TRIES = 100
_READY_POLL_S = 0.01
_FOLDER_WAIT_S = 3.0
_LINGER_MARGIN_S = KILL_MARGIN_S + 0.3  # the others are killed by then
_LINGER_POLL_S = 0.05


class EmbeddedRedis:
    """The server with its announced port, from the first start to the orderly end."""

    def __init__(self, configured: Settings, wakeups: Wakeups) -> None:
        self._folder = (configured.parley_data / "redis").absolute()
        self._lock = FolderLock(self._folder)
        self._wanted_port = configured.parley_redis_port
        self._options = {"appendfsync": configured.parley_redis_fsync}
        self._linger_s = configured.drain_s + _LINGER_MARGIN_S
        self._wakeups = wakeups
        self._port_file = PortFile(configured.parley_data.absolute() / PORT_FILE)

    def run(self) -> None:
        """Serve until the process is asked to stop. Raises `ServerError` if the first start fails."""
        server = self._first_start()
        if server is None:
            return
        backoff = Backoff()
        started_at = time.monotonic()
        while not self._wakeups.stopping:
            if (returncode := server.returncode) is None:
                self._wakeups.wait()
                continue
            pause_s = backoff.after(time.monotonic() - started_at)
            logger.warning("the server %s; starting again in %.1f s", child.describe_end(returncode), pause_s)
            self._wakeups.pause(pause_s)
            started_at = time.monotonic()
            self._start_again(server)
        self._linger(server)
        server.stop()
        self._port_file.withdraw()

    def _first_start(self) -> RedisServer | None:
        """The server, up and announced; `None` if the process is asked to stop before that."""
        self._lock_folder()  # before a port is chosen: a dying predecessor may still have the right one
        for port in self._ports():
            server = RedisServer(self._folder, port, lock=self._lock, options=self._options)
            server.launch()
            try:
                ready = self._wait_until_ready(server)
            except PortTaken:  # somebody else started on it at this very moment
                continue
            if not ready:
                server.stop()
                return None
            self._announce(port)
            return server
        raise ServerError(
            f"no free port from {self._wanted_port} on: set PARLEY_REDIS_PORT to another, or REDIS_URL"
        )

    def _ports(self) -> Iterator[int]:
        """Free ports: the one announced before a crash, which clients know, and from the wanted one on."""
        wanted = range(self._wanted_port, min(self._wanted_port + PORT_TRIES, 65536))
        before = self._port_file.read_stale()
        for port in (*((before,) if before in wanted else ()), *wanted):
            if is_free(port):
                yield port

    def _lock_folder(self) -> None:
        """Lock it, once the server of a killed predecessor has let go of it."""
        until = time.monotonic() + _FOLDER_WAIT_S
        while True:
            try:
                self._lock.acquire()
                return
            except FolderInUse:
                if time.monotonic() >= until or self._wakeups.stopping:
                    raise
            self._wakeups.wait(_LINGER_POLL_S)

    def _start_again(self, server: RedisServer) -> None:
        """The same port: the others only reconnect. A failure is another death to the loop."""
        try:
            server.launch()
            if self._wait_until_ready(server):
                logger.info("the server is up again on port %d", server.port)
        except ServerError as error:
            logger.error("%s", error)

    def _wait_until_ready(self, server: RedisServer) -> bool:
        """Wait, however long it loads its data; false if the process is asked to stop before that."""
        while not self._wakeups.stopping:
            if server.is_ready():
                return True
            self._wakeups.wait(_READY_POLL_S)
        return False

    def _announce(self, port: int) -> None:
        self._port_file.announce(port)
        taken = f" (port {self._wanted_port} is taken)" if port != self._wanted_port else ""
        logger.info("Redis is on 127.0.0.1:%d%s, its data in %s", port, taken, self._folder)

    def _linger(self, server: RedisServer) -> None:
        """Wait until nobody is connected any more: what the others write at their end must find a server."""
        until = time.monotonic() + self._linger_s
        try:
            with Probe(server.port) as probe:
                while others := probe.others():
                    if time.monotonic() >= until or self._wakeups.hurried:
                        logger.warning("stopping, with connections still open: %d", others)
                        return
                    self._wakeups.wait(_LINGER_POLL_S)
        except OSError as error:
            logger.warning("stopping without asking who is connected: %s", error)


def main() -> int:
    """Run the role; returns its exit code."""
    if os.environ.get("HONCHO_PROCESS_NAME"):
        child.end_with_parent(signal.SIGTERM)  # Honcho does not stop us when its terminal goes away
    configured = settings.load()
    logs.configure(configured.log_level, "redis")
    with Wakeups() as wakeups:
        if configured.redis_url is not None:
            logger.info("REDIS_URL is set: no embedded Redis")
            while not wakeups.stopping:
                wakeups.wait()
            return 0
        try:
            EmbeddedRedis(configured, wakeups).run()
        except (ServerError, OSError) as error:
            logger.error("%s", error)
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
