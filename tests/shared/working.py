"""What tests of claims share: offers, and who holds what."""

from __future__ import annotations

from collections.abc import Callable

from shared.hold import new_conversation
from shared.keys import GROUP, Role, index_key, work_key
from shared.store import Store
from shared.work import LOOKS, Claim, WorkQueue, offer

STREAM, INDEX = work_key(Role.REPLY), index_key(Role.REPLY)

LEASE_S = 3600.0
"""No claim lapses by itself while a test runs."""

LAPSED_MS = 4_000_000

Worker = Callable[..., WorkQueue]


async def offered(store: Store, count: int = 1) -> list[str]:
    """Offer the first turn of so many conversations to the LLM workers; their ids."""
    conversations = [new_conversation() for _ in range(count)]
    for conversation in conversations:
        await offer(store, [Role.REPLY], conversation, 1)
    return conversations


async def lapsed(store: Store, *claims: Claim) -> None:
    """Let these claims be as old as if nobody had refreshed them for a lease."""
    holders = await owners(store)
    for claim in claims:
        command = ("XCLAIM", STREAM, GROUP, holders[claim.id], 0, claim.id, "IDLE", LAPSED_MS, "JUSTID")
        await store.call(*command)


async def owners(store: Store) -> dict[str, str]:
    """Who holds which claim."""
    pending = await store.call("XPENDING", STREAM, GROUP, "-", "+", 10_000)
    return {entry_id.decode(): owner.decode() for entry_id, owner, _, _ in pending}


async def reclaimed(queue: WorkQueue, count: int) -> list[Claim]:
    """What this worker takes over once it has looked often enough."""
    for _ in range(LOOKS - 1):
        assert await queue.reclaim(count) == []
    return await queue.reclaim(count)
