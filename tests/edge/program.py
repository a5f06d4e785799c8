"""A client program as a test drives it: one conversation, over one socket after another.

It remembers all that it was told. What an older socket still says once there is a newer one is for nobody, as
in the client that users have.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import msgpack
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.story import heard
from workers.tts.engines.scripted import Place, hash_of, whose

Message = dict[str, Any]

WITHIN_S = 20.0
WAV_HEAD_BYTES = 44


class Program:
    """One conversation. `dial` it first."""

    def __init__(self, url: str) -> None:
        self.conversation = ""
        self.tokens: list[str] = []
        """Every resume token that it was given, the newest last."""
        self.told: list[Message] = []
        self.close_code: int | None = None
        """What the newest socket was closed with."""
        self._url = f"{url}?encoding=msgpack"
        self._socket: ClientConnection | None = None
        self._reading: dict[ClientConnection, asyncio.Task[None]] = {}
        self._news = asyncio.Event()

    @property
    def connected(self) -> bool:
        """Whether there is a socket that lives."""
        return self._socket is not None and self.close_code is None

    async def dial(self) -> None:
        """Open another socket, and listen to no older one; the conversation of the first is the program's."""
        begin, first = len(self.told), not self._reading
        self._socket, self.close_code = None, None
        self._socket = await connect(self._url, proxy=None, compression=None, max_size=None)
        self._reading[self._socket] = asyncio.create_task(self._read(self._socket))
        connection = await self._next(begin, "connection")
        if first:
            self.conversation, self.tokens = connection["conversation_id"], [connection["resume_token"]]

    async def send(self, kind: str, **fields: object) -> None:
        """Send a message."""
        assert self._socket is not None
        await self._socket.send(msgpack.packb({"type": kind, **fields}))

    async def ask(self, kind: str, **fields: object) -> list[Message]:
        """Send a message; what came before the answer to a `ping` behind it."""
        begin = len(self.told)
        await self.send(kind, **fields)
        await self.send("ping")
        await self._next(begin, "pong")
        replies = self.told[begin:]
        return replies[: [reply["type"] for reply in replies].index("pong")]

    async def resume(self, token: str, conversation: str = "", *, held: bool = True) -> Message:
        """Show a token on a new socket; the answer, `resumed` or an error.

        `held`: it says what it holds, otherwise it forgets that, and is told all that is kept.
        """
        self._socket = None
        after = self._held() if held else {"text": "0-0"}
        if not held:
            self.told.clear()
        await self.dial()
        begin = len(self.told)
        shown = {"conversation_id": conversation or self.conversation, "resume_token": token}
        await self.send("resume", **shown, after=after)
        answer = await self._next(begin, "resumed", "error")
        if answer["type"] == "resumed":
            self.tokens.append(answer["resume_token"])
        return answer

    async def _next(self, begin: int, *kinds: str) -> Message:
        """The first message of one of these types from a place on."""
        await self.until(lambda: any(m["type"] in kinds for m in self.told[begin:]), " or ".join(kinds))
        return next(m for m in self.told[begin:] if m["type"] in kinds)

    def cut(self) -> None:
        """Lose the socket."""
        assert self._socket is not None
        self._socket.transport.abort()
        self.close_code = 1006

    async def close(self) -> None:
        """Close the socket with 1000: goodbye."""
        assert self._socket is not None
        await self._socket.close()

    async def closed(self) -> int:
        """Wait until the newest socket is closed; its code."""
        await self.until(lambda: self.close_code is not None, "the end of the socket", alive=False)
        return self.close_code or 0

    async def until(self, holds: Callable[[], bool], what: str, *, alive: bool = True) -> None:
        """Wait until something holds. Fails with `what` if it never does, or the socket ends before."""
        try:
            async with asyncio.timeout(WITHIN_S):
                while not holds():
                    assert not alive or self.connected, f"closed with {self.close_code} before {what}"
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"never came: {what}; it was told\n{self.shown()}") from None

    def check(self) -> set[int]:
        """Fails unless all is in its place and the conversation's own; the turns that have ended."""
        turns = heard(self.told)
        for number, turn in turns.items():
            places: defaultdict[int, int] = defaultdict(int)
            for frame in turn.frames:
                pcm = frame["audio_data"][WAV_HEAD_BYTES if frame["format"] == "wav" else 0 :]
                chunk = frame["chunk_index"]
                assert whose(pcm) == Place(hash_of(self.conversation), number, chunk, places[chunk])
                places[chunk] += len(pcm) // 2
        return {number for number, turn in turns.items() if turn.ending is not None}

    def shown(self) -> str:
        """What it was told, in short."""
        return "\n".join(
            str({k: v for k, v in m.items() if k not in ("audio_data", "server_config")}) for m in self.told
        )

    async def leave(self) -> None:
        """Drop every socket."""
        for socket, reading in self._reading.items():
            socket.transport.abort()
            await asyncio.wait([reading])

    def _held(self) -> dict[str, str]:
        held: dict[str, str] = {}
        for message in self.told:
            log, _, place = str(message.get("address") or "").partition(":")
            if place:
                held[log] = place
        return held

    async def _read(self, socket: ClientConnection) -> None:
        try:
            async for data in socket:
                if socket is self._socket:
                    self.told.append(msgpack.unpackb(data))
                    self._news.set()
        except ConnectionClosed:
            pass
        finally:
            if socket is self._socket:
                self.close_code = socket.close_code
                self._news.set()
