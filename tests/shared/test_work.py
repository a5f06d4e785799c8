"""Offers, claims and their refresh, take-over, dead letters, and the heartbeat that holds it together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from shared.errors import StoreError, StoreFull
from shared.hold import new_conversation
from shared.keys import DEAD, DEAD_LETTERS, GROUP, Role, work_key
from shared.store import Store
from shared.work import LOOKS, Claim, WorkQueue, bury, offer
from tests.conftest import eventually
from tests.proxy import Proxy
from tests.shared.working import INDEX, LEASE_S, STREAM, Worker, lapsed, offered, owners, reclaimed


async def lengths(store: Store) -> tuple[int, int]:
    """How many entries the stream and its index have."""
    entries, fields = await store.call_all([("XLEN", STREAM), ("HLEN", INDEX)])
    return entries, fields


# ---- offers


async def test_offering_twice_is_offering_once(store: Store, worker: Worker) -> None:
    conversation = new_conversation()
    for _ in range(3):
        await offer(store, Role, conversation, 1)
    for role in Role:
        queue = worker("w", role)
        await queue.pending(1)  # makes the group
        (claim,) = await queue.wait(10)
        assert (claim.conversation, claim.turn, claim.cause) == (conversation, 1, "claim")
        await offer(store, Role, conversation, 1)
        assert await store.call("XLEN", work_key(role)) == 1


async def test_offers_at_the_same_time_are_one(store: Store) -> None:
    conversation = new_conversation()
    await asyncio.gather(*(offer(store, Role, conversation, 1) for _ in range(20)))
    assert await lengths(store) == (1, 1)


async def test_turns_are_claimed_in_the_order_of_their_offers(store: Store, worker: Worker) -> None:
    conversations = await offered(store, 5)
    first, second = worker("first"), worker("second")
    found = [*await first.wait(2), *await second.wait(2), *await first.wait(9)]
    assert [claim.conversation for claim in found] == conversations


async def test_what_was_offered_before_the_first_worker_came_is_claimed(store: Store, worker: Worker) -> None:
    conversations = await offered(store, 3)
    queue = worker("late")
    found: list[Claim] = []
    while len(found) < 3:
        found += await queue.wait(10)
    assert [claim.conversation for claim in found] == conversations


async def test_a_worker_that_waits_is_woken_by_an_offer(store: Store, worker: Worker) -> None:
    queue = worker("w")
    await queue.pending(1)  # makes the group
    waiting = asyncio.create_task(queue.wait(1))
    await eventually(lambda: _blocked(store), "the worker waits")
    (conversation,) = await offered(store)
    (claim,) = await waiting
    assert claim.conversation == conversation


async def _blocked(store: Store) -> bool:
    return b"blocked_clients:1\r" in await store.call("INFO", "clients")


async def test_waiting_in_vain_ends(worker: Worker) -> None:
    queue = worker("w")
    assert await queue.wait(1) == []  # makes the group
    assert await queue.wait(1) == []


# ---- claims


async def test_a_claim_is_done_once_and_by_its_owner_only(store: Store, worker: Worker) -> None:
    await offered(store)
    mine, other = worker("mine"), worker("other")
    await mine.pending(1)
    (claim,) = await mine.wait(1)
    assert not await other.done(claim)
    assert await lengths(store) == (1, 1)
    assert await mine.done(claim)
    assert await lengths(store) == (0, 0)
    assert await owners(store) == {}
    assert not await mine.done(claim)


async def test_a_turn_that_was_done_may_be_offered_again(store: Store, worker: Worker) -> None:
    (conversation,) = await offered(store)
    queue = worker("w")
    await queue.pending(1)
    (claim,) = await queue.wait(1)
    await queue.done(claim)
    await offer(store, [Role.REPLY], conversation, 1)
    (again,) = await queue.wait(1)
    assert (again.conversation, again.turn) == (claim.conversation, claim.turn) and again.id != claim.id


async def test_a_refreshed_claim_cannot_be_reclaimed(store: Store, worker: Worker) -> None:
    await offered(store, 2)
    mine, other = worker("mine"), worker("other")
    await mine.pending(1)
    kept, left = await mine.wait(2)
    await lapsed(store, kept, left)
    assert await mine.refresh([kept.id]) == []
    assert [claim.id for claim in await reclaimed(other, 9)] == [left.id]
    assert await owners(store) == {kept.id: "mine", left.id: "other"}


async def test_a_refresh_tells_what_is_lost_and_takes_nothing_back(store: Store, worker: Worker) -> None:
    await offered(store, 3)
    mine, other = worker("mine"), worker("other")
    await mine.pending(1)
    kept, taken, gone = await mine.wait(3)
    await lapsed(store, taken)
    await reclaimed(other, 1)
    await mine.done(gone)
    assert set(await mine.refresh([kept.id, taken.id, gone.id, "1-1"])) == {taken.id, gone.id, "1-1"}
    assert await owners(store) == {kept.id: "mine", taken.id: "other"}


async def test_an_owner_that_was_stopped_for_too_long_does_nothing_to_the_next(
    store: Store, worker: Worker
) -> None:
    await offered(store)
    mine, other = worker("mine"), worker("other")
    await mine.pending(1)
    (claim,) = await mine.wait(1)
    await lapsed(store, claim)
    (taken_over,) = await reclaimed(other, 1)
    assert taken_over.cause == "retry"
    assert not await mine.handback(claim)
    assert not await mine.done(claim)
    assert await owners(store) == {claim.id: "other"}
    assert await other.done(taken_over)


async def test_a_dead_owners_claim_is_found_behind_many_living_ones(store: Store, worker: Worker) -> None:
    await offered(store, 121)
    living, dead, other = worker("living"), worker("dead"), worker("other")
    await living.pending(1)
    await living.wait(120)
    (left,) = await dead.wait(1)
    await lapsed(store, left)
    assert [claim.id for claim in await reclaimed(other, 4)] == [left.id]


async def test_what_seems_to_lapse_because_redis_was_frozen_is_left_to_its_living_owner(
    store: Store, worker: Worker
) -> None:
    await offered(store, 2)
    mine, other = worker("mine"), worker("other")
    await mine.pending(1)
    kept, left = await mine.wait(2)
    await lapsed(store, kept, left)  # as every claim is when Redis wakes up
    assert await other.reclaim(9) == []
    await mine.refresh([kept.id])
    found = [claim.id for _ in range(3 * LOOKS) for claim in await other.reclaim(9)]
    assert found == [left.id]


async def test_after_an_error_it_is_looked_as_often_again(
    store: Store, worker: Worker, proxy: Proxy, far: Store
) -> None:
    await offered(store)
    mine, other = worker("mine"), WorkQueue(far, Role.REPLY, "other", lease_s=LEASE_S)
    await mine.pending(1)
    (left,) = await mine.wait(1)
    await lapsed(store, left)
    for _ in range(LOOKS - 1):
        assert await other.reclaim(1) == []
    proxy.lose_replies()
    with pytest.raises(StoreError):
        await other.reclaim(1)
    assert [claim.id for claim in await reclaimed(other, 1)] == [left.id]
    await other.close()


async def test_no_more_is_reclaimed_than_asked_for(store: Store, worker: Worker) -> None:
    await offered(store, 10)
    mine, other = worker("mine"), worker("other")
    await mine.pending(1)
    await lapsed(store, *await mine.wait(10))
    assert len(await reclaimed(other, 3)) == 3
    assert len(await other.reclaim(9)) == 7


async def test_a_restarted_worker_finds_what_it_held(store: Store, worker: Worker) -> None:
    await offered(store, 3)
    before = worker("w")
    await before.pending(1)
    held = await before.wait(2)
    after = worker("w")
    found = await after.pending(9)
    assert [claim.id for claim in found] == [claim.id for claim in held]
    assert {claim.cause for claim in found} == {"retry"}
    assert await worker("other").pending(9) == []
    assert len(await after.wait(9)) == 1


async def test_what_a_read_claimed_whose_reply_was_lost_was_never_tried(
    store: Store, proxy: Proxy, far: Store
) -> None:
    queue = WorkQueue(far, Role.REPLY, "w", lease_s=LEASE_S)
    await queue.pending(1)  # makes the group
    await offered(store, 2)
    proxy.lose_replies()
    with pytest.raises(StoreError):
        await queue.wait(1)
    (claim,) = await queue.pending(9)
    assert claim.cause == "claim"
    await queue.close()


async def test_an_entry_that_was_deleted_is_no_claim(store: Store, worker: Worker) -> None:
    await offered(store, 2)
    queue = worker("w")
    await queue.pending(1)
    deleted, kept = await queue.wait(2)
    await store.call("XDEL", STREAM, deleted.id)
    assert [claim.id for claim in await queue.pending(9)] == [kept.id]
    await lapsed(store, kept)
    assert [claim.id for claim in await reclaimed(worker("other"), 9)] == [kept.id]


# ---- hand-backs


async def test_a_hand_back_wakes_a_peer_that_waits(store: Store, worker: Worker) -> None:
    (conversation,) = await offered(store)
    mine, other = worker("mine"), worker("other")
    await mine.pending(1)
    (claim,) = await mine.wait(1)
    waiting = asyncio.create_task(other.wait(1))
    await eventually(lambda: _blocked(store), "the peer waits")
    assert await mine.handback(claim)
    (handed,) = await waiting
    assert (handed.conversation, handed.turn, handed.cause) == (conversation, 1, "handback")
    assert await lengths(store) == (1, 1)
    assert not await mine.handback(claim)
    await offer(store, [Role.REPLY], conversation, 1)
    assert await lengths(store) == (1, 1)


async def test_at_maxmemory_claims_are_kept_and_finished_but_none_is_offered(
    store: Store, worker: Worker, at_maxmemory: Callable[[], Awaitable[None]]
) -> None:
    await offered(store, 3)
    queue = worker("w")
    await queue.pending(1)
    done, handed, kept = await queue.wait(3)
    await at_maxmemory()
    with pytest.raises(StoreFull):
        await offered(store)
    assert await queue.done(done)
    assert await queue.handback(handed)
    assert await queue.refresh([kept.id]) == []
    (again,) = await queue.wait(1)
    assert again.conversation == handed.conversation


# ---- a server that forgets


async def test_claims_without_their_group_are_nobodys(store: Store, worker: Worker) -> None:
    await offered(store)
    queue = worker("w")
    await queue.pending(1)
    (claim,) = await queue.wait(1)
    await store.call("XGROUP", "DESTROY", STREAM, GROUP)
    assert await queue.refresh([claim.id]) == [claim.id]
    assert not await queue.done(claim)
    assert not await queue.handback(claim)


@pytest.mark.parametrize("way", ["pending", "wait", "reclaim"])
async def test_a_group_that_is_gone_is_made_again_from_the_start(
    store: Store, worker: Worker, way: str
) -> None:
    conversations = await offered(store, 2)
    queue = worker("w")
    await queue.pending(1)
    await queue.wait(1)
    await store.call("XGROUP", "DESTROY", STREAM, GROUP)
    assert await getattr(queue, way)(1) == []
    found = await queue.wait(9)
    assert [claim.conversation for claim in found] == conversations


async def test_after_everything_was_forgotten_work_goes_on(store: Store, worker: Worker) -> None:
    await offered(store)
    queue = worker("w")
    await queue.pending(1)
    (claim,) = await queue.wait(1)
    await store.call("FLUSHALL")
    await store.call("FUNCTION", "FLUSH")
    assert not await queue.done(claim)
    await offer(store, [Role.REPLY], claim.conversation, claim.turn)
    assert await queue.wait(1) == []
    (again,) = await queue.wait(1)
    assert again.conversation == claim.conversation
    assert await queue.done(again)


async def test_an_error_that_is_no_missing_group_is_raised(store: Store, worker: Worker) -> None:
    await store.call("SET", STREAM, "no stream")
    queue = worker("w")
    for attempt in (queue.pending(1), queue.wait(1), queue.reclaim(1)):
        with pytest.raises(StoreError, match="WRONGTYPE"):
            await attempt


# ---- dead letters


async def test_dead_letters_are_ids_and_a_reason_and_bounded(store: Store) -> None:
    for turn in range(1, 4):
        await bury(store, Role.REPLY, "abc", turn, "3 attempts failed")
    ((_, flat),) = await store.call("XREVRANGE", DEAD, "+", "-", "COUNT", 1)
    assert dict(zip(flat[::2], flat[1::2], strict=True)) == {
        b"role": b"reply",
        b"conversation": b"abc",
        b"turn": b"3",
        b"reason": b"3 attempts failed",
    }
    await asyncio.gather(
        *(bury(store, Role.REPLY, "abc", turn, "again") for turn in range(DEAD_LETTERS + 50))
    )
    assert await store.call("XLEN", DEAD) == DEAD_LETTERS
