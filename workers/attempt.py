"""Attempts at one turn by one worker, and what follows from each way in which one may fail.

    take the output log ─> part ─> no more to do
             ▲              │ raised, or the log was taken away
             └──── again ───┘ or, after three failures in a row with no new entry between: closed `failed`

The same for a turn that was claimed from a work stream and for one that is a job of rq. Knows neither.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from itertools import takewhile
from typing import Protocol

from shared.errors import (
    EngineError,
    EntryGarbled,
    LogError,
    StoreError,
    StoryForked,
    TurnBusy,
    TurnClosed,
    TurnFull,
    TurnTaken,
)
from shared.keys import MAX_TURN_BYTES, Role, conversation_ttl_s, log_key
from shared.log import LogWriter, persist
from shared.reader import Reader
from shared.settings import Settings
from shared.store import Store
from shared.wire import Closed, Entry, Log, Take, new_tag
from workers.turn import Turn

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""How many attempts may fail, with no new entry between them, before the turn fails for good."""

KEEP_S = 5.0
"""How long what was written is kept once it is whole. Redis may forget its last two seconds."""

CONFIRM_S = 1.0
"""How often it is looked, meanwhile, whether it still stands."""

AGAIN_S = 0.1
"""The pause before another attempt at a turn."""


class Part(Protocol):
    """What one role does with one turn."""

    role: Role
    output: Log
    others: tuple[Log, ...]
    """The further logs in which a turn that failed here is closed."""

    async def run(self, turn: Turn) -> None:
        """Do the turn and append its `end`, going on after what stands in `turn.writer.entries`.

        Raises `EngineError`, and lets pass whatever the logs raise.
        """
        ...


class Hold(Protocol):
    """How a turn came to this worker."""

    conversation: str
    number: int

    async def stands(self) -> bool:
        """Whether the turn is still this worker's to do. Raises `StoreError`."""
        ...

    async def bury(self, role: Role, reason: str) -> None:
        """Note that the turn failed for good. Raises `StoreError`."""
        ...


class Attempts:
    """All attempts of one part at one turn. `turn` is the present or the last one's.

    `taken`: an attempt has had the log. `lost`: the turn is another worker's now. `ended`: this worker has
    written its end, or somebody has closed it since.
    """

    def __init__(
        self, settings: Settings, store: Store, reader: Reader, part: Part, hold: Hold, worker: str
    ) -> None:
        self.turn: Turn | None = None
        self.taken = False
        self.lost = False
        self.ended = False
        self._stood = 0
        self._settings = settings
        self._store = store
        self._reader = reader
        self._part = part
        self._hold = hold
        self._worker = worker

    @property
    def computing(self) -> bool:
        """Whether the engine is at work."""
        return self.turn is not None and self.turn.computing

    @property
    def moves(self) -> bool:
        """Whether the present attempt has written anything."""
        return self.turn is not None and len(self.turn.writer.entries) > self._stood

    @property
    def waits(self) -> bool:
        """Whether there is nothing for the engine to do yet."""
        return not self.computing and not self.ended

    @property
    def stalled(self) -> bool:
        """Whether the engine is at work, and has made no step for too long."""
        turn = self.turn
        return turn is not None and turn.computing and turn.silent_s > self._settings.stall_s

    async def make(self, cause: str) -> str | None:
        """Try the turn once. `None` when it needs no more work here, else the cause of the next attempt.

        Raises `StoreError` if Redis is gone for too long: the next attempt finds in the log how far it came.
        """
        self.turn = turn = self._new_turn()
        taken = False
        try:
            await turn.writer.take(cause, self._worker)
            self.taken = taken = True
            self._stood = len(turn.writer.entries)
            if failed_attempts(turn.writer.entries) >= ATTEMPTS:
                await self._fail(turn, f"{ATTEMPTS} attempts failed", retryable=True)
            else:
                await self._part.run(turn)
                self.ended = turn.writer.entries[-1].final
            return None
        except TurnClosed:
            # What stands before the closing is to be kept as well: Redis may forget both.
            self.ended = taken
            return None
        except TurnTaken:
            if not await persist(self._hold.stands):
                self.lost = True
                return None
            cause = "contest"
        except TurnBusy:
            log.debug("the turn before is not final yet")
        except TurnFull as error:
            await self._fail(turn, str(error), retryable=False)
            return None
        except (EntryGarbled, StoryForked) as error:
            await self._fail(turn, str(error), retryable=True)
            return None
        except EngineError as error:
            if error.final or not error.retryable:
                await self._fail(turn, str(error), retryable=error.retryable)
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

    async def confirm(self) -> None:
        """Until cancelled: write again what Redis forgets of the turn.

        Whoever reads the log may miss it, and nobody else has what stood there.
        """
        while True:
            await asyncio.sleep(CONFIRM_S)
            await self._stands()

    async def keep(self, released: asyncio.Event) -> bool:
        """Once the turn has `ended`: do so until Redis cannot forget it any more, or until `released`.

        Whether it never forgot anything.
        """
        stood, keep_until = True, time.monotonic() + KEEP_S
        while not released.is_set() and time.monotonic() < keep_until:
            with suppress(TimeoutError):
                async with asyncio.timeout(CONFIRM_S):
                    await released.wait()
            if not await self._stands():
                stood, keep_until = False, time.monotonic() + KEEP_S
        return stood

    async def _stands(self) -> bool:
        """Whether all that was written stood already."""
        if self.turn is None or not self.turn.writer.entries:
            return True
        try:
            return await self.turn.writer.confirm()
        except StoreError as error:
            log.warning("what was written may be lost: %s", error)
            return False
        except LogError as error:
            # Another has the log now; or a later turn does, or the end of the one before is not there yet.
            log.debug("nothing is written again: %s", error)
            return True

    def _new_turn(self) -> Turn:
        output, window_s = self._part.output, self._settings.resume_window_s
        conversation, number = self._hold.conversation, self._hold.number
        writer = LogWriter(
            self._store,
            log_key(conversation, output),
            number,
            new_tag(),
            max_turn_bytes=MAX_TURN_BYTES[output],
            ttl_s=conversation_ttl_s(window_s),
        )
        return Turn(conversation, number, output, writer, self._store, self._reader, window_s)

    async def _fail(self, turn: Turn, message: str, *, retryable: bool) -> None:
        log.error("the turn failed: %s", message)
        closed = Closed("failed", code="engine_failed", message=message, retryable=retryable)
        try:
            # First its own log, and only as its owner: who lost the turn may not fail it for another.
            await turn.close(closed, self._part.output, owner=True)
        except TurnTaken:
            return log.info("another has the turn now")
        await turn.close(closed, *self._part.others)
        # Asked again when a reply was lost, this leaves two letters: better than none.
        await persist(lambda: self._hold.bury(self._part.role, message))


def failed_attempts(entries: list[Entry]) -> int:
    """How many attempts at a turn failed in a row, the newest `take` included: those that were repeats.

    All other causes are no failures, and any new entry of the story begins the count again.
    """
    takes = takewhile(lambda entry: isinstance(entry.payload, Take), reversed(entries))
    return sum(isinstance(entry.payload, Take) and entry.payload.cause == "retry" for entry in takes)
