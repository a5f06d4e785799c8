"""A stage claims, takes over, tries again, gives up and drains, whatever its handler does."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

import pytest

from shared.errors import EngineError, StoreError, StoreFull
from shared.keys import DEAD, GROUP, WORKERS, Role, index_key, log_key, work_key
from shared.log import close_turn
from shared.store import Store
from shared.wire import Address, Closed, Entry, Log, ReplyEnd, Take, Token, new_tag
from shared.work import LOOKS, Claim, WorkQueue
from tests.conftest import eventually
from tests.shared.support import calls, forget_from
from tests.workers.conftest import Desk, Running
from tests.workers.replies import Replies, end, wait_for_ever
from workers import attempt, held
from workers.attempt import ATTEMPTS, failed_attempts
from workers.turn import Turn


async def _nothing_is_pending(store: Store) -> bool:
    stream = work_key(Role.REPLY)
    length = await store.call("XLEN", stream)
    fields = await store.call("HLEN", index_key(Role.REPLY))
    pending = await store.call("XPENDING", stream, GROUP)
    return (length, fields, pending[0]) == (0, 0, 0)


async def test_a_turn_that_was_offered_is_taken_answered_and_forgotten(
    store: Store, desk: Desk, running: Running
) -> None:
    async with running(Replies(end)):
        await desk.ask(1, None, Role.REPLY)
        await eventually(lambda: desk.ended(Log.TEXT, 1), "the reply")
        await eventually(lambda: _nothing_is_pending(store), "the work is done")
    kinds = [entry.payload.kind for entry in await desk.read(Log.TEXT, 1)]
    assert kinds == ["take", "token", "end"]


async def test_a_worker_announces_itself_while_it_lives_and_withdraws_at_the_end(
    store: Store, running: Running
) -> None:
    async def announced() -> bool:
        return bool(await store.call("EXISTS", "worker:one"))

    async def named() -> bool:
        return bool(await store.call("SMEMBERS", WORKERS) == [b"one"])

    async with running(Replies(end), name="one"):
        await eventually(named, "its name")
        assert await announced()
        assert 0 < await store.call("PTTL", "worker:one") <= 400
    assert not await announced()
    assert await store.call("SMEMBERS", WORKERS) == []


async def test_a_worker_announces_how_many_engines_are_at_work_and_what_its_handler_counts(
    store: Store, desk: Desk, running: Running
) -> None:
    release = asyncio.Event()

    async def compute(turn: Turn) -> None:
        turn.step()
        await release.wait()
        await end(turn)

    async def announced(**counts: int) -> bool:
        said = json.loads(await store.call("GET", "worker:test") or b"{}")
        return {name: said.get(name) for name in counts} == counts

    async with running(Replies(compute)):
        await eventually(lambda: announced(attached=0, computing=0, answered=0), "nothing is done")
        await desk.ask(1, None, Role.REPLY)
        await eventually(lambda: announced(attached=1, computing=1, answered=1), "an engine is at work")
        release.set()
        await eventually(lambda: announced(attached=0, computing=0, answered=1), "it is done")


async def test_what_a_dead_worker_held_is_taken_over_within_a_lease(
    store: Store, desk: Desk, running: Running
) -> None:
    await desk.ask(1, None, Role.REPLY)
    dead = WorkQueue(store, Role.REPLY, "dead", lease_s=0.4)
    assert await dead.wait(1) == []  # the group did not exist yet, and was made
    (claim,) = await dead.wait(1)
    assert (claim.conversation, claim.turn, claim.cause) == (desk.conversation, 1, "claim")
    await dead.close()
    async with running(Replies(end)):
        await eventually(lambda: desk.ended(Log.TEXT, 1), "the reply")
    first = (await desk.read(Log.TEXT, 1))[0].payload
    assert isinstance(first, Take) and first.cause == "retry"


async def test_what_a_dead_worker_only_waited_for_counts_as_no_attempt(
    store: Store, desk: Desk, running: Running
) -> None:
    await desk.ask(1, None, Role.REPLY)
    dead = WorkQueue(store, Role.REPLY, "dead", lease_s=0.4)
    await dead.wait(1)  # makes the group
    await dead.wait(1)
    await dead.close()
    async with running(Replies(end, due=False)):
        await eventually(lambda: desk.ended(Log.TEXT, 1), "the reply")
    first = (await desk.read(Log.TEXT, 1))[0].payload
    assert isinstance(first, Take) and first.cause == "reclaim"


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
        await eventually(lambda: _nothing_is_pending(store), "the work is done")
    assert all([await desk.ended(Log.TEXT, 1) for desk in desks])
    takes = [entry.payload for desk in desks for entry in await desk.read(Log.TEXT, 1)]
    causes = {take.cause for take in takes if isinstance(take, Take)}
    assert causes <= {"claim", "contest"}


async def test_a_restarted_worker_goes_on_with_what_it_left_pending(
    store: Store, desk: Desk, running: Running
) -> None:
    before = WorkQueue(store, Role.REPLY, "test", lease_s=60)
    await before.wait(1)
    await desk.ask(1, None, Role.REPLY)
    assert len(await before.wait(1)) == 1
    await before.close()
    async with running(Replies(end), name="test"):
        await eventually(lambda: desk.ended(Log.TEXT, 1), "the reply")
        await eventually(lambda: _nothing_is_pending(store), "the work is done")


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
    assert await _nothing_is_pending(store)


async def test_an_engine_that_fails_in_passing_is_tried_again(desk: Desk, running: Running) -> None:
    async def fail_once(turn: Turn) -> None:
        if len(handler.turns) == 1:
            raise EngineError("out of breath", retryable=True)
        await end(turn)

    handler = Replies(fail_once)
    async with running(handler):
        await desk.ask(1, None, Role.REPLY)
        await eventually(lambda: desk.ended(Log.TEXT, 1), "the reply")
    kinds = [entry.payload.kind for entry in await desk.read(Log.TEXT, 1)]
    assert kinds == ["take", "take", "token", "end"]


async def test_a_turn_that_fails_each_time_is_closed_as_failed_and_buried(
    store: Store, desk: Desk, running: Running
) -> None:
    async def fail(turn: Turn) -> None:
        raise ZeroDivisionError("a mistake in the handler")

    handler = Replies(fail)
    async with running(handler):
        await desk.ask(1, None, Role.REPLY)
        await eventually(lambda: desk.ended(Log.SPEECH, 1), "both logs are closed")
        await eventually(lambda: _nothing_is_pending(store), "the work is done")
    assert len(handler.turns) == 3
    for log in (Log.TEXT, Log.SPEECH):
        closed = (await desk.read(log, 1))[-1].payload
        assert isinstance(closed, Closed)
        assert (closed.reason, closed.code, closed.retryable) == ("failed", "engine_failed", True)
    ((_, fields),) = await store.call("XRANGE", DEAD, "-", "+")
    assert desk.conversation.encode() in fields


async def test_what_cannot_be_done_is_not_tried_again(desk: Desk, running: Running) -> None:
    async def refuse(turn: Turn) -> None:
        raise EngineError("no such voice", retryable=False)

    handler = Replies(refuse)
    async with running(handler):
        await desk.ask(1, None, Role.REPLY)
        await eventually(lambda: desk.ended(Log.TEXT, 1), "the turn is closed")
    closed = (await desk.read(Log.TEXT, 1))[-1].payload
    assert isinstance(closed, Closed) and closed.message == "no such voice"
    assert len(handler.turns) == 1


async def test_what_only_another_turn_can_do_ends_this_one_at_once(desk: Desk, running: Running) -> None:
    async def give_up(turn: Turn) -> None:
        raise EngineError("the thread is lost", retryable=True, final=True)

    handler = Replies(give_up)
    async with running(handler):
        await desk.ask(1, None, Role.REPLY)
        await eventually(lambda: desk.ended(Log.SPEECH, 1), "both logs are closed")
    closed = (await desk.read(Log.TEXT, 1))[-1].payload
    assert isinstance(closed, Closed)
    assert (closed.code, closed.message, closed.retryable) == ("engine_failed", "the thread is lost", True)
    assert len(handler.turns) == 1


async def test_a_turn_that_the_edge_closes_ends_at_the_next_append(
    store: Store, desk: Desk, running: Running
) -> None:
    async def talk_for_ever(turn: Turn) -> None:
        while True:
            await turn.writer.append(Token("on", (1,)))

    async with running(Replies(talk_for_ever)):
        await desk.ask(1, None, Role.REPLY)

        async def talking() -> bool:
            return len(await desk.read(Log.TEXT, 1)) > 5

        await eventually(talking, "a reply")
        text = log_key(desk.conversation, Log.TEXT)
        (closed_at,) = await close_turn(store, [text], 1, desk.tag, Closed("barge_in"), ttl_s=60)
        await eventually(lambda: _nothing_is_pending(store), "the work is done")
    assert (await desk.read(Log.TEXT, 1))[-1].address == closed_at


async def test_two_workers_that_both_hold_a_turn_write_one_story(
    store: Store, desk: Desk, running: Running
) -> None:
    """A zombie takes the log away; the owner of the claim takes it back and goes on after what stands."""

    async def count(turn: Turn) -> None:
        said = [entry.payload for entry in turn.writer.entries if isinstance(entry.payload, Token)]
        for number in range(len(said), 40):
            await turn.writer.append(Token(f"{number} ", (number,)))
            await asyncio.sleep(0.002)
        await turn.writer.append(ReplyEnd("stop", 40, 0))

    async with running(Replies(count)):
        await desk.ask(1, None, Role.REPLY)

        async def begun() -> bool:
            return len(await desk.read(Log.TEXT, 1)) > 10

        await eventually(begun, "a reply")
        zombie = desk.writer(Log.TEXT, 1, new_tag())
        await zombie.take("retry")
        await eventually(lambda: desk.ended(Log.TEXT, 1), "the reply")
    entries = await desk.read(Log.TEXT, 1)
    assert [entry.address.seq for entry in entries] == list(range(len(entries)))
    words = [entry.payload.text for entry in entries if isinstance(entry.payload, Token)]
    assert words == [f"{number} " for number in range(40)]


async def test_draining_hands_back_at_once_what_only_waits(
    store: Store, desk: Desk, running: Running
) -> None:
    async with running(Replies(wait_for_ever)) as worker:
        await desk.ask(1, None, Role.REPLY)

        async def taken() -> bool:
            return bool(await desk.read(Log.TEXT, 1))

        await eventually(taken, "the claim")
        worker.drain()
    ((_, fields),) = await store.call("XRANGE", work_key(Role.REPLY), "-", "+")
    assert fields[fields.index(b"cause") + 1] == b"handback"


async def test_draining_finishes_what_computes(desk: Desk, running: Running) -> None:
    release = asyncio.Event()

    async def compute(turn: Turn) -> None:
        turn.step()
        await release.wait()
        await end(turn)

    handler = Replies(compute)
    async with running(handler) as worker:
        await desk.ask(1, None, Role.REPLY)
        await eventually(lambda: bool(handler.turns), "the claim")
        worker.drain()
        release.set()
    assert await desk.ended(Log.TEXT, 1)


async def test_an_engine_that_hangs_loses_its_turn_and_a_second_attempt_is_made(
    desk: Desk, running: Running
) -> None:
    async def hang_once(turn: Turn) -> None:
        turn.step()
        if len(handler.turns) == 1:
            await asyncio.Event().wait()
        await end(turn)

    handler = Replies(hang_once)
    async with running(handler):
        await desk.ask(1, None, Role.REPLY)
        await eventually(lambda: desk.ended(Log.TEXT, 1), "the reply")
    assert len(handler.turns) == 2


async def test_a_turn_whose_engine_hangs_and_that_a_peer_took_over_is_let_go(
    store: Store, desk: Desk, running: Running
) -> None:
    async def hang(turn: Turn) -> None:
        turn.step()
        await asyncio.Event().wait()

    peer = WorkQueue(store, Role.REPLY, "peer", lease_s=0.4)
    async with running(Replies(hang), STALL_S="1") as worker:
        await desk.ask(1, None, Role.REPLY)
        await eventually(lambda: worker.attached == 1, "the claim")

        claims: list[Claim] = []

        async def taken_over() -> bool:
            claims.extend(await peer.reclaim(1))
            return bool(claims)

        async def let_go() -> bool:
            assert await peer.refresh([claims[0].id]) == []
            return worker.attached == 0

        await eventually(taken_over, "the peer has it")
        await eventually(let_go, "the worker lets go")
    await peer.close()


def test_only_repeats_since_the_last_progress_count_as_failed_attempts() -> None:
    def entries(*payloads: Take | Token) -> list[Entry]:
        return [Entry(Address(1, seq), "w", 0, payload) for seq, payload in enumerate(payloads)]

    claim, retry, handed = Take("claim"), Take("retry"), Take("handback")
    assert failed_attempts(entries(claim)) == 0
    assert failed_attempts(entries(claim, retry, retry)) == 2
    assert failed_attempts(entries(claim, retry, handed, retry)) == 2
    assert failed_attempts(entries(claim, retry, retry, Token("x"), retry)) == 1
