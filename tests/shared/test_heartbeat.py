"""The heartbeat keeps what its worker holds, tells what was lost, and outlives everything but its `stop`."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from shared.keys import GROUP, WORKERS, Role, worker_key
from shared.store import Store
from shared.work import REFRESH_AT_ONCE, Announcement, Heartbeat
from tests.conftest import eventually
from tests.shared.support import calls
from tests.shared.working import LAPSED_MS, STREAM, Worker, lapsed, offered, reclaimed

BEAT_LEASE_S = 0.2


class Beating:
    """A heartbeat, what it is to refresh, and what it says is lost."""

    def __init__(self, url: str) -> None:
        self.held: list[str] | None = []
        self.lost: list[str] = []
        self.counts = {"computing": 1, "wasted_starts": 3}
        announcement = Announcement("w", Role.REPLY, "scripted", "asked for", 8, (("anna", "de"),))
        self.thread = Heartbeat(
            url,
            announcement,
            lease_s=BEAT_LEASE_S,
            held=lambda: self.held,
            lost=self.lost.append,
            counts=lambda: self.counts,
        )


@contextmanager
def beating(url: str) -> Iterator[Beating]:
    """A running heartbeat of the worker `w`."""
    beat = Beating(url)
    beat.thread.start()
    try:
        yield beat
    finally:
        beat.thread.stop()


async def announced(store: Store) -> bool:
    """Whether the worker's announcement stands."""
    return bool(await store.call("EXISTS", worker_key("w")))


async def test_a_heartbeat_announces_its_worker_and_takes_it_back(redis_url: str, store: Store) -> None:
    with beating(redis_url) as beat:
        beat.held = ["1-1", "1-2"]
        said: dict[str, object] = {}

        async def says_so() -> bool:
            said.update(json.loads(await store.call("GET", worker_key("w")) or b"{}"))
            return said.get("attached") == 2

        await eventually(says_so, "the announcement")
        assert said == {
            "name": "w",
            "role": "reply",
            "engine": "scripted",
            "reason": "asked for",
            "slots": 8,
            "attached": 2,
            "voices": [{"name": "anna", "language": "de"}],
            "computing": 1,
            "wasted_starts": 3,
        }
        assert await store.call("PTTL", worker_key("w")) <= BEAT_LEASE_S * 1000
        assert await store.call("SMEMBERS", WORKERS) == [b"w"]
    assert not await announced(store)
    assert await store.call("SMEMBERS", WORKERS) == []


async def test_a_worker_that_hangs_keeps_nothing_and_is_announced_no_more(
    redis_url: str, store: Store, worker: Worker
) -> None:
    await offered(store)
    mine, other = worker("w"), worker("other")
    await mine.pending(1)
    (claim,) = await mine.wait(1)
    await lapsed(store, claim)

    async def forgotten() -> bool:
        return not await announced(store)

    with beating(redis_url) as beat:
        await eventually(lambda: announced(store), "the announcement")
        beat.held = None
        await eventually(forgotten, "the announcement lapses")
        assert [claim.id for claim in await reclaimed(other, 1)] == [claim.id]


async def test_a_heartbeat_keeps_all_that_is_held(redis_url: str, store: Store, worker: Worker) -> None:
    await offered(store, 2 * REFRESH_AT_ONCE + 20)
    mine, other = worker("w"), worker("other")
    await mine.pending(1)
    *kept, left = await mine.wait(2 * REFRESH_AT_ONCE + 20)
    await lapsed(store, *kept, left)

    async def are_kept() -> bool:
        pending = await store.call("XPENDING", STREAM, GROUP, "IDLE", LAPSED_MS, "-", "+", 999)
        return len(pending) == 1

    with beating(redis_url) as beat:
        beat.held = [claim.id for claim in kept]
        await eventually(are_kept, "all but one claim are refreshed")
        assert [claim.id for claim in await reclaimed(other, 999)] == [left.id]
        assert beat.lost == []


async def test_a_heartbeat_tells_what_a_peer_has_taken_over(
    redis_url: str, store: Store, worker: Worker
) -> None:
    await offered(store, 2)
    mine, other = worker("w"), worker("other")
    await mine.pending(1)
    taken, kept = await mine.wait(2)
    await lapsed(store, taken)
    await reclaimed(other, 1)
    with beating(redis_url) as beat:
        beat.held = [taken.id, kept.id]
        await eventually(lambda: bool(beat.lost), "the loss is told")
        assert set(beat.lost) == {taken.id}


async def test_a_heartbeat_lets_a_turn_run_on_whose_claim_nobody_has(
    redis_url: str, store: Store, worker: Worker
) -> None:
    await offered(store, 2)
    mine = worker("w")
    await mine.pending(1)
    forgotten, unclaimed = await mine.wait(2)
    await mine.done(forgotten)  # the same to Redis as if it had forgotten the offer
    await store.call("XACK", STREAM, GROUP, unclaimed.id)
    with beating(redis_url) as beat:
        before = await calls(store, "fcall")
        beat.held = [forgotten.id, unclaimed.id]

        async def refreshed() -> bool:
            return await calls(store, "fcall") >= before + 3

        await eventually(refreshed, "some beats")
        assert beat.lost == []


async def test_a_heartbeat_goes_on_where_the_functions_were_lost(
    redis_url: str, store: Store, worker: Worker
) -> None:
    await offered(store)
    mine = worker("w")
    await mine.pending(1)
    (claim,) = await mine.wait(1)
    await lapsed(store, claim)
    await store.call("FUNCTION", "FLUSH")
    with beating(redis_url) as beat:
        beat.held = [claim.id]

        async def refreshed() -> bool:
            return not await store.call("XPENDING", STREAM, GROUP, "IDLE", LAPSED_MS, "-", "+", 9)

        await eventually(refreshed, "the claim is refreshed")
        assert beat.lost == []


async def test_a_heartbeat_goes_on_when_its_connection_is_killed(redis_url: str, store: Store) -> None:
    with beating(redis_url):
        await eventually(lambda: announced(store), "the announcement")
        for _ in range(3):
            await store.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await store.call("DEL", worker_key("w"))
            await eventually(lambda: announced(store), "the announcement again")


async def test_a_heartbeat_survives_a_server_that_is_away_and_stops(redis_url: str) -> None:
    beat = Beating("redis://127.0.0.1:1")
    beat.held = ["1-1"]
    beat.thread.start()
    beat.thread.stop()
    assert not beat.thread.is_alive()


async def test_a_heartbeat_keeps_claims_at_maxmemory(
    redis_url: str, store: Store, worker: Worker, at_maxmemory: Callable[[], Awaitable[None]]
) -> None:
    await offered(store)
    mine = worker("w")
    await mine.pending(1)
    (claim,) = await mine.wait(1)
    await lapsed(store, claim)
    await at_maxmemory()
    with beating(redis_url) as beat:
        beat.held = [claim.id]

        async def refreshed() -> bool:
            return not await store.call("XPENDING", STREAM, GROUP, "IDLE", LAPSED_MS, "-", "+", 9)

        await eventually(refreshed, "the claim is refreshed")
