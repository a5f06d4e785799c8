"""One turn in a worker's hands, from its claim until it is done, handed back or another's.

    claim ─> attempts ─> done ─> kept while Redis may forget it

Owns what the claim means for the attempts: what came before them, and whether it still stands.
"""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass, field

from shared import logs
from shared.errors import EntryGarbled, StoreError
from shared.keys import Role, log_key
from shared.log import persist, read_log
from shared.reader import Reader
from shared.settings import Settings
from shared.store import Store
from shared.wire import Address
from shared.work import Claim, WorkQueue, bury
from workers.attempt import Attempts, failed_attempts
from workers.handler import Handler

log = logging.getLogger(__name__)

LOOK_S = 0.05
"""How often it is looked whether a suspect has written anything."""

OUTAGE_S = 1.0
"""The pause before a turn is taken up again that Redis refused, or did not answer for too long."""


class _Hold:
    """The hold of whoever has claimed a turn."""

    def __init__(self, store: Store, queue: WorkQueue, claim: Claim) -> None:
        self.conversation, self.number = claim.conversation, claim.turn
        self._store = store
        self._queue = queue
        self._claim = claim

    async def stands(self) -> bool:
        """Whether the claim is still this worker's."""
        return not await self._queue.refresh([self._claim.id])

    async def bury(self, role: Role, reason: str) -> None:
        """Leave a dead letter."""
        await bury(self._store, role, self.conversation, self.number, reason)


@dataclass(frozen=True, slots=True)
class Means:
    """What one worker serves all its turns with.

    `released` is set when nothing is to be kept any more, `room` by each turn that needs no slot any more.
    """

    settings: Settings
    store: Store
    reader: Reader
    queue: WorkQueue
    handler: Handler
    released: asyncio.Event
    room: asyncio.Event
    alone: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held for a turn that may have killed its worker, until it moves: its neighbours died of nothing."""


class Held:
    """One claimed turn. It is served from its construction on, by a task of its own."""

    def __init__(self, means: Means, claim: Claim) -> None:
        self.claim = claim
        self._means = means
        hold = _Hold(means.store, means.queue, claim)
        self.attempts = Attempts(
            means.settings, means.store, means.reader, means.handler, hold, means.queue.consumer
        )
        self.task = asyncio.create_task(self._serve(), name=f"turn-{claim.conversation}-{claim.turn}")

    async def _serve(self) -> None:
        with logs.bind(conversation=self.claim.conversation, turn=self.claim.turn):
            await self._attempt()
            # Before it is kept: what has ended is no work, and takes nobody's place in the stream.
            await self._done()
            if self.attempts.ended:
                self._means.room.set()
                if not await self.attempts.keep(self._means.released):
                    await self._done()

    async def _done(self) -> None:
        try:
            await self._means.queue.done(self.claim)
        except StoreError as error:
            log.warning("a claim lapses by itself: %s", error)

    async def _attempt(self) -> None:
        confirming = asyncio.create_task(self.attempts.confirm(), name="confirm")
        try:
            cause: str | None = await self._first_cause()
            if cause == "retry" and await self._is_suspect():
                cause = await self._make_alone(cause)
            while cause is not None:
                cause = await self._make(cause)
        finally:
            confirming.cancel()

    async def _first_cause(self) -> str:
        claim = self.claim
        if claim.cause != "retry":
            return claim.cause
        # Whoever died with a turn that only waited has not failed at it.
        store, handler = self._means.store, self._means.handler
        try:
            due = await persist(lambda: handler.is_due(store, claim.conversation, claim.turn))
        except EntryGarbled:
            due = True  # The attempt comes to it as well, and ends the turn.
        return "retry" if due else "reclaim"

    async def _is_suspect(self) -> bool:
        """Whether an attempt before the last one has failed too, and nothing was written since."""
        conversation, turn = self.claim.conversation, self.claim.turn
        key = log_key(conversation, self._means.handler.output)
        try:
            stands = await persist(lambda: read_log(self._means.store, key, Address(turn, 0), turn))
        except EntryGarbled:
            return False  # The attempt ends the turn before its engine sees it.
        return failed_attempts(stands) > 0

    async def _make_alone(self, cause: str) -> str | None:
        """Try the turn while no other suspect is tried: if it kills its worker, it was this one."""
        async with self._means.alone:
            making = asyncio.create_task(self._make(cause), name="suspect")
            try:
                while not (making.done() or self.attempts.moves):
                    await asyncio.wait({making}, timeout=LOOK_S)
            except asyncio.CancelledError:
                making.cancel()
                raise
        return await making

    async def _make(self, cause: str) -> str | None:
        try:
            return await self.attempts.make(cause)
        except StoreError as error:
            # Not the turn's fault, and the claim is this worker's until its heartbeat says otherwise.
            log.warning("redis fails, the turn waits: %s", error)
            await asyncio.sleep(random.uniform(0.5, 1.0) * OUTAGE_S)
            return "reclaim"
