"""A run: conversations, and one fault after another, each at a random place; then all is checked."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.checker import Violation, check
from tests.chaos.drive import converse
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.history import History, Left, Struck, now_s
from tests.chaos.leftovers import Size, leftovers
from tests.chaos.places import Place
from tests.chaos.world import CALM_S, World, world
from tests.conftest import eventually

SEQS = range(1, 30)
PUT_AWAY_S = 30.0
"""How long it may take in the end until nothing is left."""

REACHED_WITHIN_S = 15.0
"""A fault whose place no turn comes to in time strikes all the same."""

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run. `deaths`: processes that ended though nobody killed them.

    `kept`: where the history of a run that failed is, and what the processes said.
    """

    history: History
    violations: list[Violation]
    deaths: list[str]
    kept: Path | None


def by_count(counts: Mapping[str, int], rng: random.Random) -> Iterator[Fault]:
    """Each fault so many times, in random order."""
    faults = [FAULTS[name] for name, count in counts.items() for _ in range(count)]
    rng.shuffle(faults)
    return iter(faults)


def by_time(duration_s: float, rng: random.Random) -> Iterator[Fault]:
    """All faults in random order, again and again, until the time is up."""
    over_s = time.monotonic() + duration_s
    while True:
        faults = list(FAULTS.values())
        rng.shuffle(faults)
        for fault in faults:
            if time.monotonic() > over_s:
                return
            yield fault


async def run(
    faults: Callable[[random.Random], Iterator[Fault]], *, seed: int, conversations: int, tell: Tell
) -> Outcome:
    """Break one thing after another while so many talk."""
    async with world(seed) as broken:
        new = [Size.of(edge) for edge in broken.of("edge")]
        over = asyncio.Event()
        talking = [
            asyncio.create_task(
                converse(broken, over, random.Random(f"{seed} {number}")), name=f"talk-{number}"
            )
            for number in range(conversations)
        ]
        try:
            for number, fault in enumerate(faults(broken.rng), start=1):
                place = await strike(broken, fault, random.Random(f"{seed} fault {number}"))
                tell(f"{number:4} {fault.name:22} {place or 'nowhere'!s:14}")
        except AssertionError as error:
            # It does not come in order again: that is what the history has to show.
            broken.history.add(Left(now_s(), f"after {fault.name}: {error}"))
        finally:
            over.set()
        await asyncio.gather(*talking)
        return await finish(broken, new)


async def finish(world: World, new: Sequence[Size], *, within_s: float = PUT_AWAY_S) -> Outcome:
    """Look what is left, now that nobody talks any more, and check all that happened: see `leftovers`."""
    for left in await leftovers(world, new, within_s):
        world.history.add(left)
    violations = check(world.history)
    kept = None
    if violations:
        kept = Path(tempfile.mkdtemp(prefix="chaos-kept-"))
        world.history.save(kept / "history.jsonl")
        for log in world.folder.glob("*.log"):
            shutil.copy(log, kept)
    return Outcome(world.history, violations, world.deaths, kept)


async def strike(world: World, fault: Fault, rng: random.Random) -> Place | None:
    """Break it where a turn comes to a random place of a log, and wait until all is in order again."""
    log, seq = rng.choice(fault.logs), rng.choice(SEQS)
    place = await world.places.reached(log, seq, REACHED_WITHIN_S)
    struck = Struck(now_s(), fault.name, str(place or "nowhere"), fails=fault.fails)
    world.history.add(struck)
    async with fault.break_(world, place):
        await asyncio.sleep(fault.hold_s)
    world.history.add(Struck(now_s(), fault.name, struck.place, over=True, fails=fault.fails))
    await calm(world)
    return place


async def calm(world: World) -> None:
    """Wait until every process serves, and every turn that was under way has ended."""
    await world.ready()
    busy = {speaker: speaker.turn for speaker in world.speakers.values() if not speaker.settled.is_set()}

    def settled() -> bool:
        return all(
            speaker.turn != turn or speaker.settled.is_set() or speaker.lost()
            for speaker, turn in busy.items()
        )

    await eventually(settled, "the turns under way have ended", CALM_S)
