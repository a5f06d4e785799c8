"""A client with an open microphone: it streams, and remembers what it sent and what it was told, and when.

Knows of the protocol only its messages, and nothing of the client that users have: what a socket does here is
just what a test says. A lost socket stays lost until the test resumes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgpack
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from shared.audio import INPUT_RATE
from shared.wire import Log

CHUNK_MS = 20
CHUNK_BYTES = CHUNK_MS * INPUT_RATE * 2 // 1000
WITHIN_S = 60.0
"""How long a message may be waited for on a busy machine."""

Message = dict[str, Any]


def ms(pcm: bytes) -> float:
    """How long PCM16 at 16 kHz lasts."""
    return len(pcm) / 2 / INPUT_RATE * 1000


class Microphone:
    """One conversation. Made by `microphone`."""

    def __init__(self, socket: ClientConnection) -> None:
        self.conversation = ""
        self.messages: list[Message] = []
        self.at_s: list[float] = []
        """When each message came (monotonic)."""
        self.sent = bytearray()
        """The conversation's whole input so far."""
        self.live_since_s: float | None = None
        """When the sample at place 0 of a live stream was spoken (monotonic)."""
        self._token = ""
        self._pending = bytearray()
        self._socket = socket
        self._news = asyncio.Event()
        self._reading = asyncio.create_task(self._read(socket))

    # ---- what the user says

    async def send(self, kind: str, **fields: object) -> None:
        """Send a message."""
        await self._socket.send(msgpack.packb({"type": kind, **fields}))

    async def configure(self, **settings: object) -> Message:
        """Configure PCM16 and the settings; the effective ones."""
        count = len(self.all("configured"))
        await self.send("configure", **{"input_format": "pcm16", "output_format": "pcm16", **settings})
        await self.until(lambda: len(self.all("configured")) > count, "configured")
        return self.all("configured")[-1]

    async def say(self, pcm: bytes) -> None:
        """Send more input, in chunks of 20 ms, as quickly as the socket takes them."""
        for start in range(0, len(pcm), CHUNK_BYTES):
            await self._chunk(pcm[start : start + CHUNK_BYTES])

    async def ask(self, pcm: bytes, **fields: object) -> float:
        """Send a whole utterance in one message; when (monotonic)."""
        await self._chunk(pcm, ends=True, **fields)
        return time.monotonic()

    def put(self, pcm: bytes) -> int:
        """Say this next in a live stream, which is silent otherwise; the place at which it begins."""
        place = (len(self.sent) + len(self._pending)) // 2
        self._pending += pcm
        return place

    async def live(self) -> None:
        """Stream for ever in real time: each chunk of 20 ms leaves when its last sample has been spoken."""
        while True:
            due_s = self.spoken_at_s((len(self.sent) + CHUNK_BYTES) // 2)
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            chunk = bytes(self._pending[:CHUNK_BYTES])
            del self._pending[:CHUNK_BYTES]
            await self._chunk(chunk.ljust(CHUNK_BYTES, b"\0"))

    def spoken_at_s(self, place: int) -> float:
        """When the sample at a place was spoken into a live stream (monotonic)."""
        assert self.live_since_s is not None
        return self.live_since_s + place / INPUT_RATE

    async def _chunk(self, pcm: bytes, *, ends: bool = False, **fields: object) -> None:
        self.sent += pcm
        await self.send("audio_chunk", audio_data=pcm, end_of_utterance=ends, **fields)

    # ---- what it was told

    def all(self, kind: str, **fields: object) -> list[Message]:
        """The messages of a type and with these values that came so far."""
        wanted = {"type": kind, **fields}
        return [message for message in self.messages if wanted.items() <= message.items()]

    async def first(self, kind: str, **fields: object) -> Message:
        """The first message of a type and with these values, whenever it came or comes."""
        await self.until(lambda: bool(self.all(kind, **fields)), f"{kind} {fields}")
        return self.all(kind, **fields)[0]

    async def until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until something holds of what was told. Fails with `what`, and all that came."""
        try:
            async with asyncio.timeout(WITHIN_S):
                while not holds():
                    assert not self._reading.done(), f"the socket is gone before {what}:\n{self.told()}"
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"never came: {what}; what came:\n{self.told()}") from None

    def when(self, message: Message) -> float:
        """When a message came (monotonic)."""
        return self.at_s[self.place(message)]

    def place(self, message: Message) -> int:
        """How many messages came before this one."""
        return next(place for place, each in enumerate(self.messages) if each is message)

    def told(self) -> str:
        """All messages but acks, without their audio and cut short, for a failing test."""
        told = [message for message in self.messages if message["type"] != "audio_ack"]
        return "\n".join(str({k: v for k, v in m.items() if k != "audio_data"})[:200] for m in told)

    def reply(self, turn: int) -> str:
        """The tokens of a turn so far."""
        return "".join(message["text"] for message in self.all("token_chunk", turn=turn))

    async def reply_upto(self, turn: int, end: str) -> str:
        """The tokens of a turn, once they end so."""
        await self.until(lambda: self.reply(turn).endswith(end), f"a reply to turn {turn} that ends in {end}")
        return self.reply(turn)

    async def _read(self, socket: ClientConnection) -> None:
        try:
            async for data in socket:
                self._note(msgpack.unpackb(data))
        except ConnectionClosed:
            return
        finally:
            self._news.set()

    def _note(self, message: Message) -> None:
        self.at_s.append(time.monotonic())
        self.messages.append(message)
        if message["type"] in ("connection", "resumed"):
            self._token = message["resume_token"]
        self._news.set()

    # ---- sockets

    async def greeted(self) -> None:
        """Take the `connection` of a new conversation."""
        self.conversation = (await self.first("connection"))["conversation_id"]

    async def resume(self, url: str) -> Message:
        """Go on at another edge, say again what it has not; its `resumed`."""
        self._reading.cancel()
        token, conversation = self._token, self.conversation
        socket = await _dial(url, resumes=True)
        count = len(self.all("connection"))
        self._socket, self._reading = socket, asyncio.create_task(self._read(socket))
        await self.until(lambda: len(self.all("connection")) > count, "another connection")
        count = len(self.all("resumed"))
        await self.send("resume", conversation_id=conversation, resume_token=token, after=self._held())
        await self.until(lambda: len(self.all("resumed")) > count, "resumed")
        resumed = self.all("resumed")[-1]
        place = int(resumed["input_samples"])
        again = bytes(self.sent[2 * place :])
        del self.sent[2 * place :]
        for start in range(0, len(again), CHUNK_BYTES):
            await self._chunk(again[start : start + CHUNK_BYTES], offset_samples=place + start // 2)
        return resumed

    def _held(self) -> dict[str, str]:
        """The last address of each log that came."""
        held: dict[str, str] = {}
        for message in self.messages:
            log, _, address = str(message.get("address") or "").partition(":")
            if log in (Log.TEXT, Log.SPEECH):
                held[log] = address
        return held

    async def close(self) -> None:
        """Close the socket, and with it the conversation."""
        await self._socket.close()
        self._reading.cancel()
        await asyncio.wait([self._reading])


async def _dial(url: str, *, resumes: bool = False) -> ClientConnection:
    query = "encoding=msgpack" + ("&resume=1" if resumes else "")
    return await connect(f"{url}?{query}", proxy=None, compression=None, max_size=None)


@asynccontextmanager
async def microphone(url: str, **settings: object) -> AsyncIterator[Microphone]:
    """A new conversation at an edge, with voice activity detection unless the settings say otherwise."""
    mic = Microphone(await _dial(url))
    try:
        await mic.greeted()
        await mic.configure(**{"turn_detection": "server_vad", **settings})
        yield mic
    finally:
        await mic.close()


@asynccontextmanager
async def live(mic: Microphone) -> AsyncIterator[None]:
    """The microphone streams in real time meanwhile."""
    mic.live_since_s = time.monotonic() - len(mic.sent) / 2 / INPUT_RATE
    streaming = asyncio.create_task(mic.live())
    try:
        yield
    finally:
        streaming.cancel()
        (error,) = await asyncio.gather(streaming, return_exceptions=True)
        if not isinstance(error, asyncio.CancelledError):
            raise AssertionError(f"the stream broke: {error!r}")
