"""What can be broken, one row each: how, where, for how long, and what it may cost.

A fault is a context manager: it is there inside of the block. Nothing that was accepted may be lost by any of
them; where `fails` is set, a turn may end by an explicit error instead.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from shared.wire import Log
from tests.chaos import outages
from tests.chaos.bait import HANG
from tests.chaos.checker import POISON
from tests.chaos.drive import Plan, Speaker
from tests.chaos.places import Place
from tests.chaos.world import LEASE_S, SESSION_LEASE_S, World
from tests.proxy import Proxy

Break = Callable[[World, Place | None], AbstractAsyncContextManager[None]]

HOUR_S = 3600.0
FROZEN_S = 10.0
HANDSHAKES = 50

HEARING, ANSWERING = (Log.AUDIO,), (Log.TEXT, Log.SPEECH)
ANYWHERE = (*HEARING, *ANSWERING)


@dataclass(frozen=True, slots=True)
class Fault:
    """`logs`: where it may strike. `hold_s`: how long it stays. `fails`: turns may end by an error."""

    name: str
    break_: Break
    logs: tuple[Log, ...] = ANYWHERE
    hold_s: float = 0.0
    fails: bool = False


@asynccontextmanager
async def killed(world: World, place: Place | None, *roles: str) -> AsyncIterator[None]:
    """`kill -9` of whoever has the turn."""
    for process in [world.at(place, role) for role in roles]:
        world.kill(process)
    yield


@asynccontextmanager
async def killed_with_redis(world: World, place: Place | None, role: str) -> AsyncIterator[None]:
    """A writer and Redis die together."""
    world.kill(world.at(place, role))
    async with outages.tail_lost(world, place):
        yield


@asynccontextmanager
async def drained(world: World, place: Place | None, role: str) -> AsyncIterator[None]:
    """SIGTERM, as at a rolling restart."""
    world.kill(world.at(place, role), signal.SIGTERM)
    yield


@asynccontextmanager
async def stopped(world: World, place: Place | None, *roles: str) -> AsyncIterator[None]:
    """SIGSTOP, and SIGCONT: whoever has the turn does not know that it was away."""
    processes = [world.at(place, role) for role in roles]
    for process in processes:
        process.signal(signal.SIGSTOP)
    yield
    for process in processes:
        process.signal(signal.SIGCONT)


@asynccontextmanager
async def skewed(world: World, place: Place | None, role: str, wrong_s: float) -> AsyncIterator[None]:
    """The wall clock of a process jumps, and jumps back."""
    process = world.at(place, role)
    world.set_clock(process, wrong_s)
    yield
    world.set_clock(process, 0.0)


@asynccontextmanager
async def reply_lost(world: World, place: Place | None) -> AsyncIterator[None]:
    """The reply to an append is lost, and its connection with it."""
    role = {Log.AUDIO: "edge", Log.TEXT: "llm", Log.SPEECH: "tts"}[place.log if place else Log.TEXT]
    world.proxies[role].lose_reply_to(b"parley_append_2")
    yield


@asynccontextmanager
async def half_open(world: World, place: Place | None) -> AsyncIterator[None]:
    """The connection of a client to its edge carries nothing any more, and nobody is told."""
    proxy = _before_edge(world, place)
    proxy.freeze()
    yield
    proxy.release()


@asynccontextmanager
async def not_reading(world: World, place: Place | None) -> AsyncIterator[None]:
    """A client sends, and reads nothing."""
    proxy = _before_edge(world, place)
    proxy.hold_replies()
    yield
    proxy.release()


def _before_edge(world: World, place: Place | None) -> Proxy:
    """The proxy between one client and the edge that holds its conversation."""
    speakers = list(world.speakers.values())
    speaker = world.speakers.get(place.conversation) if place else None
    speaker = speaker or world.rng.choice(speakers)
    return speaker.proxies[speaker.edge_url or next(iter(speaker.proxies))]


@asynccontextmanager
async def slow_handshakes(world: World, place: Place | None) -> AsyncIterator[None]:
    """Many connect to every edge, begin to ask for a socket, and do not go on."""
    writers = []
    for edge in world.of("edge"):
        for _ in range(HANDSHAKES):
            _, writer = await asyncio.open_connection("127.0.0.1", int(edge.env["PORT"]))
            writer.write(b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgr")
            writers.append(writer)
    yield
    for writer in writers:
        writer.transport.abort()


@asynccontextmanager
async def typed(world: World, place: Place | None, word: str) -> AsyncIterator[None]:
    """Somebody types a word that no LLM worker takes well."""
    deaths = len(world.deaths)
    async with Speaker(world) as speaker:
        await speaker.say(Plan("typed", text=f"And then {word} it."))
        yield
    del world.deaths[deaths:]


ROLES = ("llm", "tts", "edge", "jobs")
LEASES_S = {"llm": LEASE_S, "tts": LEASE_S, "jobs": LEASE_S, "edge": SESSION_LEASE_S}
WHERE = {"llm": (Log.AUDIO, Log.TEXT), "tts": ANSWERING, "edge": ANYWHERE, "jobs": ANYWHERE}


def _of(break_: Callable[..., AbstractAsyncContextManager[None]], *arguments: object) -> Break:
    """A fault with its arguments filled in."""
    return lambda world, place: break_(world, place, *arguments)


FAULTS: dict[str, Fault] = {
    fault.name: fault
    for fault in (
        *(Fault(f"kill-{role}", _of(killed, role), WHERE[role]) for role in ROLES),
        Fault("kill-llm-tts", _of(killed, "llm", "tts"), ANSWERING),
        Fault("kill-edge-llm", _of(killed, "edge", "llm"), WHERE["llm"]),
        *(
            Fault(f"stop-{role}", _of(stopped, role), WHERE[role], hold_s=3 * lease_s)
            for role, lease_s in LEASES_S.items()
        ),
        Fault("stop-llm-tts", _of(stopped, "llm", "tts"), ANSWERING, hold_s=3 * LEASE_S),
        Fault("stop-edge-llm", _of(stopped, "edge", "llm"), WHERE["llm"], hold_s=3 * SESSION_LEASE_S),
        *(Fault(f"drain-{role}", _of(drained, role), WHERE[role]) for role in ROLES),
        Fault("kill-redis", outages.killed),
        Fault("kill-redis-busy-disk", outages.killed_on_a_busy_disk),
        Fault("lose-redis-tail", outages.tail_lost),
        Fault("kill-redis-llm", _of(killed_with_redis, "llm"), WHERE["llm"], fails=True),
        Fault("freeze-redis", outages.frozen, hold_s=FROZEN_S),
        Fault("lose-reply", reply_lost),
        Fault("hang-up", _of(outages.hanging_up, "normal"), hold_s=3.0),
        Fault("hang-up-pushes", _of(outages.hanging_up, "pubsub"), hold_s=3.0),
        Fault("flush-all", _of(outages.told, "FLUSHALL"), fails=True),
        Fault("destroy-groups", outages.groups_destroyed),
        Fault("flush-functions", _of(outages.told, "FUNCTION", "FLUSH")),
        Fault("fill-memory", outages.full, hold_s=3.0, fails=True),
        *(
            Fault(f"clock-{role}", _of(skewed, role, wrong_s), WHERE[role], hold_s=5.0)
            for role, wrong_s in (("llm", HOUR_S), ("tts", -HOUR_S), ("edge", HOUR_S))
        ),
        Fault("half-open", half_open, hold_s=12.0),
        Fault("not-reading", not_reading, hold_s=12.0),
        Fault("slow-handshakes", slow_handshakes, hold_s=3.0),
        Fault("poison", _of(typed, POISON)),
        Fault("hang", _of(typed, HANG)),
    )
}
"""By name."""
