"""A small server that speaks enough of the protocol to lose a client in any place, and to take it back.

Several edges share one `World`, as real ones share a Redis. It answers every turn with the same words. Where
it finds the utterances itself, every sound is a voice, and 100 ms of nothing end what it says.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgpack
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from edge.protocols import messages
from edge.protocols.encoding import Encoding, encode
from shared.errors import ClientError
from shared.wire import Address, Log

Message = dict[str, Any]

NAME = "4f1c9a0be27d6358"
WORDS = ("I", " heard", " you", ".")
FRAMES = 6
HEARD_MS = 250.0
SILENCE_SAMPLES = 1600
PADDING_SAMPLES = 800
"""What may become part of an utterance that has not begun."""


@dataclass
class World:
    """The one conversation, as the logs would hold it. `cuts`: after how many messages to drop the socket."""

    cuts: list[int] = field(default_factory=list)
    deaf_cuts: list[int] = field(default_factory=list)
    """After how many messages of the client to drop its socket, before the last of them is taken."""
    known: bool = True
    token: str = "token-0"
    old_token: str | None = None
    tokens_shown: list[str] = field(default_factory=list)
    turns: list[str | bytearray] = field(default_factory=list)
    hearing: bool = False
    position: int = 0
    told: list[Message] = field(default_factory=list)
    settings: list[Message] = field(default_factory=list)
    goodbyes: int = 0
    sockets: int = 0
    leaving: bool = False
    """The edges say that they go away, once."""
    closed: bool = False
    """No socket is let in."""
    refused_with: ClientError | None = None
    """What is said to every socket in place of letting it in."""
    asked_for: list[str] = field(default_factory=list)
    """The path and query of every handshake."""
    refusal: ClientError | None = None
    """What every turn is refused with."""
    forgets: bool = False
    """The conversation is gone as soon as its socket is."""
    silent: bool = False
    """Nothing is answered."""
    unfinished: set[int] = field(default_factory=set)
    """Turns whose answers do not end before somebody speaks over them."""
    broken: set[int] = field(default_factory=set)
    """Turns that end in an error of the edge's own, which stands in no log."""
    batch: set[int] = field(default_factory=set)
    """Turns that were asked for in one piece."""
    late_by: int = 0
    """How many slices of an endless input it takes in before it listens to the first."""
    grumbles: bool = False
    """To each slice of an endless input it says an error, and nothing else."""
    no_jobs: ClientError | None = None
    """What those are refused with."""
    reports: list[Message] = field(default_factory=list)
    max_utterance_s: float = 60.0
    keys: list[str] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def heard(self) -> list[str | bytes]:
        """What was said to it, turn by turn."""
        return [turn if isinstance(turn, str) else bytes(turn) for turn in self.turns]

    @property
    def vad(self) -> bool:
        """Whether it finds the utterances itself."""
        wished = [each["turn_detection"] for each in self.settings if each.get("turn_detection")]
        return bool(wished) and wished[-1] not in ("none", {"type": "none"})

    def wake(self) -> None:
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    def answer(self) -> None:
        """Write the whole answer of the newest turn."""
        if self.silent:
            return
        turn = len(self.turns)
        if turn in self.batch:
            self._answer_at_once(turn)
            return
        for seq, word in enumerate(WORDS):
            self.told.append(
                messages.token_chunk(
                    turn,
                    word,
                    chunk_sequence=seq,
                    inter_token_latency_ms=None,
                    timestamp=0.0,
                    address=messages.place(Log.TEXT, Address(turn, seq)),
                )
            )
        for seq in range(FRAMES):
            self.told.append(
                messages.sequential_audio(
                    turn,
                    bytes([turn, seq]) * 2400,
                    sample_rate=24_000,
                    chunk_index=0,
                    frame_index=seq,
                    voice="fake",
                    duration_ms=100.0,
                    format="pcm16",
                    timestamp=0.0,
                    address=messages.place(Log.SPEECH, Address(turn, seq)),
                )
            )
        if turn in self.broken:
            lost = ClientError("engine_failed", "a part of the answer was lost", retryable=True)
            self.told.append(messages.error(lost, turn=turn))
        if turn in self.unfinished | self.broken:
            self.wake()
            return
        self.told.append(
            messages.chunked_streaming_complete(
                turn,
                chunk_id=None,
                response_text="".join(WORDS),
                total_tokens=len(WORDS),
                total_words=3,
                total_chunks=1,
                total_time_ms=90.0,
                first_token_latency_ms=10.0,
                first_word_latency_ms=20.0,
                first_audio_latency_ms=40.0,
                inter_token_latency_ms=1.0,
                audio_duration_ms=FRAMES * 100.0,
                address=messages.place(Log.SPEECH, Address(turn, FRAMES)),
            )
        )
        self.wake()

    def begin(self) -> int:
        """A turn begins; what is being said is spoken over."""
        self.turns.append(bytearray())
        self.hearing = True
        before = len(self.turns) - 1
        if before in self.unfinished:
            self.told.append(
                messages.audio_interrupted(
                    before,
                    chunk_id=None,
                    heard_ms=HEARD_MS,
                    heard_text="".join(WORDS[:2]),
                    cleared_frames=FRAMES,
                    reason="barge_in",
                    address=messages.place(Log.SPEECH, Address(before, FRAMES)),
                )
            )
            self.wake()
        return len(self.turns)

    def _answer_at_once(self, turn: int) -> None:
        self.told.append(
            messages.audio_response(
                turn,
                "".join(WORDS),
                b"".join(bytes([turn, seq]) * 2400 for seq in range(FRAMES)),
                chunk_id=None,
                sample_rate=24_000,
                voice="fake",
                format="pcm16",
                processing_time_ms=90.0,
                audio_duration_ms=FRAMES * 100.0,
                address=messages.place(Log.SPEECH, Address(turn, FRAMES)),
            )
        )
        self.wake()


