"""A hub for the hub's real client: one repository over HTTP, as much of the protocol as a pull needs."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

REVISION = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """What it holds, how it behaves, and what it was asked for."""

    def __init__(self, repository: str, files: Mapping[str, bytes]) -> None:
        self.repository = repository
        self.files = dict(files)
        self.claimed_bytes: int | None = None
        """The size that it says each file has; `None`: the true one."""
        self.refusal: tuple[int, str] | None = None
        """A status and the hub's own code for it, in place of every answer."""
        self.endless = False
        """Whether its files never end. They come in pieces."""
        self.began = threading.Event()
        """Set when the first piece of a file was sent."""
        self.broken = threading.Event()
        """Set when a client went away in the middle of a file."""
        self.fetched: list[str] = []
        self.url = ""

    @property
    def name(self) -> str:
        """As `VOXTRAL_MODEL` and `KOKORO_MODEL` have it."""
        return f"{self.repository}@{REVISION}"


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    """The hub, on a port of its own."""

    class Handler(_Handler):
        served = hub

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    served: FakeHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""

    def _answer(self, *, body: bool) -> None:
        hub = self.served
        path = unquote(urlsplit(self.path).path).lstrip("/")
        file = path.removeprefix(f"{hub.repository}/resolve/{REVISION}/")
        if hub.refusal is not None:
            self._send(hub.refusal[0], b"{}", {"X-Error-Code": hub.refusal[1]})
        elif path == f"api/models/{hub.repository}/revision/{REVISION}":
            self._send_json({"id": hub.repository, "sha": REVISION, "siblings": []})
        elif path == f"api/models/{hub.repository}/tree/{REVISION}":
            self._send_json([self._entry(each) for each in hub.files])
        elif file in hub.files and body and hub.endless:
            self._send_endlessly(file)
        elif file in hub.files:
            hub.fetched += [file] if body else []
            self._send(200, hub.files[file], self._headers(file), body=body)
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _entry(self, file: str) -> dict[str, object]:
        size = self.served.claimed_bytes or len(self.served.files[file])
        return {"type": "file", "path": file, "size": size, "oid": _digest(self.served.files[file])}

    def _headers(self, file: str) -> dict[str, str]:
        return {"ETag": f'"{_digest(self.served.files[file])}"', "X-Repo-Commit": REVISION}

    def _send_json(self, said: object) -> None:
        self._send(200, json.dumps(said).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: Mapping[str, str], *, body: bool = True) -> None:
        claimed = None if body else self.served.claimed_bytes
        self._send_head(status, claimed or len(content), headers)
        if body:
            self.wfile.write(content)

    def _send_head(self, status: int, size: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(size))
        self.end_headers()

    def _send_endlessly(self, file: str) -> None:
        self._send_head(200, 1 << 40, self._headers(file))
        try:
            # Not as fast as it goes: a client that does not stop should not fill the disk.
            while not self.served.broken.wait(0.02):
                self.wfile.write(bytes(1 << 18))
                self.served.began.set()
        except OSError:
            self.served.broken.set()
            self.close_connection = True


def _digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
