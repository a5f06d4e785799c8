"""Clients that talk as long as they are let: spoken turns, typed ones, some in one piece, some cut short.

Each has its own proxy before each edge, resumes over all of them, and notes all that it says and is told.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from deploy.cli.client import ConversationLost, ParleyClient
from deploy.cli.link import CannotConnect
from shared.audio import INPUT_RATE, SAMPLE_BYTES
from shared.errors import StoreError
from shared.keys import log_key
from shared.log import read_log
from shared.wire import Address, Chunk, Closed, Entry, Frame, Log, Open, Semantic, Take, Token
from tests.chaos.history import Line, Lost, Read, Sent, now_s, whole
from tests.chaos.payload import INPUT_STEP_MS, piece_of, utterance
from tests.chaos.world import World
from tests.proxy import Proxy
from tests.story import ENDINGS

PATIENCE_S = 90.0
"""How long a turn may take, a fault and all that follows it included."""

CHUNK_MS = 30
AGAIN_S = 1.0
REFUSALS = frozenset({"busy", "overloaded"})


@dataclass(frozen=True, slots=True)
class Plan:
    """What one turn is to be. `pace`: how much faster than real time it is spoken. `cut_at`: after so many
    messages of its answer the next turn begins, or, with `stops`, the user asks for silence."""

    kind: str = "spoken"
    duration_ms: int = 600
    pace: float = 4.0
    text: str = ""
    cut_at: int | None = None
    stops: bool = False

    @classmethod
    def random(cls, rng: random.Random, number: int) -> Plan:
        """Mostly spoken; one in six is cut short."""
        cut_at = rng.randrange(1, 60) if rng.random() < 1 / 6 else None
        return cls(
            kind=rng.choices(["spoken", "typed", "batch"], [60, 25, 15])[0],
            duration_ms=rng.randrange(10, 80) * INPUT_STEP_MS,
            pace=rng.choice([1.0, 4.0]),
            text=f"This is what was typed as number {number}.",
            cut_at=cut_at,
            stops=rng.random() < 0.5,
        )


class Speaker:
    """One conversation. An async context manager; `say` is a turn of it."""

    def __init__(self, world: World, **settings: object) -> None:
        self.name = f"client-{next(world.numbers)}"
        self.turn = 0
        self.settled = asyncio.Event()
        """Set between turns."""
        self.proxies: dict[str, Proxy] = {}
        """Before each edge, by the edge's own URL."""
        self._world = world
        self._settings = {"input_format": "pcm16", "output_format": "pcm16", **settings}
        self._news = asyncio.Condition()
        self._ended: set[int] = set()
        self._messages: dict[int, int] = {}
        self._refused = False
        self._named = ""
        self._lost: Exception | None = None
        self._spoilt = False
        self._client: ParleyClient
        self._stack: AsyncExitStack
        self.settled.set()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for edge in self._world.of("edge"):
                url = self._world.stack.url(edge)
                self.proxies[url] = await stack.enter_async_context(Proxy(url))
            urls = [_ws(proxy) for proxy in self.proxies.values()]
            random.Random(self.name).shuffle(urls)
            self._client = ParleyClient(urls, on_receive=self._receive)
            await stack.enter_async_context(self._client)
            await self._client.configure(**self._settings)
            self._stack = stack.pop_all()
        self._listening = asyncio.create_task(self._listen(), name=self.name)
        self._known()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.read_logs(1)
        self._listening.cancel()
        await asyncio.wait([self._listening])
        await self._stack.aclose()
        for conversation in [name for name, each in self._world.speakers.items() if each is self]:
            await self._world.places.leave(conversation)
            del self._world.speakers[conversation]

    @property
    def conversation(self) -> str:
        """The conversation's id."""
        return self._client.conversation_id

    @property
    def edge_url(self) -> str | None:
        """The edge that holds the conversation now."""
        return next((url for url, proxy in self.proxies.items() if self._client.url == _ws(proxy)), None)

    def lost(self) -> bool:
        """Whether the conversation cannot go on."""
        return self._lost is not None or self._spoilt

    # ---- turns

    async def say(self, plan: Plan) -> None:
        """A turn, from its first word until it has ended, or was cut short."""
        self.turn += 1
        self.settled.clear()
        try:
            await self._until_begun(plan)
            if plan.cut_at is not None and plan.kind != "batch":
                await self._wait(lambda: self._messages.get(self.turn, 0) >= (plan.cut_at or 0))
                if not plan.stops:
                    return  # The next one cuts it off.
                await self._stop()
            await self._wait(lambda: False)
        finally:
            self.settled.set()
            await self.read_logs(max(1, self.turn - 1))

    async def finish(self) -> None:
        """Hear out what was cut short by nobody."""
        if self.turn and not self.lost():
            await self._wait(lambda: False)

    async def _until_begun(self, plan: Plan) -> None:
        """Say it, and again as long as it is refused at once."""
        while not self.lost():
            self._refused = False
            await self._utter(plan)
            await self._wait(lambda: self._refused or self._messages.get(self.turn, 0) > 0)
            if not self._refused or self._messages.get(self.turn, 0):
                return
            await asyncio.sleep(AGAIN_S)

    async def _utter(self, plan: Plan) -> None:
        if plan.kind == "typed":
            self._note(plan.text)
            return await self._client.send_text(plan.text)
        pcm = utterance(self.name, self.turn, plan.duration_ms)
        if plan.kind == "batch":
            self._note(pcm)
            return await self._client.send_audio(pcm, ends=True, streaming=False)
        step = CHUNK_MS * INPUT_RATE * SAMPLE_BYTES // 1000
        for start in range(0, len(pcm), step):
            if self.turn in self._ended:
                self._spoilt = True  # What is on its way already begins a turn that nobody meant.
                return
            piece, ends = pcm[start : start + step], start + step >= len(pcm)
            amount = len(piece) // SAMPLE_BYTES
            self._world.history.add(Sent(now_s(), self.conversation, self.name, self.turn, "audio", amount))
            if ends:
                self._note(pcm)
            await self._client.send_audio(piece, ends=ends)
            await asyncio.sleep(CHUNK_MS / 1000 / plan.pace)

    def _note(self, said: bytes | str) -> None:
        kind = "text" if isinstance(said, str) else "end"
        self._world.history.add(whole(now_s(), self.conversation, self.name, self.turn, kind, said))

    async def _stop(self) -> None:
        if self.turn not in self._ended:
            sent = Sent(now_s(), self.conversation, self.name, self.turn, "interrupt")
            self._world.history.add(sent)
            await self._client.interrupt()

    async def _wait(self, holds: Any) -> None:
        """Wait until it holds, the turn has ended, or nothing more is to be hoped for."""
        try:
            async with asyncio.timeout(PATIENCE_S), self._news:
                await self._news.wait_for(lambda: holds() or self.turn in self._ended or self.lost())
        except TimeoutError:
            self._lost = ConversationLost(f"turn {self.turn} takes too long")
            self._world.history.add(Lost(now_s(), self.conversation, str(self._lost)))

    # ---- what comes

    async def _listen(self) -> None:
        try:
            async for message in self._client:
                await self._hear(message)
        except (ConversationLost, CannotConnect) as error:
            self._world.history.add(Lost(now_s(), self.conversation, str(error)))
            self._lost = error
        async with self._news:
            self._news.notify_all()

    async def _hear(self, message: Mapping[str, Any]) -> None:
        kind, turn = message["type"], message.get("turn")
        if kind == "error" and turn is None and message["code"] in REFUSALS:
            self._refused = True
        elif turn is not None:
            if kind in ENDINGS or kind == "error":
                self._ended.add(turn)
            if kind not in ("speech_started", "speech_stopped", "audio_ack"):
                self._messages[turn] = self._messages.get(turn, 0) + 1
        async with self._news:
            self._news.notify_all()

    def _receive(self, message: Mapping[str, Any], at_s: float) -> None:
        self._known()
        self._world.history.received(self.conversation, message, at_s)

    def _known(self) -> None:
        """Another conversation begins where one was lost before its first turn."""
        if self.conversation and self.conversation not in self._world.speakers:
            if self._named:
                self._world.history.rename(self._named, self.conversation)
            self._named = self.conversation
            self._world.speakers[self.conversation] = self
            self._world.places.follow(self.conversation)

    # ---- what stands in the logs

    async def read_logs(self, first: int) -> None:
        """Note what stands in the logs from a turn on."""
        for log in Log:
            try:
                key = log_key(self.conversation, log)
                entries = await read_log(self._world.store, key, Address(first, 0))
            except StoreError:
                continue  # Redis is away: the next turn, or the end, reads them again.
            turns: dict[int, list[Line]] = {}
            for entry in entries:
                turns.setdefault(entry.address.turn, []).append(line_of(entry))
            for turn, lines in turns.items():
                self._world.history.add(Read(now_s(), self.conversation, log, turn, tuple(lines)))


