"""What one conversation changes in Redis beside its audio: one after the other, in order.

A turn must be closed before the next is offered; nothing that a client waits for stands in this line.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from shared.errors import ParleyError, StoreError, TurnTaken

log = logging.getLogger(__name__)

Job = Callable[[], Awaitable[object]]

AGAIN_S = 1.0
"""How long to wait before a job that must not be given up is tried again."""


class Clerk:
    """A line of jobs. `taken` is called when one finds that another session has the conversation now."""

    def __init__(self, taken: Callable[[], None]) -> None:
        self._taken = taken
        self._is_taken = False
        self._jobs: asyncio.Queue[tuple[str, Job, bool, asyncio.Future[None]]] = asyncio.Queue()

    def add(self, what: str, job: Job, *, insist: bool = False) -> asyncio.Future[None]:
        """Put the job at the end of the line; the future is done when it was carried out, or given up.

        `insist`: what stands behind it would be in vain without it, so it waits for as long as Redis is away.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._jobs.put_nowait((what, job, insist, done))
        return done

    async def run(self) -> None:
        """Carry jobs out, for ever."""
        while True:
            what, job, insist, done = await self._jobs.get()
            try:
                await self._carry_out(what, job, insist)
            finally:
                if not done.done():
                    done.set_result(None)
                self._jobs.task_done()

    async def finish(self) -> None:
        """Wait until the line is empty."""
        await self._jobs.join()

    async def _carry_out(self, what: str, job: Job, insist: bool) -> None:
        if self._is_taken:
            return  # What stands behind counts on it: no turn may be offered before the last one is closed.
        while await self._fails(what, job):
            if not insist:
                return
            await asyncio.sleep(AGAIN_S)

    async def _fails(self, what: str, job: Job) -> bool:
        """Whether it may work when it is tried again."""
        try:
            await job()
        except TurnTaken:
            self._is_taken = True
            self._taken()
        except StoreError as error:
            log.warning("%s: not done: %s", what, error)
            return True
        except ParleyError as error:
            log.debug("%s: nothing to do: %s", what, error)
        except Exception:
            # The line must go on: what stands behind may be the closing of another turn.
            log.exception("%s failed", what)
        return False
