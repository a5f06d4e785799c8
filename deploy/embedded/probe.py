"""Two questions to a Redis server on this host, asked without a client library, which takes longer to import
than the server to start."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Self

_TIMEOUT_S = 1.0


class Probe:
    """One connection. Every method raises `OSError` when the server is not there or will not answer."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_S)
        self._replies = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._replies.close()
        self._socket.close()

    def info(self) -> dict[str, str]:
        """The server's `INFO`, which it answers even while it loads its data."""
        lines = self._ask(b"INFO").splitlines()
        pairs = (line.partition(":") for line in lines)
        return {name: value for name, colon, value in pairs if colon}

    def others(self) -> int:
        """How many connections there are besides this one."""
        return len(self._ask(b"CLIENT LIST").splitlines()) - 1

    def _ask(self, command: bytes) -> str:
        self._socket.sendall(command + b"\r\n")
        head = self._replies.readline()
        if not head.startswith(b"$"):
            raise ConnectionError(f"{command.decode()} was answered by {head[:80]!r}")
        length = int(head[1:])
        body = self._replies.read(length + 2)
        if len(body) != length + 2:
            raise ConnectionError(f"the answer to {command.decode()} broke off")
        return body[:length].decode("utf-8", "replace")


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1 now."""
    with socket.socket() as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            attempt.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
