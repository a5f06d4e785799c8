"""A rolling restart: each process in turn is asked to stop and started again, and no conversation notices."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from shared.store import Store
from tests.conftest import eventually
from tests.pipeline.conftest import REPLY, TURN_S, Stacks, Witness, witness
from tests.pipeline.test_batch import check_speech
from tests.stack import Process, Stack, get, workers
from tests.story import Message, check_whole, heard

COUNTS = {"llm": 2, "tts": 2, "jobs": 1}
EDGES = 2

UTTERANCE = bytes(9600)
PIECE_BYTES = 960
PACE_S = 0.01
"""What lies between two pieces, of 30 ms each."""

MS_PER_CHAR = 10.0
"""An answer lasts a second: there is always one under way, and nobody waits long for the next."""

LOOK_S = 0.02


async def speak(w: Witness) -> None:
    """An utterance in pieces, so that an edge may be asked to stop in the midst of it."""
    for start in range(0, len(UTTERANCE), PIECE_BYTES):
        ends = start + PIECE_BYTES >= len(UTTERANCE)
        await w.client.send_audio(UTTERANCE[start : start + PIECE_BYTES], ends=ends)
        await asyncio.sleep(PACE_S)


async def write(w: Witness) -> None:
    """A typed turn."""
    await w.client.send_text("What was typed.")


async def order(w: Witness) -> None:
    """A turn that is answered in one piece."""
    await w.client.send_audio(UTTERANCE, ends=True, streaming=False)


Ask = Callable[[Witness], Awaitable[None]]
ASKS: Sequence[tuple[Ask, str]] = ((speak, "none"), (speak, "realtime"), (write, "none"), (order, "none"))
"""What each client asks in all of its turns, and its pacing."""


class Talker:
    """A client that asks again as soon as it is answered. `turns` have ended, each of them whole."""

    def __init__(self, w: Witness, ask: Ask, store: Store) -> None:
        self.w = w
        self.turns = 0
        self._ask = ask
        self._store = store

    async def talk(self) -> None:
        """For ever. Fails with the first turn that is not whole."""
        for turn in itertools.count(1):
            await self._ask(self.w)
            end = await self.w.end_of(turn)
            if self._ask is order:
                await check_speech(self._store, self.w, end, MS_PER_CHAR)
            self._check(turn, end)
            self.turns = turn

    def _check(self, turn: int, end: Message) -> None:
        errors = [message for message in self.w.messages if message["type"] == "error"]
        assert not errors, errors
        told = heard(self.w.messages)
        assert set(told) == set(range(1, turn + 1))
        if self._ask is not order:
            check_whole(self.w.conversation, told[turn], REPLY, MS_PER_CHAR)


@dataclass(frozen=True, slots=True)
class Said:
    """What an edge answered: 0 where nobody did. `restarting`: it was stopped, and not up again yet."""

    path: str
    status: int
    body: bytes
    restarting: bool


class Watch:
    """What an edge says of itself, asked for again and again."""

    def __init__(self, edge: Process) -> None:
        self.said: list[Said] = []
        self.restarting = False
        self._url = f"http://127.0.0.1:{edge.env['PORT']}"

    async def run(self) -> None:
        """For ever."""
        while True:
            for path in ("/healthz", "/readyz"):
                before = self.restarting
                status, body = await asyncio.to_thread(get, self._url + path)
                self.said.append(Said(path, status, body, before or self.restarting))
            await asyncio.sleep(LOOK_S)

    def check(self) -> None:
        """It was healthy whenever it answered, and ready all the time but for its own restart."""
        assert self.said
        for said in self.said:
            if not said.restarting:
                assert said.status == 200, said
            elif said.path == "/healthz":
                assert said.status in (0, 200), said


@asynccontextmanager
async def talking(urls: Sequence[str], store: Store) -> AsyncIterator[list[Talker]]:
    """A client for each of `ASKS`, every second one at the other edge first. Their failures end the block."""
    async with AsyncExitStack() as stack:
        talkers = []
        for number, (ask, pacing) in enumerate(ASKS):
            first = number % len(urls)
            w = await stack.enter_async_context(witness([*urls[first:], *urls[:first]], pacing=pacing))
            talkers.append(Talker(w, ask, store))
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(each.talk(), name=f"talk-{n}") for n, each in enumerate(talkers)]
            yield talkers
            for each in running:
                each.cancel()


async def restart(stack: Stack, process: Process) -> None:
    """SIGTERM, its end and its next life: every edge has seen both."""
    process.signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait) == 0
    others = COUNTS.get(process.role, 0) - 1
    if others > 0:  # The only one of a role is believed in for a while.
        await eventually(lambda: seen(stack, process.role, others), "it is seen to be gone")
    stack.restart(process)
    for edge in edges_of(stack):
        await stack.ready(edge, **COUNTS)


async def seen(stack: Stack, role: str, count: int) -> bool:
    """Whether every edge sees so many workers of a role."""
    urls = [f"http://127.0.0.1:{edge.env['PORT']}/readyz" for edge in edges_of(stack)]
    bodies = [(await asyncio.to_thread(get, url))[1] for url in urls]
    return all(len(workers(body, role)) == count for body in bodies)


def edges_of(stack: Stack) -> list[Process]:
    """The edges that run."""
    return [process for process in stack.processes if process.role == "edge"]


async def test_a_rolling_restart_under_load_costs_no_turn_and_no_edge_its_balancer(
    stacks: Stacks, store: Store
) -> None:
    stack = stacks(SCRIPT_MS_PER_CHAR=str(MS_PER_CHAR))
    edges = [stack.start("edge") for _ in range(EDGES)]
    others = [stack.start(role) for role, count in COUNTS.items() for _ in range(count)]
    for edge in edges:
        await stack.ready(edge, **COUNTS)
    watches = [Watch(edge) for edge in edges]
    watching = [asyncio.create_task(watch.run()) for watch in watches]
    try:
        async with talking([stack.url(edge) for edge in edges], store) as talkers:

            async def all_go_on() -> None:
                before = [talker.turns for talker in talkers]
                await eventually(
                    lambda: all(t.turns > n for t, n in zip(talkers, before, strict=True)), "answers", TURN_S
                )

            await all_go_on()
            for worker in others:
                await restart(stack, worker)
                await all_go_on()
            for edge, watch in zip(edges, watches, strict=True):
                watch.restarting = True
                await restart(stack, edge)
                watch.restarting = False
                await all_go_on()
    finally:
        for each in watching:
            each.cancel()
        await asyncio.wait(watching)
    for watch in watches:
        watch.check()
    assert all(talker.w.client.resumes for talker in talkers)