class Session:
    """One socket of one edge."""

    def __init__(self, world: World, socket: ServerConnection) -> None:
        self.world = world
        self.socket = socket
        self.sent = 0
        self.taken = 0
        self.cut_after = world.cuts.pop(0) if world.cuts else None
        self.deaf_after = world.deaf_cuts.pop(0) if world.deaf_cuts else None
        self.after: dict[str, Address] = {}
        self.may_repeat_end = False
        self.place = world.position
        """Up to where the input came; what the log has not is in this session's hands only."""
        self.withheld = b""
        self.unheard: list[tuple[int, bytes]] = []
        self.passed_over = False
        """The utterance that is being said was refused."""
        request = socket.request
        assert request is not None
        self.encoding = Encoding.MSGPACK if "encoding=msgpack" in request.path else Encoding.JSON
        world.keys += request.headers.get_all("Authorization")

    async def run(self) -> None:
        world = self.world
        fresh = world.sockets == 0
        world.sockets += 1
        await self.send(messages.connection(NAME, world.token if fresh else "another", config(world)))
        telling: asyncio.Task[None] | None = None
        try:
            async for data in self.socket:
                message = decode(data)
                self.taken += 1
                if self.deaf_after is not None and self.taken >= self.deaf_after:
                    self.socket.transport.abort()
                    break
                if message["type"] == "resume" and not await self.resume(message):
                    continue
                if telling is None:
                    telling = asyncio.create_task(self.tell())
                await self.take(message)
        finally:
            world.known = world.known and not world.forgets
            if telling is not None:
                telling.cancel()
                await asyncio.wait([telling])

    async def send(self, message: Message) -> None:
        if self.cut_after is not None and self.sent >= self.cut_after:
            self.socket.transport.abort()
            raise ConnectionClosed(None, None)
        self.sent += 1
        await self.socket.send(encode(message, self.encoding))

    async def tell(self) -> None:
        """Send the story from where the client is."""
        place = 0
        while True:
            changed = self.world.changed
            if self.world.leaving:
                self.world.leaving = False
                await self.send(messages.going_away(5000.0))
            while place < len(self.world.told):
                message, place = self.world.told[place], place + 1
                log, _, address = message.get("address", "").partition(":")
                if not address or Address.parse(address) > self.after.get(log, Address(0, 0)):
                    try:
                        await self.send(message)
                    except ConnectionClosed:
                        return
            await changed.wait()

    async def resume(self, message: Message) -> bool:
        world = self.world
        world.tokens_shown.append(message["resume_token"])
        if not world.known or message["resume_token"] not in (world.token, world.old_token):
            await self.send(messages.error(ClientError("not_found", "no such conversation")))
            return False
        world.token, world.old_token = f"token-{world.sockets}", message["resume_token"]
        self.after = {log: Address.parse(place) for log, place in message["after"].items()}
        self.may_repeat_end = True
        self.place = world.position
        await self.send(messages.resumed(NAME, world.token, len(world.turns), world.position))
        return True

    async def take(self, message: Message) -> None:
        world = self.world
        match message["type"]:
            case "configure":
                world.settings.append(message)
                await self.send(messages.configured({}))
            case "audio_chunk":
                await self.audio(message)
            case "end_of_utterance" if world.hearing:
                await self.end()
            case "end_of_utterance" if self.may_repeat_end:
                self.may_repeat_end = False
            case "text":
                world.turns.append(message["text"])
                world.answer()
            case "ping":
                world.old_token = None
                await self.send(messages.pong())
            case "bye":
                world.goodbyes += 1
                await self.socket.close()
            case "playback":
                world.reports.append(message)
            case "resume":
                pass
            case kind:
                await self.send(messages.error(ClientError("wrong_state", f"not now: {kind}")))

    async def audio(self, message: Message) -> None:
        world = self.world
        offset, data = message["offset_samples"], message["audio_data"]
        if world.vad:
            self.unheard.append((offset, data))
            while len(self.unheard) > world.late_by:
                await self.listen(*self.unheard.pop(0))
            return
        batch = message.get("mode") == "conversation"
        refusal = world.no_jobs if batch and world.no_jobs else world.refusal
        if refusal is not None:
            await self.send(messages.error(refusal))
            return
        if not world.hearing:
            turn = world.begin()
            world.batch |= {turn} if batch else set()
            await self.send(messages.speech_started(turn, world.position / 16, "client"))
        utterance = world.turns[-1]
        assert isinstance(utterance, bytearray)
        assert offset <= world.position, "samples are missing"
        utterance += data[(world.position - offset) * 2 :]
        world.position = max(world.position, offset + len(data) // 2)
        await self.send(messages.audio_ack(len(world.turns), world.position))
        if message["end_of_utterance"]:
            await self.end()

    async def listen(self, offset: int, data: bytes) -> None:
        """A slice of an endless input, in which this edge finds the utterances."""
        world = self.world
        assert offset <= self.place or not world.hearing, "samples of an utterance are missing"
        if world.grumbles:
            await self.send(messages.error(ClientError("bad_audio", "what is this?")))
            return
        data = data[max(0, self.place - offset) * 2 :]
        if not data:
            return
        self.place = max(self.place, offset) + len(data) // 2
        if any(data) and not world.hearing and world.refusal is not None:
            if not self.passed_over:
                self.passed_over = True
                await self.send(messages.error(world.refusal))
        elif any(data):
            if not world.hearing:
                turn = world.begin()
                self.withheld = b""
                start = self.place - len(data) // 2
                await self.send(messages.speech_started(turn, start / 16, "server_vad"))
            utterance = world.turns[-1]
            assert isinstance(utterance, bytearray)
            utterance += self.withheld + data
            self.withheld = b""
            world.position = self.place
        elif world.hearing:
            self.withheld += data
            if len(self.withheld) >= 2 * SILENCE_SAMPLES:
                await self.end("silence")
        else:
            self.passed_over = False
        upto = world.position if world.hearing else max(world.position, self.place - PADDING_SAMPLES)
        await self.send(messages.audio_ack(len(world.turns), upto))

    async def end(self, reason: str = "client") -> None:
        world = self.world
        world.hearing = False
        world.answer()
        await self.send(messages.speech_stopped(len(world.turns), world.position / 16, reason))


def decode(data: str | bytes) -> Message:
    """A message of the client, its audio as bytes."""
    if isinstance(data, bytes):
        message: Message = msgpack.unpackb(data)
        return message
    message = json.loads(data)
    if "audio_data" in message:
        message["audio_data"] = base64.b64decode(message["audio_data"])
    return message


def config(world: World) -> Message:
    """A `server_config`."""
    return messages.server_config(
        sample_rate=16_000,
        output_sample_rate=24_000,
        frame_ms=100,
        streaming_mode="chunked_streaming",
        turn_detection=["none", "server_vad"],
        engines={"llm": "fake", "tts": "fake"},
        voices=["fake"],
        limits={"resume_window_s": 10.0, "max_utterance_s": world.max_utterance_s},
        version="0",
    )


@asynccontextmanager
async def serving(world: World | Callable[[], World]) -> AsyncIterator[str]:
    """An edge of that world, or of a new one for each socket, on a free port: its URL."""

    async def serve_one(socket: ServerConnection) -> None:
        try:
            await Session(world if isinstance(world, World) else world(), socket).run()
        except ConnectionClosed:
            return

    def admit(socket: ServerConnection, request: Request) -> Response | None:
        if not isinstance(world, World):
            return None
        world.asked_for.append(request.path)
        if world.refused_with is not None:
            status = 401 if world.refused_with.code == "unauthorized" else 503
            return socket.respond(status, json.dumps(messages.error(world.refused_with)))
        return socket.respond(503, "this edge is stopping") if world.closed else None

    async with serve(
        serve_one, "127.0.0.1", 0, process_request=admit, compression=None, close_timeout=0.1
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"ws://127.0.0.1:{port}/ws"
