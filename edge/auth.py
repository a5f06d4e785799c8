"""Who may come in: API keys, the origins of pages, and whether the edge may listen where it was told to.

Owns the decisions only; reads the headers of a handshake and nothing else. A key is never taken from a URL,
for URLs are written into logs.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from hashlib import sha256
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from shared.errors import ClientError, SettingsError
from shared.settings import Settings

SUBPROTOCOL = "parley"
KEY_PREFIX = "parley-key."
"""A browser cannot set headers on a WebSocket: it offers `parley, parley-key.<key>` as subprotocols."""

_DEFAULT_PORTS = {"http": 80, "https": 443}


class _Origin(NamedTuple):
    scheme: str
    host: str
    port: int


class Gate:
    """Decides over each handshake by the settings of this edge."""

    def __init__(self, settings: Settings) -> None:
        self._digests = [_digest(key) for key in settings.parley_api_keys]
        self._origins = frozenset(map(_parse_origin, settings.parley_origins))
        self._local = not (settings.parley_api_keys or settings.parley_open)

    def check(self, headers: Headers) -> None:
        """Let a handshake pass, or raise `ClientError` `unauthorized`, which names no key and no digest."""
        self._check_origin(headers)
        if self._digests and not self._knows_any(_shown_keys(headers)):
            raise ClientError(
                "unauthorized",
                f"an API key is needed: 'Authorization: Bearer <key>' or the subprotocols"
                f" '{SUBPROTOCOL}, {KEY_PREFIX}<key>'",
            )

    def _knows_any(self, keys: Iterator[bytes]) -> bool:
        known = False
        for key in keys:
            digest = sha256(key).digest()
            for one in self._digests:
                # Each is compared to its end, so that the time taken says nothing about any of them.
                known |= hmac.compare_digest(digest, one)
        return known

    def _check_origin(self, headers: Headers) -> None:
        origins = headers.getlist("origin")
        if not origins:
            return  # Not a page in a browser: those always say where they come from.
        if len(origins) > 1 or not self._may_come_from(origins[0], headers.getlist("host")):
            raise ClientError("unauthorized", "pages of this origin may not connect (PARLEY_ORIGINS)")

    def _may_come_from(self, origin: str, hosts: list[str]) -> bool:
        page = _parse_origin(origin)
        if page is None:
            return False
        if page in self._origins:
            return True
        # The edge's own page, whatever scheme a proxy in front of it speaks.
        if len(hosts) != 1 or page != _parse_origin(f"{page.scheme}://{hosts[0]}"):
            return False
        # Where nothing but loopback keeps strangers out, a page of theirs can still reach it under a name of
        # their own that leads to 127.0.0.1. So the edge must have been called by a name for loopback.
        return not self._local or is_loopback(page.host)


def subprotocol(headers: Headers) -> str | None:
    """The subprotocol to answer with: `parley` if it was offered, never one that holds a key."""
    return SUBPROTOCOL if SUBPROTOCOL in _offered(headers) else None


def is_loopback(host: str) -> bool:
    """Whether a name or an address can only be reached from this machine: 127.0.0.0/8, ::1 or localhost."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def check_listening(settings: Settings) -> None:
    """Refuse to listen where strangers can come, without keys and without being told to.

    Raises `SettingsError`.
    """
    if is_loopback(settings.host) or settings.parley_api_keys or settings.parley_open:
        return
    raise SettingsError(
        f"HOST={settings.host!r}: expected a loopback address (127.0.0.0/8, ::1, localhost), or keys in"
        " PARLEY_API_KEYS, or PARLEY_OPEN=1 to let everybody in"
    )


def _digest(key: str) -> bytes:
    return sha256(key.encode()).digest()


def _shown_keys(headers: Headers) -> Iterator[bytes]:
    """Every key in the headers, as the bytes that were sent (a header is decoded as Latin-1)."""
    for value in headers.getlist("authorization"):
        scheme, _, key = value.partition(" ")
        if scheme.lower() == "bearer":
            yield key.strip().encode("latin-1")
    for name in _offered(headers):
        if name.startswith(KEY_PREFIX):
            yield name.removeprefix(KEY_PREFIX).encode("latin-1")


def _offered(headers: Headers) -> list[str]:
    return [name.strip() for line in headers.getlist("sec-websocket-protocol") for name in line.split(",")]


def _parse_origin(text: str) -> _Origin | None:
    """An `http` or `https` origin, its default port filled in; `None` for anything else, such as `null`."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or "@" in parts.netloc:
        return None
    if parts.path or parts.query or parts.fragment:
        return None
    return _Origin(parts.scheme, parts.hostname, port or _DEFAULT_PORTS[parts.scheme])
