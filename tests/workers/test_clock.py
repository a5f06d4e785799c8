"""Deadlines, in both event loops."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from workers.clock import sleep_by_kernel, sleep_by_loop, sleep_until

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]
SLEEPS = [sleep_until, sleep_by_kernel, sleep_by_loop]

Sleep = Callable[[float], Awaitable[None]]


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> asyncio.Runner:
    return asyncio.Runner(loop_factory=request.param)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("sleep", SLEEPS)
def test_no_sleep_is_too_short(runner: asyncio.Runner, sleep: Sleep) -> None:
    async def sleep_often() -> None:
        chance = random.Random(7)
        for _ in range(40):
            deadline_s = time.monotonic() + chance.uniform(0, 0.005)
            await sleep(deadline_s)
            assert time.monotonic() >= deadline_s

    with runner:
        runner.run(sleep_often())


def test_a_deadline_in_the_past_lets_others_run(runner: asyncio.Runner) -> None:
    async def look() -> list[str]:
        order: list[str] = []
        asyncio.get_running_loop().call_soon(order.append, "another")
        await sleep_until(time.monotonic() - 1)
        return [*order, "sleeper"]

    with runner:
        assert runner.run(look()) == ["another", "sleeper"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the kernel's timers are files on Linux only")
def test_a_sleep_leaves_no_open_file_behind_also_when_cancelled(runner: asyncio.Runner) -> None:
    async def sleep_and_cancel() -> int:
        before = open_files()
        await sleep_until(time.monotonic() + 0.001)
        sleeper = asyncio.create_task(sleep_until(time.monotonic() + 3600))
        await asyncio.sleep(0)
        assert open_files() == before + 1
        sleeper.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sleeper
        return open_files() - before

    with runner:
        assert runner.run(sleep_and_cancel()) == 0


async def test_many_sleep_at_once_each_until_its_own_deadline() -> None:
    early: list[int] = []

    async def sleep(place: int) -> int:
        deadline_s = begin_s + 0.01 + place * 0.002
        await sleep_until(deadline_s)
        if time.monotonic() < deadline_s:
            early.append(place)
        return place

    begin_s = time.monotonic()
    places = random.Random(3).sample(range(20), 20)
    assert await asyncio.gather(*map(sleep, places)) == places
    assert not early
