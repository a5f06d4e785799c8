"""Negative controls: with one rule broken, one check of the checker must fire, and no other.

A checker that cannot fail checks nothing. The same with the rule in place must be clean.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from shared.keys import log_key
from shared.wire import Log
from tests.chaos import outages
from tests.chaos.campaign import Outcome, finish
from tests.chaos.drive import Plan, Speaker
from tests.chaos.leftovers import Size
from tests.chaos.places import Place
from tests.chaos.world import RESTART_S, World, world
from tests.conftest import eventually

COUNTS = {"edge": 1, "llm": 2, "tts": 1}
REACHED_WITHIN_S = 30.0

PUT_AWAY_S = 5.0
"""What is still left then of the turn that fails will stay."""

FORGOTTEN = 3
"""How many entries Redis forgets."""


@dataclass(frozen=True, slots=True)
class Control:
    """`rule`: of `broken.py`, what every LLM worker does without. `check`: what must fire for it."""

    rule: str
    check: str
    scenario: Callable[[World], Awaitable[None]]


@asynccontextmanager
async def answering(world: World, seq: int) -> AsyncIterator[Place]:
    """A typed turn whose answer has come to this place; the block's end waits for the turn's."""
    async with Speaker(world, pacing="none") as speaker:
        reaching = asyncio.create_task(world.places.reached(Log.TEXT, seq, REACHED_WITHIN_S))
        await asyncio.sleep(0)
        saying = asyncio.create_task(speaker.say(Plan("typed", text="Say something long.")))
        place = await reaching
        assert place is not None, "no turn came so far"
        yield place
        await saying


async def lose_a_reply(world: World) -> None:
    """The reply to an append is lost."""
    async with answering(world, 4):
        world.proxies["llm"].lose_reply_to(b"parley_append_2")


async def destroy_the_groups(world: World) -> None:
    """Every claim is gone in mid-answer, and who had this one dies: it can only be found in the stream."""
    async with answering(world, 4) as place, outages.groups_destroyed(world, place):
        world.kill(world.at(place, "llm"))


async def forget_the_tail(world: World) -> None:
    """Redis dies, and its last entries of the answer never came to the disk."""
    async with answering(world, 12) as place:
        await world.kill_redis()
        key = log_key(place.conversation, Log.TEXT)
        cut(world, f"{key}\r\n$3\r\n{place.turn}-{place.seq - FORGOTTEN}\r\n".encode())
        await asyncio.sleep(RESTART_S)
        await world.restart_redis()


async def stop_one_then_the_other(world: World) -> None:
    """The worker is stopped; when its peer has taken over, that one is stopped, and the first goes on."""
    async with answering(world, 4) as place:
        first = world.at(place, "llm")
        first.signal(signal.SIGSTOP)
        await eventually(lambda: world.at(place, "llm") is not first, "the peer takes over")
        second = world.at(place, "llm")
        second.signal(signal.SIGSTOP)
        first.signal(signal.SIGCONT)
    second.signal(signal.SIGCONT)


def cut(world: World, command: bytes) -> None:
    """Let the append-only file end before a command in which these bytes stand."""
    file = outages.append_only_file(world.server.directory)
    place = file.read_bytes().find(command)
    assert place >= 0, "that was never written"
    os.truncate(file, place)


CONTROLS = (
    Control("blind-append", "doubled", lose_a_reply),
    Control("group-at-the-end", "failed-turn", destroy_the_groups),
    Control("no-buffer", "lost-output", forget_the_tail),
    Control("stable-tag", "failed-turn", stop_one_then_the_other),
)


async def run(control: Control, *, broken: bool = True) -> Outcome:
    """Play the scenario, with the rule or without it."""
    through = {"edge": ("tests.chaos.broken", "impatient")}
    if broken:
        through["llm"] = ("tests.chaos.broken", control.rule)
    async with world(0, counts=COUNTS, through=through) as made:
        new = [Size.of(edge) for edge in made.of("edge")]
        await control.scenario(made)
        await made.ready()
        return await finish(made, new, within_s=PUT_AWAY_S)


def verdict(control: Control, outcome: Outcome) -> str | None:
    """What is wrong with the checker; `None` where the named check fired and no other."""
    fired = sorted({violation.check for violation in outcome.violations})
    if fired == [control.check]:
        return None
    return f"{control.rule}: {control.check} must fire, and {', '.join(fired) or 'nothing'} did"
