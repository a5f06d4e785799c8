"""The sessions of one edge: how many are let in, and how all of them end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from edge.room import overloaded
from edge.session import Session

log = logging.getLogger(__name__)

LOOK_EACH_S = 1.0

LAST_MOMENT_S = 1.0
"""What is left of a drain when the sessions that still run are closed."""


class Sessions:
    """Counts, drains, and keeps the time."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = 0
        self._sessions: set[Session] = set()
        self._draining = False
        self._fewer = asyncio.Event()

    def __len__(self) -> int:
        return self._count

    @contextmanager
    def place(self) -> Iterator[None]:
        """One of the places, for as long as a socket is served. Raises `ClientError` `overloaded`."""
        if self._draining:
            raise overloaded("this edge is stopping")
        if self._count >= self._limit:
            raise overloaded("this edge has all the conversations it can hold")
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1
            self._fewer.set()

    @contextmanager
    def running(self, session: Session) -> Iterator[None]:
        """The session is one of those that a drain must end."""
        self._sessions.add(session)
        try:
            yield
        finally:
            self._sessions.discard(session)

    async def watch(self) -> None:
        """Have each session look now and then at what takes too long, for ever: one loop for all of them."""
        while True:
            await asyncio.sleep(LOOK_EACH_S)
            for session in list(self._sessions):
                session.look()

    async def drain(self, within_s: float) -> None:
        """Let nobody in, tell all to go, and close what is left shortly before the time is over."""
        self._draining = True
        ends_at = time.monotonic() + within_s
        patience_s = max(0.0, within_s - LAST_MOMENT_S)
        if self._sessions:
            log.info("draining %d sessions", len(self._sessions))
        # Told beside the waiting: one client that does not read must not keep the others here.
        telling = [asyncio.ensure_future(each.go_away(patience_s * 1000)) for each in self._sessions]
        await self._until_empty(patience_s)
        for task in telling:
            task.cancel()
        for session in list(self._sessions):
            session.stop()
        await self._until_empty(ends_at - time.monotonic())

    async def _until_empty(self, within_s: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, within_s)):
                while self._count:
                    self._fewer.clear()
                    await self._fewer.wait()
        except TimeoutError:
            log.debug("%d sessions are left", self._count)
