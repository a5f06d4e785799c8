"""An edge in this process, on a real Redis and real sockets. The workers are played by the test."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Self

import msgpack
import numpy as np
import pytest
from websockets.asyncio.client import ClientConnection, connect

from edge.detection import WINDOW_SAMPLES, Detector, Heard
from edge.server import Server, listen, make_server, make_services
from edge.services import Services
from edge.sessions import Sessions
from shared.audio import FRAME_SAMPLES
from shared.keys import WORKERS, Role, Trade, index_key, log_key, work_key, worker_key
from shared.log import LogWriter, close_turn, read_log, tail
from shared.settings import Settings
from shared.store import Store
from shared.wire import (
    Address,
    Closed,
    Entry,
    Frame,
    Log,
    Payload,
    ReplyEnd,
    Semantic,
    SpeechEnd,
    Token,
    new_tag,
)
from shared.work import Announcement
from tests.conftest import eventually

FRAME = bytes(FRAME_SAMPLES * 2)
SECOND = bytes(32_000)
"""A second of silent input, PCM16 at 16 kHz."""

LOUD = 1000
"""Above this a sample is loud, for the detector of these tests."""

Message = dict[str, Any]


class Client:
    """A bare client: what is sent and received is just what the test says."""

    def __init__(self, socket: ClientConnection, encoding: str) -> None:
        self.socket = socket
        self.conversation = ""
        self.token = ""
        self.received: list[Message] = []
        self._encoding = encoding

    async def send(self, kind: str, **fields: object) -> None:
        """Send a message."""
        message = {"type": kind, **fields}
        await self.socket.send(msgpack.packb(message) if self._encoding == "msgpack" else json.dumps(message))

    async def speak(self, pcm: bytes = SECOND, *, ends: bool = True, **fields: object) -> None:
        """Send input as PCM16 (of a client that has configured it)."""
        await self.send("audio_chunk", audio_data=pcm, end_of_utterance=ends, **fields)

    async def next(self) -> Message:
        """The next message."""
        async with asyncio.timeout(10):
            data = await self.socket.recv()
        message: Message = msgpack.unpackb(data) if isinstance(data, bytes) else json.loads(data)
        self.received.append(message)
        return message

    async def until(self, *kinds: str) -> Message:
        """The next message of one of these types."""
        while True:
            message = await self.next()
            if message["type"] in kinds:
                return message

    async def nothing_before(self, kind: str) -> Message:
        """The next message, which must be of this type."""
        message = await self.next()
        assert message["type"] == kind, message
        return message

    async def closed(self) -> int:
        """Read to the end of the socket: the code it was closed with."""
        async with asyncio.timeout(10):
            while True:
                try:
                    await self.socket.recv()
                except Exception:
                    return self.socket.close_code or 1006

    async def greet(self) -> Self:
        """Take the `connection` message."""
        connection = await self.nothing_before("connection")
        self.conversation, self.token = connection["conversation_id"], connection["resume_token"]
        return self

    async def configure(self, **settings: object) -> None:
        """Configure what tests are easiest with, and wait until it holds."""
        await self.send("configure", **{"input_format": "pcm16", "output_format": "pcm16", **settings})
        await self.until("configured")


class LoudIsVoice:
    """A detector for tests: a window with a loud sample in it is a voice, everything else is none."""

    name = "loud"

    def ear(self) -> LoudEar:
        """For one more conversation."""
        return LoudEar()

    def close(self) -> None:
        """Nothing is left to be done."""


class LoudEar:
    """The ear of `LoudIsVoice`."""

    def __init__(self) -> None:
        self._rest = b""

    async def hear(self, pcm: bytes) -> list[Heard]:
        """Judge each window that is full."""
        pcm = self._rest + pcm
        whole = len(pcm) - len(pcm) % (2 * WINDOW_SAMPLES)
        self._rest = pcm[whole:]
        windows = np.frombuffer(pcm[:whole], "<i2").reshape(-1, WINDOW_SAMPLES)
        await asyncio.sleep(0)  # As with any other detector, something may happen meanwhile.
        return [Heard(1.0 if peak > LOUD else 0.0) for peak in np.abs(windows.astype(int)).max(axis=1)]

    def forget(self) -> None:
        """Begin anew."""
        self._rest = b""


class Answer:
    """One turn in the hands of both workers."""

    def __init__(self, text: LogWriter, speech: LogWriter) -> None:
        self.text = text
        self.speech = speech
        self._chunks = 0
        self._length = 0
        self._samples = 0
        self._tokens = 0

    async def say(self, words: str, frames: int = 1) -> None:
        """One semantic chunk, a token, and its speech."""
        await self.write(words)
        await self.utter(frames)

    async def write(self, words: str) -> None:
        """One token that is a semantic chunk by itself."""
        upto = self._length + len(words)
        semantic = Semantic(words, self._length, upto, "sentence_end")
        self._tokens, self._length = self._tokens + 1, upto
        await self.text.append(Token(words), semantic)

    async def utter(self, frames: int) -> None:
        """The speech of the next chunk."""
        payloads = [Frame(self._chunks, i * FRAME_SAMPLES, i == frames - 1, FRAME) for i in range(frames)]
        self._chunks += 1
        self._samples += frames * FRAME_SAMPLES
        await self.speech.append(*payloads)

    async def end(self) -> None:
        """The reply is whole, and so is its speech."""
        await self.text.append(ReplyEnd("stop", self._tokens, self._chunks))
        await self.speech.append(SpeechEnd("stop", self._samples))


class World:
    """One edge, its Redis, and everything that a test does to them."""

    def __init__(self, services: Services, sessions: Sessions, server: Server, port: int) -> None:
        self.services = services
        self.sessions = sessions
        self.server = server
        self.store = services.store
        self.port = port

    @asynccontextmanager
    async def client(self, encoding: str = "msgpack", **settings: object) -> AsyncIterator[Client]:
        """A client that has been greeted and configured."""
        async with self.socket(encoding) as client:
            await client.greet()
            await client.configure(**settings)
            yield client

    @asynccontextmanager
    async def socket(
        self, encoding: str = "msgpack", *, resumes: bool = False, **options: Any
    ) -> AsyncIterator[Client]:
        """A bare socket."""
        url = f"ws://127.0.0.1:{self.port}/ws?encoding={encoding}" + ("&resume=1" if resumes else "")
        async with connect(url, proxy=None, compression=None, max_size=None, **options) as socket:
            yield Client(socket, encoding)

    async def announce(
        self, role: Trade, *voices: tuple[str, str], name: str = "", engine: str = "test"
    ) -> None:
        """A worker of the role lives from now on, as far as anybody can see."""
        name = name or f"test.{role}"
        said = Announcement(name, role, engine, f"{engine}: the test asks for it", 64, tuple(voices))
        await self.store.call("SET", worker_key(name), said.dump(0), "PX", 600_000)
        await self.store.call("SADD", WORKERS, name)
        await self.services.room.look()

    async def withdraw(self, role: Trade) -> None:
        """The worker dies, and is not believed in any more."""
        await self.store.call("DEL", worker_key(f"test.{role}"))
        with pytest.MonkeyPatch.context() as grace:
            grace.setattr("edge.roster.GRACE_S", -1.0)
            await self.services.room.look()

    async def offered(self, conversation: str, turn: int, role: Role = Role.REPLY) -> bool:
        """Whether the turn was offered to the role."""
        return bool(await self.store.call("HEXISTS", index_key(role), f"{conversation} {turn}"))

    async def answer(self, client: Client, turn: int = 1) -> Answer:
        """Take the turn as both workers do, once it is offered. The work streams are empty afterwards."""
        for role in Role:
            await eventually(partial(self.offered, client.conversation, turn, role), f"offer {turn}")
            await self.store.call("DEL", work_key(role))
        answer = Answer(*(self.writer(client.conversation, log, turn) for log in (Log.TEXT, Log.SPEECH)))
        await answer.text.take("claim")
        await answer.speech.take("claim")
        return answer

    def writer(self, conversation: str, log: Log, turn: int) -> LogWriter:
        """A worker's writer."""
        key = log_key(conversation, log)
        return LogWriter(self.store, key, turn, new_tag(), max_turn_bytes=64 << 20, ttl_s=60, give_up_s=5)

    async def close(self, client: Client, closed: Closed, *logs: Log, turn: int = 1) -> None:
        """Close a turn as a worker does."""
        keys = [log_key(client.conversation, log) for log in logs]
        await close_turn(self.store, keys, turn, new_tag(), closed, ttl_s=60)

    async def log(self, client: Client, log: Log, turn: int | None = None) -> list[Payload]:
        """What stands in a log, or in one turn of it."""
        entries = await self.entries(client, log)
        return [entry.payload for entry in entries if turn in (None, entry.address.turn)]

    async def entries(self, client: Client, log: Log) -> list[Entry]:
        """All entries of a log."""
        return await read_log(self.store, log_key(client.conversation, log), Address(1, 0))

    async def last(self, client: Client, log: Log) -> Payload | None:
        """What the last entry of a log says."""
        entry = await tail(self.store, log_key(client.conversation, log))
        return entry.payload if entry else None

    async def turns_are(self, client: Client, log: Log, turns: set[int]) -> bool:
        """Whether a log holds just these turns."""
        return {entry.address.turn for entry in await self.entries(client, log)} == turns

    async def closed_as(self, client: Client, log: Log, reason: str) -> bool:
        """Whether a log ends in `closed` with this reason."""
        last = await self.last(client, log)
        return isinstance(last, Closed) and last.reason == reason

    async def exists(self, key: str) -> bool:
        """Whether a key is there."""
        return bool(await self.store.call("EXISTS", key))

    async def gone(self, key: str) -> bool:
        """Whether a key is not there."""
        return not await self.exists(key)

    async def keys(self) -> list[str]:
        """Every key of a conversation."""
        return sorted(key.decode() for key in await self.store.call("KEYS", "conv:*"))


@asynccontextmanager
async def running(
    redis_url: str,
    settings: Settings | None = None,
    *,
    workers: bool = True,
    detector: Detector | None = None,
) -> AsyncIterator[World]:
    """An edge that runs, and by default a worker of each role that is announced, and a detector of tests."""
    settings = settings or Settings()
    store = Store(redis_url)
    await store.load()
    services = make_services(settings, store, detector or LoudIsVoice())
    sessions = Sessions(settings.max_conversations)
    server = make_server(services, sessions)
    listening = listen("127.0.0.1", 0)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    await eventually(lambda: server.started, "the edge has started")
    world = World(services, sessions, server, listening.getsockname()[1])
    if workers:
        await world.announce(Role.REPLY)
        await world.announce(Role.SPEAK, ("anna", "en-GB"), ("bruno", "it"))
    try:
        yield world
    finally:
        server.should_exit = True
        await serving
        await store.close()


def kinds(messages: Sequence[Message]) -> list[str]:
    """The types of messages."""
    return [message["type"] for message in messages]
