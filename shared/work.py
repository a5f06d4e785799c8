"""Who takes which turn: offers, claims and their refresh, take-over, dead letters.

A claim is trusted for speed only: it decides who tries, the log decides who writes. Knows nothing of engines.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from shared.errors import StoreError
from shared.keys import DEAD, DEAD_LETTERS, GROUP, WORKERS, Role, Trade, index_key, work_key, worker_key
from shared.log import insist
from shared.store import FUNCTION_MISSING, LIBRARY_THERE, TIMEOUT_S, Reply, Store, libraries

log = logging.getLogger(__name__)

BLOCK_S = 1.0
"""How long a worker waits in one read for work. Always well under the time-out of its connection."""

REFRESH_AT_ONCE = 100

LOOK_AT = 1000
"""How many claims that seem to lapse are looked at; those behind them wait."""

LOOKS = 3
"""In how many looks in a row a claim must seem to lapse before it is taken over: between the first and the
last of them every living owner refreshes what it holds.
"""


async def offer(store: Store, roles: Iterable[Role], conversation: str, turn: int) -> None:
    """Offer the turn to the workers of each role, in one round trip. Offering twice is offering once."""
    calls = [("parley_offer_2", (work_key(role), index_key(role)), (conversation, turn)) for role in roles]
    await store.functions(calls)


async def bury(store: Store, role: Role, conversation: str, turn: int, reason: str) -> None:
    """Leave a note, ids and reason only, of a turn that failed for good in the hands of a role."""
    fields = ("role", role.value, "conversation", conversation, "turn", turn)
    await store.call("XADD", DEAD, "MAXLEN", DEAD_LETTERS, "*", *fields, "reason", reason)


@dataclass(frozen=True, slots=True)
class Claim:
    """One turn in a worker's hands. `cause` is written into the log when the turn is taken.

    `claim`: new. `handback`: a peer gave it back in order. `retry`: its owner died, or this worker did.
    """

    id: str
    conversation: str
    turn: int
    cause: str


class WorkQueue:
    """The work stream of one role, as one consumer sees it.

    `consumer` is stable over restarts of a worker, so that it finds what it left pending.
    """

    def __init__(self, store: Store, role: Role, consumer: str, *, lease_s: float) -> None:
        self.role = role
        self.consumer = consumer
        self.stream = work_key(role)
        self.keys = (self.stream, index_key(role))
        self._store = store
        self._lease_ms = int(lease_s * 1000)
        self._inherits = True
        self._run: str | None = None
        self._lapsing: dict[bytes, int] = {}
        # Blocking reads have a connection of their own: nothing may stand in a queue behind one.
        self._blocking = Store(store.url, timeout_s=BLOCK_S + TIMEOUT_S)

    async def pending(self, count: int) -> list[Claim]:
        """What this consumer holds already: at first what its predecessor left, which tried it.

        Asked again, it is what reads have claimed whose replies were lost: nobody has tried that.
        """
        found = await self._grouped(self._store, ("COUNT", count, "STREAMS", self.stream, "0"))
        cause, self._inherits = "retry" if self._inherits else None, False
        return self._claims(_of_stream(found), cause)

    async def wait(self, count: int) -> list[Claim]:
        """Claim up to `count` new turns; wait for one at most `BLOCK_S`."""
        options = ("COUNT", count, "BLOCK", int(BLOCK_S * 1000), "STREAMS", self.stream, ">")
        return self._claims(_of_stream(await self._grouped(self._blocking, options)), None)

    async def reclaim(self, count: int) -> list[Claim]:
        """Take up to `count` turns over from owners that have not refreshed them for a lease.

        For a caller that looks some five times a lease, be it with a count of 0. (`XAUTOCLAIM` looks once: if
        Redis was frozen, it takes everything from everybody, even when its caller has long given it up.)
        """
        seen, self._lapsing = self._lapsing, {}
        options = ("IDLE", self._lease_ms // 2, "-", "+", LOOK_AT)
        try:
            found = await self._store.call("XPENDING", self.stream, GROUP, *options)
        except StoreError as error:
            await self._heal(error)
            return []
        self._lapsing = {entry_id: seen.get(entry_id, 0) + 1 for entry_id, _, _, _ in found}
        lapsed = [
            entry_id
            for entry_id, _, idle_ms, _ in found
            if idle_ms >= self._lease_ms and self._lapsing[entry_id] >= LOOKS
        ]
        if not (taken := lapsed[:count]):
            return []
        one = ("XCLAIM", self.stream, GROUP, self.consumer, self._lease_ms)
        return self._claims(await self._store.call(*one, *taken), "retry")

    async def restarted(self) -> bool:
        """Whether Redis is another process than when this was asked last, that may have forgotten a bit."""
        before, self._run = self._run, await self._store.run()
        return before not in (None, self._run)

    async def still_held(self, ids: Sequence[str]) -> set[str]:
        """Which of these claims are this consumer's, refreshed or not."""
        one = ("XPENDING", self.stream, GROUP)
        found = await self._store.call_all([(*one, id_, id_, 1, self.consumer) for id_ in ids])
        return {claim_id for claim_id, pending in zip(ids, found, strict=True) if pending}

    async def refresh(self, ids: Sequence[str]) -> list[str]:
        """Keep these claims for another lease; the ids among them that are not this consumer's any more."""
        args = (GROUP, self.consumer, *ids)
        lost, gone = await insist(self._store, "parley_refresh_2", (self.stream,), args)
        return [claim_id.decode() for claim_id in (*lost, *gone)]

    async def done(self, claim: Claim) -> bool:
        """The turn needs no more work. False if the claim was lost."""
        return await self._finish("parley_done_2", claim)

    async def handback(self, claim: Claim) -> bool:
        """Offer the turn again to whoever has room. False if the claim was lost."""
        return await self._finish("parley_handback_2", claim)

    async def close(self) -> None:
        """Close the connection of the blocking reads."""
        await self._blocking.close()

    async def _finish(self, function: str, claim: Claim) -> bool:
        args = (GROUP, self.consumer, claim.id, claim.conversation, claim.turn)
        return bool(await insist(self._store, function, self.keys, args))

    async def _grouped(self, store: Store, options: Sequence[str | int]) -> Reply:
        try:
            return await store.call("XREADGROUP", "GROUP", GROUP, self.consumer, *options)
        except StoreError as error:
            await self._heal(error)
            return None

    async def _heal(self, error: StoreError) -> None:
        if "NOGROUP" not in str(error):
            raise error
        try:
            # From the start, never from `$`: what was offered before the group existed must be seen.
            await self._store.call("XGROUP", "CREATE", self.stream, GROUP, "0", "MKSTREAM")
        except StoreError as already:
            if "BUSYGROUP" not in str(already):
                raise

    def _claims(self, found: Reply, cause: str | None) -> list[Claim]:
        claims = []
        for entry_id, flat in found or ():
            if flat:  # An entry that was deleted while it was pending has no fields.
                fields = dict(zip(flat[::2], flat[1::2], strict=True))
                claims.append(
                    Claim(
                        entry_id.decode(),
                        fields[b"conversation"].decode(),
                        int(fields[b"turn"]),
                        cause or fields[b"cause"].decode(),
                    )
                )
        return claims


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a worker says of itself, for edges and people."""

    name: str
    role: Trade
    engine: str
    reason: str
    slots: int
    voices: tuple[tuple[str, str], ...] = ()
    """Pairs of voice and language (a BCP 47 tag)."""

    def dump(self, attached: int, counts: Mapping[str, int] | None = None) -> str:
        """As it stands in `worker:{name}`: with the claims held, and whatever else is counted, by name.

        `attached`: if it is counted, the turns that are still to be done, instead of all claims. `computing`:
        those whose engine is at work. `started_ahead`, `wasted_starts`: answers that were begun at a pause
        since the worker began, and those of them that were thrown away.
        """
        return json.dumps(
            {
                "name": self.name,
                "role": str(self.role),
                "engine": self.engine,
                "reason": self.reason,
                "slots": self.slots,
                "attached": attached,
                "voices": [{"name": name, "language": language} for name, language in self.voices],
                **(counts or {}),
            }
        )


class Heartbeat(threading.Thread):
    """Refreshes claims and the worker's announcement each quarter of the lease.

    A thread with a connection of its own, so that no model call can hold it up. `held` answers with the ids
    to refresh, or with `None` if the worker hangs: then nothing is refreshed, nor announced. `counts` answers
    with what is announced beside their number. `lost` is called, in this thread as those are, with the ids
    that another worker has. A claim that nobody has is no reason to stop: if Redis forgot it, only this
    worker has what is written in the turn, until somebody takes its log; and if a peer was done with it, the
    log says so.
    """

    def __init__(
        self,
        url: str,
        announcement: Announcement,
        *,
        lease_s: float,
        held: Callable[[], Sequence[str] | None],
        lost: Callable[[str], None],
        counts: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self.announcement = announcement
        """What is said of this worker from the next beat on; its name stays the same."""
        self._lease_s = lease_s
        self._held = held
        self._lost = lost
        self._counts = counts
        self._ended = threading.Event()
        # A connection that was closed meanwhile says nothing of Redis, so it is asked again at once: a claim
        # that a restarted one has from its disk may lapse before the next beat.
        again = Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))
        self._redis = redis.Redis.from_url(url, protocol=2, socket_timeout=TIMEOUT_S, retry=again)

    def run(self) -> None:
        """Beat until `stop`. An error is logged and the next beat tries again."""
        period_s = self._lease_s / 4
        while not self._ended.is_set():
            started = time.monotonic()
            try:
                self._beat()
            except (redis.RedisError, OSError) as error:
                log.warning("a heartbeat failed: %s", error)
            self._ended.wait(max(0.0, period_s - (time.monotonic() - started)))

    def stop(self) -> None:
        """End the thread and withdraw the announcement, as far as Redis answers."""
        self._ended.set()
        self.join()
        try:
            self._redis.delete(worker_key(self.announcement.name))
            self._redis.srem(WORKERS, self.announcement.name)
        except (redis.RedisError, OSError) as error:
            log.debug("the announcement lapses by itself: %s", error)
        self._redis.close()

    def _beat(self) -> None:
        held = self._held()
        if held is None:
            return
        name, role = self.announcement.name, self.announcement.role
        # Claims first: at `maxmemory` they can be refreshed, but nothing can be announced.
        if isinstance(role, Role):
            self._keep(work_key(role), held)
        lease_ms = int(self._lease_s * 1000)
        said = self.announcement.dump(len(held), self._counts())
        self._redis.set(worker_key(name), said, px=lease_ms)
        self._redis.sadd(WORKERS, name)

    def _keep(self, stream: str, held: Sequence[str]) -> None:
        for start in range(0, len(held), REFRESH_AT_ONCE):
            lost, _ = self._refresh(stream, held[start : start + REFRESH_AT_ONCE])
            for claim_id in lost:
                self._lost(claim_id.decode())

    def _refresh(self, stream: str, ids: Sequence[str]) -> Reply:
        args = (stream, GROUP, self.announcement.name, *ids)
        try:
            return self._redis.fcall("parley_refresh_2", 1, *args)
        except redis.ResponseError as error:
            if FUNCTION_MISSING not in str(error):
                raise
        for source in libraries():
            try:
                self._redis.function_load(source)
            except redis.ResponseError as error:
                if LIBRARY_THERE not in str(error):
                    raise
        return self._redis.fcall("parley_refresh_2", 1, *args)


def _of_stream(found: Reply) -> Reply:
    return found[0][1] if found else ()
