"""A stage: claims turns, has each served by a handler, takes over from the dead, drains.

The same for every role: the LLM worker and the TTS worker are a handler each. A handler reads one log and
appends to the next; what it need not know is how a turn came to it, and what becomes of it when it fails.

    claim ─> held ─> done
               │ died or stalled: the claim lapses, and whoever takes the log next goes on after what
               └ stands there
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial

from shared.errors import StoreError
from shared.reader import Reader
from shared.settings import Settings
from shared.store import Store
from shared.work import Claim, Heartbeat, WorkQueue
from workers.attempt import AGAIN_S
from workers.handler import Handler
from workers.held import Held, Means
from workers.pulse import Pulse

log = logging.getLogger(__name__)

CLAIM_AT_ONCE = 4
"""How many turns one read claims at the most: what a busy worker leaves, an idle peer takes."""

WAITING_LINE_S = 5.0

HAND_BACK_S = 0.5
"""What is kept of `DRAIN_S` for handing back what could not be finished."""

WRITERS_FIRST_S = 2.0
"""How long nothing is claimed once Redis is back: twice as long as a writer waits between two attempts."""


class Stage:
    """Runs one handler over all turns that this worker claims. `name` is stable over its restarts.

    `hangs` is called, by another thread, when the event loop has made no pass for `STALL_S`.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        handler: Handler,
        name: str,
        hangs: Callable[[], None] = lambda: None,
    ) -> None:
        self._hangs = hangs
        self._pulse = Pulse()
        self._settings = settings
        self._store = store
        self._handler = handler
        self._name = name
        self._reader = Reader(store)
        self._queue = WorkQueue(store, handler.role, name, lease_s=settings.lease_s)
        self._asked_at = 0.0
        self._asked = asyncio.Event()
        self._room = asyncio.Event()
        self._means = Means(
            settings, store, self._reader, self._queue, handler, released=self._asked, room=self._room
        )
        self._held: dict[str, Held] = {}

    @property
    def attached(self) -> int:
        """How many turns this worker has to do. Those that have ended are only kept for a while."""
        return sum(not held.attempts.ended for held in list(self._held.values()))

    def drain(self) -> None:
        """Claim nothing more, and let `run` come to its end."""
        if not self._draining:
            self._asked_at = time.monotonic()
        self._asked.set()
        self._room.set()

    @property
    def _draining(self) -> bool:
        return self._asked.is_set()

    async def run(self) -> None:
        """Work until `drain`; then finish what computes within `DRAIN_S` and hand the rest back."""
        await self._reach_redis()
        announcement = self._handler.announcement(self._name, self._settings.max_attached)
        heartbeat = Heartbeat(
            self._store.url,
            announcement,
            lease_s=self._settings.lease_s,
            held=self._alive,
            lost=self._lose_soon(asyncio.get_running_loop()),
            counts=self._counts,
        )
        following = asyncio.create_task(self._reader.run(), name="reader")
        beating = asyncio.create_task(self._pulse.run(), name="pulse")
        heartbeat.start()
        log.info("ready: %s", announcement.reason)
        try:
            async with asyncio.TaskGroup() as loops:
                loops.create_task(self._claim_loop(), name="claim")
                loops.create_task(self._reclaim_loop(), name="reclaim")
                loops.create_task(self._finish(), name="finish")
        finally:
            await asyncio.to_thread(heartbeat.stop)
            following.cancel()
            beating.cancel()
            await self._queue.close()

    async def _reach_redis(self) -> None:
        said_at = -WAITING_LINE_S
        while not self._draining:
            try:
                return await self._store.load()
            except StoreError as error:
                if time.monotonic() - said_at > WAITING_LINE_S:
                    log.warning("waiting for redis: %s", error)
                    said_at = time.monotonic()
                await asyncio.sleep(AGAIN_S)

    # Claims

    async def _claim_loop(self) -> None:
        unsure = True  # whether this consumer may hold entries that it knows nothing of
        while not self._draining:
            room = self._settings.max_attached - self.attached
            if room <= 0:
                self._room.clear()
                await self._room.wait()
                continue
            try:
                if unsure:
                    if await self._queue.restarted():
                        await self._let_writers_go_first()
                    claims = await self._queue.pending(room + len(self._held))
                    unsure = False
                else:
                    claims = await self._queue.wait(min(room, CLAIM_AT_ONCE))
            except StoreError as error:
                log.warning("cannot claim: %s", error)
                unsure = True
                await asyncio.sleep(random.uniform(AGAIN_S, 3 * AGAIN_S))
                continue
            await self._take_up(claims)

    async def _let_writers_go_first(self) -> None:
        """What Redis forgot of a turn and its claim, its writer writes again: meanwhile nobody takes it."""
        log.warning("redis was restarted: nothing is claimed for %g s", WRITERS_FIRST_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(WRITERS_FIRST_S):
                await self._asked.wait()

    async def _reclaim_loop(self) -> None:
        while not self._draining:
            await asyncio.sleep(random.uniform(0.15, 0.25) * self._settings.lease_s)
            room = max(0, self._settings.max_attached - self.attached)
            if self._draining:
                break
            try:
                claims = await self._queue.reclaim(min(room, CLAIM_AT_ONCE))
            except StoreError as error:
                log.debug("cannot reclaim: %s", error)
                continue
            for claim in claims:
                held = self._held.get(claim.id)
                if held is None:
                    log.info("taking over turn %d of %s", claim.turn, claim.conversation)
                elif held.attempts.stalled:
                    # Its own stalled turn came back: nobody else had room, so this worker tries again.
                    self._drop(held)
            await self._take_up(claims)
            await self._lose_stalled()

    async def _lose_stalled(self) -> None:
        """Let go of stalled turns that a peer has taken over: of these, no refresh tells."""
        stalled = [claim_id for claim_id, held in self._held.items() if held.attempts.stalled]
        try:
            own = await self._queue.still_held(stalled) if stalled else set()
        except StoreError as error:
            log.debug("cannot see who holds what: %s", error)
            return
        for claim_id in set(stalled) - own:
            self._lose(claim_id)

    async def _take_up(self, claims: Iterable[Claim]) -> None:
        new = [claim for claim in claims if claim.id not in self._held]
        if self._draining:
            await self._hand_back(new)
            return
        for claim in new:
            held = self._held[claim.id] = Held(self._means, claim)
            held.task.add_done_callback(partial(self._forget, held))

    def _alive(self) -> list[str] | None:
        """The claims to refresh; `None` if the event loop hangs. Called by the heartbeat's thread."""
        silent_s = self._pulse.silent_s()
        if silent_s > self._settings.stall_s:
            self._hangs()
            return None
        # Those that have ended too: Redis may have forgotten that their work is done, and would give it away.
        return [claim_id for claim_id, each in list(self._held.items()) if not each.attempts.stalled]

    def _counts(self) -> dict[str, int]:
        """What is announced beside the number of turns. Called by the heartbeat's thread."""
        computing = sum(held.attempts.computing for held in list(self._held.values()))
        return {"attached": self.attached, "computing": computing, **self._handler.counts()}

    def _lose_soon(self, loop: asyncio.AbstractEventLoop) -> Callable[[str], None]:
        def lose_soon(claim_id: str) -> None:
            loop.call_soon_threadsafe(self._lose, claim_id)

        return lose_soon

    def _lose(self, claim_id: str) -> None:
        held = self._held.get(claim_id)
        if held is not None:
            log.warning("turn %d of %s went to another worker", held.claim.turn, held.claim.conversation)
            self._drop(held)

    def _drop(self, held: Held) -> None:
        """Hold the turn no more. Nobody waits for its attempt: what that still writes, the log refuses."""
        held.task.cancel()
        self._forget(held)

    def _forget(self, held: Held, _: asyncio.Task[None] | None = None) -> None:
        if self._held.get(held.claim.id) is held:
            del self._held[held.claim.id]
            self._room.set()

    # The end

    async def _finish(self) -> None:
        """Once asked to drain: let go of what only waits, and, when time runs out, of what computes."""
        await self._asked.wait()
        until = self._asked_at + self._settings.drain_s - HAND_BACK_S
        # What has ended needs no peer: it is released by the same event.
        await self._let_go([held for held in self._held.values() if held.attempts.waits])
        if self._held:
            log.info("finishing %d turns", len(self._held))
        while self._held and (left_s := until - time.monotonic()) > 0:
            await asyncio.wait([held.task for held in self._held.values()], timeout=left_s)
        await self._let_go(list(self._held.values()))

    async def _let_go(self, turns: Sequence[Held]) -> None:
        for held in turns:
            self._drop(held)
        await self._hand_back([held.claim for held in turns])

    async def _hand_back(self, claims: Sequence[Claim]) -> None:
        """All at once: the process has little time, and whoever has room should not wait for the last."""
        if claims:
            await asyncio.wait(
                [asyncio.create_task(self._handed_back(claim)) for claim in claims], timeout=HAND_BACK_S
            )

    async def _handed_back(self, claim: Claim) -> None:
        try:
            if await self._queue.handback(claim):
                log.info("handed back turn %d of %s", claim.turn, claim.conversation)
        except StoreError as error:
            log.warning("a claim lapses by itself: %s", error)