def _ws(proxy: Proxy) -> str:
    """The URL of an edge behind a proxy."""
    return f"ws://127.0.0.1:{proxy.port}/ws"


def line_of(entry: Entry) -> Line:
    """An entry, as the history has it."""
    payload = entry.payload
    line = Line(entry.address.seq, entry.writer, payload.kind)
    match payload:
        case Token(text=text) | Semantic(text=text):
            return Line(line.seq, line.writer, line.kind, text)
        case Open(text=typed):
            return Line(line.seq, line.writer, line.kind, typed)
        case Chunk(pcm=pcm) | Frame(pcm=pcm):
            return Line(line.seq, line.writer, line.kind, piece=piece_of(pcm))
        case Take(worker=worker):
            return Line(line.seq, line.writer, line.kind, reason=worker)
        case Closed(reason=reason):
            return Line(line.seq, line.writer, line.kind, reason=reason)
    return line


async def converse(world: World, over: asyncio.Event, rng: random.Random) -> None:
    """One conversation after another, of a few turns each, until it is over."""
    while not over.is_set():
        try:
            async with Speaker(world, pacing=rng.choice(["realtime", "none"])) as speaker:
                for number in range(rng.randrange(3, 9)):
                    if over.is_set() or speaker.lost():
                        break
                    await speaker.say(Plan.random(rng, number))
                await speaker.finish()
        except CannotConnect:
            await asyncio.sleep(AGAIN_S)  # Nobody lets it in at the moment: it has not begun.
