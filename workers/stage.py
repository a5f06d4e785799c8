"""A stage: claims turns, hands each to a handler, takes over from the dead, drains.

The same for every role: the LLM worker and the TTS worker are a handler each. A handler reads one log and
appends to the next; what it need not know is how a turn came to it, and what becomes of it when it fails.

    claim ─> take the output log ─> handler ─> done
                 ▲                     │ died, stalled or raised: the claim lapses, or is tried again, and
                 └─────────────────────┘ whoever takes the log next goes on after what stands there
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol

from shared import logs
from shared.errors import EngineError, StoreError, StoryForked, TurnBusy, TurnClosed, TurnFull, TurnTaken
from shared.keys import MAX_TURN_BYTES, Role, conversation_ttl_s, log_key
from shared.log import LogWriter
from shared.reader import Reader
from shared.settings import Settings
from shared.store import Store
from shared.wire import Closed, Entry, Log, Take, new_tag
from shared.work import Announcement, Claim, Heartbeat, WorkQueue
from workers.turn import Turn

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""How many attempts may fail, with no new entry between them, before the turn fails for good."""

CLAIM_AT_ONCE = 4
"""How many turns one read claims at the most: what a busy worker leaves, an idle peer takes."""

AGAIN_S = 0.1
"""The pause before another attempt at a turn, or another read after an error."""

WAITING_LINE_S = 5.0


class Handler(Protocol):
    """What a stage does with one turn."""

    role: Role
    output: Log
    others: tuple[Log, ...]
    """The further logs in which a turn that failed here is closed."""

    def announcement(self, name: str, slots: int) -> Announcement:
        """What this worker says of itself."""
        ...

    async def run(self, turn: Turn) -> None:
        """Do the turn and append its `end`, going on after what stands in `turn.writer.entries`.

        Raises `EngineError`, and lets pass whatever the logs raise.
        """
        ...


@dataclass(eq=False)
class _Held:
    claim: Claim
    task: asyncio.Task[None] | None = None
    turn: Turn | None = None


