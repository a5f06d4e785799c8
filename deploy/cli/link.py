"""One WebSocket to an edge: messages as maps, in one encoding, until it is lost.

Owns the handshake, the encodings and what it means that a socket ended. Knows no conversation: whoever holds
a link decides what is said on it, and what follows its loss.
"""

from __future__ import annotations

import asyncio
import binascii
import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import msgpack
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, InvalidURI, WebSocketException

from edge.auth import is_loopback
from edge.protocols.encoding import Encoding, encode
from shared.errors import ParleyError

log = logging.getLogger(__name__)

Message = dict[str, Any]
"""A message of the server; `audio_data` is bytes in either encoding."""

OPEN_WITHIN_S = 5.0
PING_EACH_S = 5.0
FAREWELL_S = 1.0
"""How long a server may take to close the socket after a goodbye."""
MAX_MESSAGE_BYTES = 64 << 20

NORMAL = 1000
"""The close code that ends the conversation too."""
LEAVING = 1001
ABNORMAL = 1006
REPLACED = 4001
"""The close code for a socket whose conversation was resumed on another one."""

_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


class CannotConnect(ParleyError):
    """Raised when no socket can be opened; `retryable` says whether trying again may help, and not before
    `retry_after_s`."""

    def __init__(self, message: str, *, retryable: bool, retry_after_s: float = 0.0) -> None:
        super().__init__(message + (f"; try again in {retry_after_s:g} s" if retry_after_s else ""))
        self.retryable = retryable
        self.retry_after_s = retry_after_s


class LinkLost(ParleyError):
    """Raised when the socket has ended, with its close code; 1006 for one that was cut."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"the socket was closed with {code}" + (f": {reason}" if reason else ""))
        self.code = code
        self.reason = reason


class Link:
    """An open socket. `greeting` is the server's `connection`."""

    def __init__(self, url: str, encoding: Encoding, socket: ClientConnection, greeting: Message) -> None:
        self.url = url
        self.greeting = greeting
        self._encoding = encoding
        self._socket = socket

    async def send(self, message: Mapping[str, object]) -> None:
        """Write a message; `bytes` in it travel as its encoding has them. Raises `LinkLost`."""
        try:
            await self._socket.send(encode(message, self._encoding))
        except ConnectionClosed as error:
            raise _lost(error) from None

    async def try_to_send(self, message: Mapping[str, object]) -> bool:
        """Write a message; false if the socket has ended, which whoever receives from it finds out, too."""
        try:
            await self.send(message)
        except LinkLost as error:
            log.debug("not sent: %s", error)
            return False
        return True

    async def receive(self) -> Message:
        """The next message. May be cancelled without losing one. Raises `LinkLost`."""
        try:
            return _decode(await self._socket.recv())
        except ConnectionClosed as error:
            raise _lost(error) from None

    async def close(self, code: int) -> None:
        """Close in good order. Only `NORMAL` ends the conversation."""
        await self._socket.close(code)

    async def bid_farewell(self) -> None:
        """End the conversation. The server closes when it has heard so: a close of ours would overtake what
        it has still to read."""
        if await self.try_to_send({"type": "bye"}):
            with suppress(LinkLost, TimeoutError):
                async with asyncio.timeout(FAREWELL_S):
                    while True:
                        await self.receive()
        await self.close(NORMAL)

    def cut(self) -> None:
        """Drop the connection without a word, as a bad network does."""
        self._socket.transport.abort()


