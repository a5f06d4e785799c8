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


class Clerk:
    """A line of jobs. `taken` is called when one finds that another session has the conversation now."""

    def __init__(self, taken: Callable[[], None]) -> None:
        self._taken = taken
        self._jobs: asyncio.Queue[tuple[str, Job, asyncio.Future[None]]] = asyncio.Queue()

    def add(self, what: str, job: Job) -> asyncio.Future[None]:
        """Put the job at the end of the line; the future is done when it was carried out, or given up."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._jobs.put_nowait((what, job, done))
        return done

    async def run(self) -> None:
        """Carry jobs out, for ever."""
        while True:
            what, job, done = await self._jobs.get()
            try:
                await self._carry_out(what, job)
            finally:
                if not done.done():
                    done.set_result(None)
                self._jobs.task_done()

    async def finish(self) -> None:
        """Wait until the line is empty."""
        await self._jobs.join()

    async def _carry_out(self, what: str, job: Job) -> None:
        try:
            await job()
        except TurnTaken:
            self._taken()
        except StoreError as error:
            log.warning("%s: given up: %s", what, error)
        except ParleyError as error:
            log.debug("%s: nothing to do: %s", what, error)
        except Exception:
            # The line must go on: what stands behind may be the closing of another turn.
            log.exception("%s failed", what)
