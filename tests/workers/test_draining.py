"""A worker that is asked to stop lets go of its turns in order: none lapses, none is counted as failed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from deploy import child
from shared.keys import GROUP, Role, work_key
from shared.store import Store
from shared.wire import Log
from tests.conftest import eventually
from tests.workers.conftest import Desk, Running
from tests.workers.replies import Replies, end, wait_for_ever
from workers.turn import Turn

STREAM = work_key(Role.REPLY)


async def causes(store: Store) -> list[bytes]:
    """Why each entry of the work stream stands there."""
    entries = await store.call("XRANGE", STREAM, "-", "+")
    return [fields[fields.index(b"cause") + 1] for _, fields in entries]


async def pending(store: Store) -> int:
    """How many claims there are."""
    return int((await store.call("XPENDING", STREAM, GROUP))[0])


async def test_what_only_waits_is_handed_back_at_once_and_what_computes_goes_on(
    store: Store, running: Running
) -> None:
    release = asyncio.Event()

    async def compute_first(turn: Turn) -> None:
        if turn.conversation == desks[0].conversation:
            turn.step()
            await release.wait()
            await end(turn)
        else:
            await wait_for_ever(turn)

    desks = [Desk(store) for _ in range(4)]
    handler = Replies(compute_first)
    async with running(handler) as worker:
        for desk in desks:
            await desk.ask(1, None, Role.REPLY)
        await eventually(lambda: len(handler.turns) == 4, "the claims")
        worker.drain()

        async def handed_back() -> bool:
            return sorted(await causes(store)) == [b"claim"] + [b"handback"] * 3

        await eventually(handed_back, "the others may have the rest")
        assert worker.attached == 1
        release.set()
    assert await desks[0].ended(Log.TEXT, 1)
    assert await causes(store) == [b"handback"] * 3
    assert await pending(store) == 0


async def test_what_is_claimed_too_late_is_handed_back_unseen(
    store: Store, desk: Desk, running: Running
) -> None:
    handler = Replies(end)
    async with running(handler) as worker:

        async def waits() -> bool:
            return b"blocked_clients:1\r" in await store.call("INFO", "clients")

        await eventually(waits, "the worker waits for work")
        worker.drain()
        await desk.ask(1, None, Role.REPLY)
    assert handler.turns == []
    assert await pending(store) == 0
    assert len(await causes(store)) == 1


async def test_an_attempt_that_does_not_let_go_is_left_behind(
    store: Store, desk: Desk, running: Running
) -> None:
    release = asyncio.Event()

    async def cling(turn: Turn) -> None:
        turn.step()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    handler = Replies(cling)
    async with running(handler, DRAIN_S="0.6"):
        await desk.ask(1, None, Role.REPLY)
        await eventually(lambda: bool(handler.turns), "the claim")
    assert await causes(store) == [b"handback"]
    release.set()


async def test_under_its_supervisor_a_worker_has_the_time_to_hand_back_what_computes(
    redis_url: str, store: Store, desk: Desk, tmp_path: Path
) -> None:
    environ = {
        **os.environ,
        "REDIS_URL": redis_url,
        "PARLEY_DATA": str(tmp_path),
        "LLM_ENGINE": "scripted",
        "SCRIPT_FIRST_TOKEN_MS": "60000",
        "DRAIN_S": "1",
    }
    supervisor = child.start([sys.executable, "-m", "deploy.supervise", "workers.llm"], environ=environ)
    try:
        await desk.ask(1, None, Role.REPLY)

        async def taken() -> bool:
            return bool(await desk.read(Log.TEXT, 1))

        await eventually(taken, "the claim", 60.0)
        supervisor.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(supervisor.wait, 60) == 0
    finally:
        supervisor.kill()
    assert await causes(store) == [b"handback"]
    assert await pending(store) == 0