class Stage:
    """Runs one handler over all turns that this worker claims. `name` is stable over its restarts."""

    def __init__(self, settings: Settings, store: Store, handler: Handler, name: str) -> None:
        self._settings = settings
        self._store = store
        self._handler = handler
        self._name = name
        self._reader = Reader(store)
        self._queue = WorkQueue(store, handler.role, name, lease_s=settings.lease_s)
        self._held: dict[str, _Held] = {}
        self._draining = False
        self._room = asyncio.Event()

    @property
    def attached(self) -> int:
        """How many turns this worker holds."""
        return len(self._held)

    def drain(self) -> None:
        """Claim nothing more, and let `run` come to its end."""
        self._draining = True
        self._room.set()

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
        )
        following = asyncio.create_task(self._reader.run(), name="reader")
        heartbeat.start()
        log.info("ready: %s", announcement.reason)
        try:
            async with asyncio.TaskGroup() as loops:
                loops.create_task(self._claim_loop(), name="claim")
                loops.create_task(self._reclaim_loop(), name="reclaim")
            await self._finish()
        finally:
            await asyncio.to_thread(heartbeat.stop)
            following.cancel()
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
            room = self._settings.max_attached - len(self._held)
            if room <= 0:
                self._room.clear()
                await self._room.wait()
                continue
            try:
                if unsure:
                    claims = await self._queue.pending(room + len(self._held))
                    unsure = False
                else:
                    claims = await self._queue.wait(min(room, CLAIM_AT_ONCE))
            except StoreError as error:
                log.warning("cannot claim: %s", error)
                unsure = True
                await asyncio.sleep(random.uniform(AGAIN_S, 3 * AGAIN_S))
                continue
            for claim in claims:
                if claim.id not in self._held:
                    self._start(claim)

    async def _reclaim_loop(self) -> None:
        while not self._draining:
            await asyncio.sleep(random.uniform(0.15, 0.25) * self._settings.lease_s)
            room = self._settings.max_attached - len(self._held)
            if room <= 0 or self._draining:
                continue
            try:
                claims = await self._queue.reclaim(min(room, CLAIM_AT_ONCE))
            except StoreError as error:
                log.debug("cannot reclaim: %s", error)
                continue
            for claim in claims:
                held = self._held.get(claim.id)
                if held is None:
                    log.info("taking over turn %d of %s", claim.turn, claim.conversation)
                    self._start(claim)
                elif self._is_stalled(held) and held.task is not None:
                    # Its own stalled turn came back: nobody else had room, so this worker tries again.
                    held.task.cancel()

    def _start(self, claim: Claim) -> None:
        held = self._held[claim.id] = _Held(claim)
        held.task = asyncio.create_task(self._serve(held), name=f"turn-{claim.conversation}-{claim.turn}")

    def _alive(self) -> list[str]:
        """The claims to refresh. Called by the heartbeat's thread."""
        return [claim_id for claim_id, held in list(self._held.items()) if not self._is_stalled(held)]

    def _is_stalled(self, held: _Held) -> bool:
        turn = held.turn
        if turn is None or not turn.computing:
            return False
        return time.monotonic() - turn.stepped_at > self._settings.stall_s

    def _lose_soon(self, loop: asyncio.AbstractEventLoop) -> Callable[[str], None]:
        def lose_soon(claim_id: str) -> None:
            loop.call_soon_threadsafe(self._lose, claim_id)

        return lose_soon

    def _lose(self, claim_id: str) -> None:
        held = self._held.get(claim_id)
        if held is not None and held.task is not None:
            log.warning("turn %d of %s went to another worker", held.claim.turn, held.claim.conversation)
            held.task.cancel()

    # One turn

    async def _serve(self, held: _Held) -> None:
        claim = held.claim
        with logs.bind(conversation=claim.conversation, turn=claim.turn):
            try:
                cause: str | None = claim.cause
                while cause is not None:
                    cause = await self._attempt(held, cause)
                await self._queue.done(claim)
            except StoreError as error:
                # Whoever reclaims the turn finds in the log how far it came.
                log.warning("giving the turn up: %s", error)
            finally:
                del self._held[claim.id]
                self._room.set()

    async def _attempt(self, held: _Held, cause: str) -> str | None:
        """Try the turn once. `None` when it needs no more work, else the cause of the next attempt."""
        held.turn = turn = self._turn(held.claim)
        try:
            await turn.writer.take(cause, self._name)
            if failed_attempts(turn.writer.entries) >= ATTEMPTS:
                await self._fail(held.claim, turn, f"{ATTEMPTS} attempts failed", retryable=True)
            else:
                await self._handler.run(turn)
            return None
        except TurnClosed:
            return None
        except TurnTaken:
            if await self._queue.refresh([held.claim.id]):
                return None
            cause = "contest"
        except TurnBusy:
            log.debug("the turn before is not final yet")
        except TurnFull as error:
            await self._fail(held.claim, turn, str(error), retryable=False)
            return None
        except StoryForked as error:
            await self._fail(held.claim, turn, str(error), retryable=True)
            return None
        except EngineError as error:
            if error.final or not error.retryable:
                await self._fail(held.claim, turn, str(error), retryable=error.retryable)
                return None
            log.warning("the engine failed: %s", error)
            cause = "retry"
        except StoreError:
            raise
        except Exception:
            # The boundary of a turn: what one turn does must not reach another.
            log.exception("the attempt failed")
            cause = "retry"
        finally:
            turn.step(computing=False)
        await asyncio.sleep(AGAIN_S)
        return cause

    def _turn(self, claim: Claim) -> Turn:
        output = self._handler.output
        window_s = self._settings.resume_window_s
        writer = LogWriter(
            self._store,
            log_key(claim.conversation, output),
            claim.turn,
            new_tag(),
            max_turn_bytes=MAX_TURN_BYTES[output],
            ttl_s=conversation_ttl_s(window_s),
        )
        return Turn(claim.conversation, claim.turn, output, writer, self._store, self._reader, window_s)

    async def _fail(self, claim: Claim, turn: Turn, message: str, *, retryable: bool) -> None:
        log.error("the turn failed: %s", message)
        closed = Closed("failed", code="engine_failed", message=message, retryable=retryable)
        # First its own log, and only as its owner: a writer that lost the turn may not fail it for another.
        await turn.close(closed, self._handler.output, owner=True)
        await turn.close(closed, *self._handler.others)
        await self._queue.bury(claim, message)

    # The end

    async def _finish(self) -> None:
        waiting = [held for held in self._held.values() if not (held.turn and held.turn.computing)]
        await self._hand_back(waiting)
        tasks = [held.task for held in self._held.values() if held.task is not None]
        if tasks:
            log.info("finishing %d turns", len(tasks))
            await asyncio.wait(tasks, timeout=self._settings.drain_s)
        await self._hand_back(list(self._held.values()))

    async def _hand_back(self, turns: list[_Held]) -> None:
        for held in turns:
            if held.task is not None:
                held.task.cancel()
                await asyncio.wait([held.task])
            try:
                if await self._queue.handback(held.claim):
                    log.info("handed back turn %d of %s", held.claim.turn, held.claim.conversation)
            except StoreError as error:
                log.warning("a claim lapses by itself: %s", error)


def failed_attempts(entries: list[Entry]) -> int:
    """How many attempts at a turn failed in a row, the newest `take` included: those that were repeats.

    Hand-backs and contested logs are no failures, and any new entry of the story begins the count again.
    """
    takes = takewhile(lambda entry: isinstance(entry.payload, Take), reversed(entries))
    return sum(isinstance(entry.payload, Take) and entry.payload.cause == "retry" for entry in takes)
