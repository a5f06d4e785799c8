"""A turn that kills its worker each time fails by itself: the others in the same worker are answered."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from deploy import child
from shared.keys import DEAD, Role
from shared.store import Store
from shared.wire import Closed, Log, Open
from tests.conftest import eventually
from tests.workers.conftest import QUICK, Desk

POISON = "poison"

WORKER = f"""
import asyncio, os, signal, sys
from shared.keys import log_key
from shared.log import read_log
from shared.wire import Address, Log
from tests.workers.replies import Replies, end
from workers.process import main

async def answer(turn):
    turn.step()
    audio = log_key(turn.conversation, Log.AUDIO)
    opening, *_ = await read_log(turn.store, audio, Address(turn.number, 0))
    if opening.payload.prompt == "{POISON}":
        os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.sleep(0.2)  # what an engine takes to its first word: more than the poison does
    turn.step()
    await end(turn)

sys.exit(main("llm", lambda settings: Replies(answer)))
"""


async def _work(redis_url: str, deaths: list[int]) -> None:
    environ = {**os.environ, **QUICK, "STALL_S": "10", "REDIS_URL": redis_url, "WORKER_NAME": "test.llm"}
    while True:
        worker = child.start([sys.executable, "-c", WORKER], environ=environ)
        try:
            deaths.append(await asyncio.to_thread(worker.wait))
        finally:
            worker.kill()


async def test_a_poison_turn_fails_after_three_deaths_and_takes_nobody_with_it(
    redis_url: str, store: Store
) -> None:
    desks = [Desk(store) for _ in range(5)]
    poison, *others = desks[2], *desks[:2], *desks[3:]
    for desk in desks:
        await desk.ask(1, Open(prompt=POISON if desk is poison else None), Role.REPLY)

    async def all_ended() -> bool:
        return all([await desk.ended(Log.TEXT, 1) for desk in desks])

    deaths: list[int] = []
    working = asyncio.create_task(_work(redis_url, deaths))
    await eventually(all_ended, "each turn ends", 60.0)
    working.cancel()
    for desk in others:
        kinds = [entry.payload.kind for entry in await desk.read(Log.TEXT, 1)]
        assert kinds[-2:] == ["token", "end"]
    closed = (await poison.read(Log.TEXT, 1))[-1].payload
    assert isinstance(closed, Closed) and closed.code == "engine_failed"
    ((_, letter),) = await store.call("XRANGE", DEAD, "-", "+")
    assert poison.conversation.encode() in letter
    assert deaths == [-signal.SIGKILL] * 3
