"""What the fuzz tests share: an edge and both workers in this process, and what must be so when all is over.

hypothesis calls its tests one after the other and waits for none, so the event loop stands still between two
calls of `Bed.run`; the tests and all that they talk to share one loop.
"""

from __future__ import annotations

import asyncio
import gc
import os
import re
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from edge.session import Session
from shared.settings import Settings
from shared.store import Store
from tests.conftest import eventually
from tests.edge.world import World, running
from workers.llm.engines.scripted import Scripted as ScriptedLM
from workers.llm.handler import ReplyHandler
from workers.stage import Stage
from workers.tts.engines.scripted import Scripted as ScriptedVoice
from workers.tts.handler import SpeechHandler

T = TypeVar("T")

UNTIMED = re.compile(r"work:(reply|speak):0|\{work:(reply|speak):0\}:index|workers|rq:queues|rq:queue:batch")
"""Keys that live without a TTL; `shared.keys` names the bound of each."""


class Bed:
    """An event loop with an edge in it, its workers, and whoever comes to it."""

    def __init__(self, runner: asyncio.Runner, world: World) -> None:
        self.world = world
        self._runner = runner
        self._crew, self._guests = AsyncExitStack(), AsyncExitStack()

    async def open(self) -> None:
        """Wait until the edge's own loops run, and employ a worker of each role."""
        await eventually(lambda: "Reader._keep_alive" in self._tasks(), "entries are pushed")
        self._before = self._tasks()
        await self._crew.enter_async_context(_working(self.world))

    @property
    def url(self) -> str:
        """The edge's WebSocket."""
        return f"ws://127.0.0.1:{self.world.port}/ws"

    def run(self, doing: Coroutine[Any, Any, T]) -> T:
        """Let the loop run until this is done."""
        return self._runner.run(doing)

    def enter(self, context: AbstractAsyncContextManager[T]) -> T:
        """Enter a context, such as a client's, and leave it at the end."""
        return self.run(self._guests.enter_async_context(context))

    async def check(self) -> None:
        """Send everybody away, the workers too: nothing that clients brought with them may be left."""
        await self.close()
        await eventually(lambda: len(self.world.sessions) == 0, "every session is over")
        await eventually(lambda: self._tasks() <= self._before, "no task is left")
        gc.collect()
        # Not by `isinstance`, which asks every object of the process, also those that answer lazily.
        assert not [each for each in gc.get_objects() if type(each) is Session]
        assert await untimed(self.world.store) == []

    async def close(self) -> None:
        """Send everybody away."""
        await self._guests.aclose()
        await self._crew.aclose()

    def _tasks(self) -> Counter[str]:
        """How many tasks run, by what they run; whoever asks is not counted."""
        loop = self._runner.get_loop()
        tasks = asyncio.all_tasks(loop) - {asyncio.current_task(loop)}
        return Counter(task.get_coro().__qualname__ for task in tasks)  # type: ignore[union-attr]


@contextmanager
def bed(redis_url: str, settings: Settings | None = None) -> Iterator[Bed]:
    """An edge and a worker of each role."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()

        async def start() -> Bed:
            made = Bed(runner, await stack.enter_async_context(running(redis_url, settings, workers=False)))
            stack.push_async_callback(made.close)
            await made.open()
            return made

        try:
            yield runner.run(start())
        finally:
            runner.run(stack.aclose())


@asynccontextmanager
async def _working(world: World) -> AsyncIterator[None]:
    """Workers whose engines take next to no time."""
    settings = Settings(
        max_attached=10_000,
        drain_s=1.0,
        script_tokens=("Yes", ".", " No", "."),
        script_first_token_ms=1.0,
        script_inter_token_ms=1.0,
        script_tts_ms=1.0,
    )
    store = Store(world.store.url)
    handlers = (
        ReplyHandler(ScriptedLM(settings), "scripted", settings.history_tokens),
        SpeechHandler(ScriptedVoice(settings), "scripted"),
    )
    stages = [Stage(settings, store, handler, f"test.{handler.role}") for handler in handlers]
    tasks = [asyncio.create_task(stage.run()) for stage in stages]
    room = world.services.room
    await eventually(lambda: room.ready, "the workers are seen")
    try:
        yield
    finally:
        for stage in stages:
            stage.drain()
        await asyncio.gather(*tasks)
        await store.close()


async def untimed(store: Store) -> list[str]:
    """The keys that have neither a TTL (-1; -2 is a key that has just lapsed) nor another bound."""
    keys = sorted(key.decode() for key in await store.call("KEYS", "*"))
    return [key for key in keys if not UNTIMED.fullmatch(key) and await store.call("PTTL", key) == -1]


def resident_bytes() -> int:
    """What this process holds in memory."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