async def open_link(
    url: str,
    encoding: Encoding,
    key: str | None = None,
    *,
    resumes: bool = False,
    within_s: float = OPEN_WITHIN_S,
) -> Link:
    """Connect and read the greeting. Raises `CannotConnect`.

    `resumes`: a conversation is to go on there, which the edge shall know before it lets anybody in.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:  # brackets that do not match, or a port that is none
        raise CannotConnect(f"{url} is no URL of a WebSocket", retryable=False) from None
    query = [parts.query] if parts.query else []
    query += [f"encoding={encoding}"] if encoding is not Encoding.JSON else []
    query += ["resume=1"] if resumes else []
    try:
        async with asyncio.timeout(within_s):
            socket = await connect(
                parts._replace(query="&".join(query)).geturl(),
                compression=None,
                max_size=MAX_MESSAGE_BYTES,
                ping_interval=PING_EACH_S,
                ping_timeout=PING_EACH_S,
                close_timeout=1.0,
                open_timeout=None,
                additional_headers={"Authorization": f"Bearer {key}"} if key else None,
                # A proxy of the environment is meant for far hosts and cannot reach this one.
                proxy=None if is_loopback(host) else True,
            )
    except TimeoutError:
        raise CannotConnect(f"{url} does not answer within {within_s:g} s", retryable=True) from None
    except InvalidStatus as error:
        raise _refused(url, error) from None
    except InvalidURI:
        raise CannotConnect(f"{url} is no URL of a WebSocket", retryable=False) from None
    except (OSError, WebSocketException) as error:
        raise CannotConnect(f"{url}: {_reason(error)}", retryable=True) from None
    link = Link(url, encoding, socket, {})
    try:
        async with asyncio.timeout(within_s):
            link.greeting = await link.receive()
    except TimeoutError:
        link.cut()
        raise CannotConnect(f"{url} does not greet within {within_s:g} s", retryable=True) from None
    except LinkLost as error:
        raise CannotConnect(f"{url}: {error}", retryable=error.code != 1008) from None
    if link.greeting.get("type") == "error":
        link.cut()
        raise refusal(url, link.greeting)
    if link.greeting.get("type") != "connection":
        link.cut()
        raise CannotConnect(f"{url} is not a Parley server", retryable=False)
    return link


def refusal(url: str, error: Message) -> CannotConnect:
    """A server's `error`, in answer to a handshake or a `resume`, as an exception."""
    return CannotConnect(
        f"{url}: {error['message']} ({error['code']})",
        retryable=bool(error.get("retryable")),
        retry_after_s=(error.get("retry_after_ms") or 0.0) / 1000,
    )


def _decode(data: str | bytes) -> Message:
    if isinstance(data, bytes):
        message: Message = msgpack.unpackb(data)
        return message
    message = json.loads(data)
    if isinstance(message.get("audio_data"), str):
        message["audio_data"] = binascii.a2b_base64(message["audio_data"])
    return message


def _lost(error: ConnectionClosed) -> LinkLost:
    if error.rcvd is None:
        return LinkLost(ABNORMAL, "")
    return LinkLost(error.rcvd.code, error.rcvd.reason)


def _refused(url: str, error: InvalidStatus) -> CannotConnect:
    response = error.response
    status = response.status_code
    body = (response.body or b"").decode(errors="replace").strip()
    said = _said(body)
    why = said.get("message") or response.reason_phrase
    hint = ": show a key in PARLEY_API_KEYS or --key-file" if status in (401, 403) else ""
    return CannotConnect(
        f"{url} answers {status} ({why}){hint}",
        retryable=status in _PASSING,
        retry_after_s=_retry_after_s(said, response.headers.get("Retry-After", "")),
    )


def _said(body: str) -> Message:
    """What a refusal says in its body: an `error`, or a short plain line as its message."""
    try:
        said = json.loads(body)
    except ValueError:
        return {"message": body} if len(body) <= 200 and "\n" not in body else {}
    return said if isinstance(said, dict) else {}


def _retry_after_s(said: Message, header: str) -> float:
    """By the error itself, or else by the header, in whole seconds; a date in there is passed over."""
    after_ms = said.get("retry_after_ms")
    if isinstance(after_ms, int | float):
        return after_ms / 1000
    return float(header) if header.isdecimal() else 0.0


def _reason(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError) or "Connect call failed" in str(error):
        return "nobody listens there"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
