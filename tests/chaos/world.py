"""Everything that can be broken: Redis, the processes on it, and a proxy before each role and each client.

    client ─> proxy ─> edge ┐
                            ├─ proxy of the role ─> Redis
              llm, tts, jobs┘

A process that dies is started again after 0.1 s, as its supervisor would.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import struct
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.embedded import RedisServer, start_server
from shared.reader import Reader
from shared.store import Store
from shared.wire import Log
from tests.chaos.history import History
from tests.chaos.payload import ENV
from tests.chaos.places import Place, Places
from tests.conftest import eventually
from tests.proxy import Proxy
from tests.stack import ROOT, Process, Stack, get, workers

if TYPE_CHECKING:
    from tests.chaos.drive import Speaker

RESTART_S = 0.1
LOOK_S = 0.02
ASK_EACH_S = 0.1
CALM_S = 120.0
"""How long everything may take to be in order again."""

LEASE_S = 2.0
SESSION_LEASE_S = 6.0

COUNTS = {"edge": 2, "llm": 2, "tts": 2, "jobs": 1}
BAITED = {"llm": ("tests.chaos.bait",)}
LOGS = {"edge": Log.AUDIO, "llm": Log.TEXT, "tts": Log.SPEECH}
"""The log that each role writes."""


class World:
    """Made by `world`. `through`: modules in front of a role's own, by role."""

    def __init__(
        self,
        folder: Path,
        server: RedisServer,
        proxies: Mapping[str, Proxy],
        places: Places,
        store: Store,
        *,
        seed: int,
        through: Mapping[str, Sequence[str]],
    ) -> None:
        self.folder = folder
        self.server = server
        self.proxies = proxies
        self.places = places
        self.store = store
        """Past every proxy."""
        self.rng = random.Random(seed)
        self.history = History()
        self.numbers = count(1)
        """Of speakers."""
        self.speakers: dict[str, Speaker] = {}
        """Who speaks now, by conversation."""
        self.deaths: list[str] = []
        """Processes that ended though nobody killed them."""
        self.stack = Stack(server.url, folder, {**ENV, "LOG_LEVEL": "info", "STALL_S": "3"})
        self._through = through
        self._killed: set[int] = set()

    def start(self, role: str) -> Process:
        """Start one more process of a role."""
        number = len(self.of(role)) + 1
        clock = self.folder / f"clock.{role}.{number}"
        set_clock(clock, 0.0)
        path = os.pathsep.join([str(ROOT / "tests" / "chaos" / "skew"), str(ROOT)])
        env = {"REDIS_URL": self.proxies[role].url, "CHAOS_CLOCK": str(clock), "PYTHONPATH": path}
        return self.stack.start(role, through=self._through.get(role, ()), **env)

    def set_clock(self, process: Process, wrong_s: float) -> None:
        """Let the wall clock of a process be wrong by so much."""
        set_clock(Path(process.env["CHAOS_CLOCK"]), wrong_s)

    def of(self, role: str) -> list[Process]:
        """The processes of a role."""
        return [process for process in self.stack.processes if process.role == role]

    def at(self, place: Place | None, role: str) -> Process:
        """The process of a role that has the turn at this place; any one where nobody has it."""
        candidates = self.of(role)
        if place is not None and role == "edge" and place.conversation in self.speakers:
            url = self.speakers[place.conversation].edge_url
            candidates = [each for each in candidates if self.stack.url(each) == url] or candidates
        elif place is not None and role in LOGS:
            name = self.places.takers.get((place.conversation, LOGS[role]))
            candidates = [each for each in candidates if each.env["WORKER_NAME"] == name] or candidates
        return self.rng.choice(candidates)

    def kill(self, process: Process, number: signal.Signals = signal.SIGKILL) -> None:
        """End a process on purpose; it is started again."""
        self._killed.add(process.pid)
        process.signal(number)

    async def supervise(self) -> None:
        """Start again what has died, for ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            for process in [each for each in self.stack.processes if not each.alive]:
                if process.pid not in self._killed:
                    self.deaths.append(process.log.name)
                await asyncio.sleep(RESTART_S)
                self.stack.restart(process)

    async def ready(self) -> None:
        """Wait until every process serves, and every edge sees all workers."""

        async def holds() -> bool:
            await asyncio.sleep(ASK_EACH_S)
            return all([await self._is_ready(edge) for edge in self.of("edge")])

        await eventually(holds, "all processes are ready", CALM_S)

    async def _is_ready(self, edge: Process) -> bool:
        status, body = await asyncio.to_thread(get, f"http://127.0.0.1:{edge.env['PORT']}/readyz")
        roles = ("llm", "tts", "jobs")
        return status == 200 and all(len(workers(body, role)) >= len(self.of(role)) for role in roles)

    async def kill_redis(self) -> None:
        """`kill -9`; it stays dead until `restart_redis`."""
        self.server.kill()

    async def restart_redis(self) -> None:
        """Start it again, and wait until it has loaded its data."""
        self.server.launch()
        await eventually(self.server.is_ready, "Redis is up again", CALM_S)


def set_clock(clock: Path, wrong_s: float) -> None:
    """Let the clock of a process be wrong by so much. It has the file mapped, so it is written in place."""
    data = struct.pack("d", wrong_s)
    if not clock.exists():
        clock.write_bytes(data)
    with clock.open("r+b") as file:
        file.write(data)


@asynccontextmanager
async def world(
    seed: int, *, counts: Mapping[str, int] = COUNTS, through: Mapping[str, Sequence[str]] = BAITED
) -> AsyncIterator[World]:
    """Everything, up and ready; it ends with the block."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        server = start_server(folder / "redis")
        stack.callback(server.stop)
        proxies = {role: await stack.enter_async_context(Proxy(server.url)) for role in counts}
        store = Store(server.url)
        stack.push_async_callback(store.close)
        reader = Reader(store)
        tasks = [asyncio.create_task(reader.run(), name="reader")]
        made = World(folder, server, proxies, Places(reader), store, seed=seed, through=through)
        stack.callback(made.stack.stop)
        for role, count in counts.items():
            for _ in range(count):
                made.start(role)
        tasks.append(asyncio.create_task(made.supervise(), name="supervise"))
        try:
            await made.ready()
            yield made
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
