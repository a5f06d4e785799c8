from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from edge.keeper import AT_ONCE, Keeper
from shared.hold import Hold, new_conversation, new_token
from shared.keys import meta_key, session_key
from shared.store import Store
from tests.conftest import eventually


class Holder:
    """A session as the keeper sees it."""

    def __init__(self, hold: Hold) -> None:
        self.hold = hold
        self.times_lost = 0
        self.times_forgotten = 0
        self.times_restarted = 0

    def lost(self) -> None:
        self.times_lost += 1

    def forgotten(self) -> None:
        self.times_forgotten += 1

    def restarted(self) -> None:
        self.times_restarted += 1


@pytest.fixture
async def keeper(store: Store) -> AsyncIterator[Keeper]:
    keeper = Keeper(store, resume_ttl_s=120.0)
    running = asyncio.create_task(keeper.run())
    await eventually(lambda: listens(store, keeper), "the keeper listens")
    yield keeper
    running.cancel()
    await asyncio.wait([running])


async def listens(store: Store, keeper: Keeper) -> bool:
    channel = f"edge:{keeper.edge}"
    return bool((await store.call("PUBSUB", "SHARDNUMSUB", channel))[1])


async def begun(keeper: Keeper, token: str = "token") -> Holder:
    holder = Holder(keeper.hold(new_conversation()))
    await holder.hold.begin(token, {})
    keeper.add(holder)
    return holder


async def test_the_leases_of_all_sessions_are_refreshed(store: Store, keeper: Keeper) -> None:
    holders = [await begun(keeper) for _ in range(AT_ONCE + 5)]
    for holder in holders:
        await store.call("DEL", session_key(holder.hold.conversation))
    await keeper.refresh()
    for holder in holders:
        assert await store.call("GET", session_key(holder.hold.conversation)) == holder.hold.tag.encode()
        assert holder.times_lost == holder.times_forgotten == 0


async def test_a_session_that_ended_is_left_alone(store: Store, keeper: Keeper) -> None:
    holder = await begun(keeper)
    keeper.remove(holder)
    await holder.hold.release(ended=False)
    await keeper.refresh()
    assert await store.call("EXISTS", session_key(holder.hold.conversation)) == 0


async def test_a_refresh_finds_out_that_another_edge_has_the_conversation(
    store: Store, keeper: Keeper
) -> None:
    holder = await begun(keeper)
    await store.call("SET", session_key(holder.hold.conversation), "another")
    await keeper.refresh()
    assert holder.times_lost == 1


async def test_a_refresh_finds_out_that_redis_lost_the_meta_hash(store: Store, keeper: Keeper) -> None:
    holder = await begun(keeper)
    await store.call("DEL", meta_key(holder.hold.conversation))
    await keeper.refresh()
    assert holder.times_forgotten == 1


async def test_a_session_is_told_when_redis_is_another_process(store: Store, keeper: Keeper) -> None:
    holder = await begun(keeper)
    await connects_again(store, keeper, "another")
    await eventually(lambda: holder.times_restarted == 1, "it is told")
    await connects_again(store, keeper, keeper._run)
    await connects_again(store, keeper, "a third")
    await eventually(lambda: holder.times_restarted == 2, "it is told again, and was not in between")


async def connects_again(store: Store, keeper: Keeper, run: str | None) -> None:
    """The keeper loses its connection. `run`: what it believes of Redis meanwhile."""
    before, keeper._run = keeper._pushes, run
    await store.call("CLIENT", "KILL", "TYPE", "pubsub")
    await eventually(lambda: keeper._pushes not in (None, before), "the keeper listens again")
    await eventually(lambda: str(keeper._run).startswith("run_id:"), "it has asked what Redis is")


async def test_an_older_session_on_the_same_edge_is_told_at_once(keeper: Keeper) -> None:
    older = await begun(keeper)
    newer = Holder(keeper.hold(older.hold.conversation))
    keeper.add(newer)
    assert (older.times_lost, newer.times_lost) == (1, 0)
    keeper.remove(older)
    await keeper.refresh()
    assert newer.times_lost == 1, "the newer one is still refreshed, though it never took the lease"


async def test_a_notice_from_another_edge_ends_the_older_session(store: Store, keeper: Keeper) -> None:
    other = Keeper(store, resume_ttl_s=120.0)
    token = new_token()
    older = await begun(keeper, token)
    newer = other.hold(older.hold.conversation)
    resumed = await newer.resume(token, new_token())
    assert resumed is not None
    await other.tell(resumed.edge, newer)
    await eventually(lambda: older.times_lost == 1, "the notice came")


async def test_a_notice_about_a_conversation_that_is_not_here_does_no_harm(
    store: Store, keeper: Keeper
) -> None:
    holder = await begun(keeper)
    other = Keeper(store, resume_ttl_s=120.0)
    await other.tell(keeper.edge, other.hold(new_conversation()))
    await store.call("SPUBLISH", f"edge:{keeper.edge}", b"\xff\xfe no notice")
    await other.tell(keeper.edge, holder.hold)
    await eventually(lambda: listens(store, keeper), "the keeper listens on")
    assert holder.times_lost == 0


async def test_the_keeper_listens_again_after_its_connection_was_cut(store: Store, keeper: Keeper) -> None:
    older = await begun(keeper)
    await store.call("CLIENT", "KILL", "TYPE", "pubsub")
    await eventually(lambda: listens(store, keeper), "the keeper listens again")
    other = Keeper(store, resume_ttl_s=120.0)
    await other.tell(keeper.edge, other.hold(older.hold.conversation))
    await eventually(lambda: older.times_lost == 1, "the notice came")
