"""A stage under what Redis may do to it: no turn is lost, and none is blamed."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from shared.errors import EngineError, StoreError, StoreFull
from shared.keys import GROUP, Role, log_key, work_key
from shared.log import close_turn
from shared.store import Store
from shared.wire import Address, Closed, Log, Take, Token, new_tag
from shared.work import LOOKS
from tests.conftest import eventually
from tests.shared.support import calls, forget_from
from tests.workers.conftest import Desk, Running, nothing_is_pending
from tests.workers.replies import Replies, end, wait_for_ever
from workers import attempt, held
from workers.attempt import ATTEMPTS
from workers.turn import Turn


async def test_when_redis_was_frozen_each_turn_stays_with_its_living_owner(
    store: Store, running: Running
) -> None:
    desks = [Desk(store) for _ in range(8)]
    first, second = Replies(wait_for_ever), Replies(wait_for_ever)
    async with running(first, name="first"), running(second, name="second"):
        for desk in desks:
            await desk.ask(1, None, Role.REPLY)
        await eventually(lambda: len(first.turns + second.turns) == 8, "all are claimed")
        await store.call("CLIENT", "PAUSE", 2500, "ALL")
        before: list[int] = []

        async def both_looked_again() -> bool:
            with suppress(StoreError):
                before.append(await calls(store, "xpending"))
                return before[-1] >= before[0] + 4 * LOOKS
            return False

        await eventually(both_looked_again, "the workers look for what has lapsed")
        takes = [entry.payload for desk in desks for entry in await desk.read(Log.TEXT, 1)]
        assert len(takes) == 8


async def test_a_group_that_is_destroyed_costs_no_turn(store: Store, running: Running) -> None:
    async def wait(turn: Turn) -> None:
        await release.wait()
        await end(turn)

    release = asyncio.Event()
    desks = [Desk(store) for _ in range(8)]
    first, second = Replies(wait), Replies(wait)
    async with running(first, name="first"), running(second, name="second"):
        for desk in desks:
            await desk.ask(1, None, Role.REPLY)
        await eventually(lambda: len(first.turns + second.turns) == 8, "all are claimed")
        await store.call("XGROUP", "DESTROY", work_key(Role.REPLY), GROUP)

        async def all_claimed() -> bool:
            groups = await store.call("XINFO", "GROUPS", work_key(Role.REPLY))
            return bool(groups) and (await store.call("XPENDING", work_key(Role.REPLY), GROUP))[0] == 8

        await eventually(all_claimed, "all are claimed again")
        release.set()
        await eventually(lambda: nothing_is_pending(store), "the work is done")
    assert all([await desk.ended(Log.TEXT, 1) for desk in desks])
    takes = [entry.payload for desk in desks for entry in await desk.read(Log.TEXT, 1)]
    causes = {take.cause for take in takes if isinstance(take, Take)}
    assert causes <= {"claim", "contest"}


async def test_a_turn_that_redis_fails_is_taken_up_again_as_often_as_it_takes(
    desk: Desk, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(turn: Turn) -> None:
        if len(handler.turns) <= 2 * ATTEMPTS:
            raise StoreFull("Redis is at its maxmemory")
        await end(turn)

    monkeypatch.setattr(held, "OUTAGE_S", 0.01)
    handler = Replies(refused)
    async with running(handler):
        await desk.ask(1, None, Role.REPLY)
        await eventually(lambda: desk.ended(Log.TEXT, 1), "the reply")
    takes = [entry.payload.cause for entry in await desk.read(Log.TEXT, 1) if isinstance(entry.payload, Take)]
    assert takes == ["claim"] + ["reclaim"] * 2 * ATTEMPTS


async def test_what_redis_forgets_of_a_turn_whose_writer_is_silent_is_written_again(
    store: Store, desk: Desk, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def say_one_word(turn: Turn) -> None:
        await turn.writer.append(Token("word", (1,)))
        await wait_for_ever(turn)

    async def said() -> bool:
        return len(await desk.read(Log.TEXT, 1)) == 2

    monkeypatch.setattr(attempt, "CONFIRM_S", 0.05)
    async with running(Replies(say_one_word)):
        await desk.ask(1, None, Role.REPLY)
        await eventually(said, "the word")
        written = await desk.read(Log.TEXT, 1)
        await forget_from(store, log_key(desk.conversation, Log.TEXT), Address(1, 0))
        await eventually(said, "the word again")
        again = await desk.read(Log.TEXT, 1)
        assert again == written


async def test_what_redis_forgets_of_an_answer_just_written_is_written_again(
    store: Store, desk: Desk, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "KEEP_S", 3600.0)
    monkeypatch.setattr(attempt, "CONFIRM_S", 0.05)
    async with running(Replies(end), MAX_ATTACHED="1") as worker:
        await desk.ask(1, None, Role.REPLY)
        await eventually(lambda: desk.ended(Log.TEXT, 1), "the reply")
        written = await desk.read(Log.TEXT, 1)
        for lost in (2, 1, 0):
            await forget_from(store, log_key(desk.conversation, Log.TEXT), Address(1, lost))
            await eventually(lambda: desk.ended(Log.TEXT, 1), "the reply again")
        again = await desk.read(Log.TEXT, 1)
        assert [(e.address, e.at_us, e.payload) for e in again] == [
            (e.address, e.at_us, e.payload) for e in written
        ]
        other = Desk(store)
        await other.ask(1, None, Role.REPLY)
        await eventually(lambda: other.ended(Log.TEXT, 1), "another turn, though this one is still kept")
        assert worker.attached == 0
    assert await nothing_is_pending(store)


async def test_what_redis_forgets_of_an_answer_with_its_closing_is_written_again_as_it_stood(
    store: Store, desk: Desk, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "KEEP_S", 3600.0)
    monkeypatch.setattr(attempt, "CONFIRM_S", 0.05)
    text = log_key(desk.conversation, Log.TEXT)

    async def say_on(turn: Turn) -> None:
        await turn.writer.append(Token("one", (1,)), Token("two", (2,)))
        await closed.wait()
        await turn.writer.append(Token("three", (3,)))

    async def said() -> bool:
        return len(await desk.read(Log.TEXT, 1)) == 3

    async def close() -> list[Address | None]:
        return await close_turn(store, [text], 1, desk.tag, Closed("barge_in"), ttl_s=60)

    closed = asyncio.Event()
    async with running(Replies(say_on)) as worker:
        await desk.ask(1, None, Role.REPLY)
        await eventually(said, "two words")
        stood = await close()
        closed.set()
        await eventually(lambda: nothing_is_pending(store), "the work is done")
        assert worker.attached == 0
        written = await desk.read(Log.TEXT, 1)
        await forget_from(store, text, Address(1, 1))
        await eventually(said, "the two words again")
        assert await close() == stood
        again = await desk.read(Log.TEXT, 1)
    assert [entry.payload for entry in again] == [entry.payload for entry in written]


async def test_work_whose_end_redis_forgot_is_given_to_nobody_while_its_writer_keeps_it(
    store: Store, desk: Desk, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "KEEP_S", 3600.0)
    stream = work_key(Role.REPLY)

    async def remember(turn: Turn) -> None:
        remembered.append(await store.call("DUMP", stream))
        await end(turn)

    async def done() -> bool:
        return bool(await store.call("XLEN", stream) == 0)

    remembered: list[bytes] = []
    async with running(Replies(remember), name="first"):
        await desk.ask(1, None, Role.REPLY)
        await eventually(done, "it is done")
        await store.call("RESTORE", stream, 0, remembered[0], "REPLACE")
        async with running(Replies(end), name="second"):
            before = await calls(store, "xpending")

            async def looked_again() -> bool:
                return await calls(store, "xpending") >= before + 20 * LOOKS

            await eventually(looked_again, "the other looks for what has lapsed")
            (pending,) = await store.call("XPENDING", stream, GROUP, "-", "+", 10)
            assert pending[1] == b"first"


async def test_a_turn_that_fails_where_another_has_its_log_by_now_is_left_to_that(
    store: Store, desk: Desk, running: Running
) -> None:
    async def fail(turn: Turn) -> None:
        await desk.writer(Log.TEXT, 1, new_tag()).take("retry")
        raise EngineError("no such voice", retryable=False)

    async with running(Replies(fail)):
        await desk.ask(1, None, Role.REPLY)
        await eventually(lambda: nothing_is_pending(store), "the work is done")
    assert [entry.payload.kind for entry in await desk.read(Log.TEXT, 1)] == ["take", "take"]
