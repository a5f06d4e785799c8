"""A stage claims, takes over, tries again, gives up and drains, whatever its handler does."""

from __future__ import annotations

import asyncio
import json

from shared.errors import EngineError
from shared.keys import DEAD, WORKERS, Role, log_key, work_key
from shared.log import close_turn
from shared.store import Store
from shared.wire import Address, Closed, Entry, Log, ReplyEnd, Take, Token, new_tag
from shared.work import Claim, WorkQueue
from tests.conftest import eventually
from tests.workers.conftest import Desk, Running, nothing_is_pending
from tests.workers.replies import Replies, end, wait_for_ever
from workers.attempt import failed_attempts
from workers.turn import Turn


async def test_a_turn_that_was_offered_is_taken_answered_and_forgotten(
    store: Store, desk: Desk, running: Running
) -> None:
    async with running(Replies(end)):
        await desk.ask(1, None, Role.REPLY)
        await eventually(lambda: desk.ended(Log.TEXT, 1), "the reply")
        await eventually(lambda: nothing_is_pending(store), "the work is done")
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
        await eventually(lambda: nothing_is_pending(store), "the work is done")


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
        await eventually(lambda: nothing_is_pending(store), "the work is done")
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
        await eventually(lambda: nothing_is_pending(store), "the work is done")
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
