"""The sessions of one edge: how many are let in, and how all of them end."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from edge.room import overloaded
from edge.session import Session
from shared.errors import ClientError

log = logging.getLogger(__name__)

LOOK_EACH_S = 1.0

LAST_MOMENT_S = 0.5
"""What is left of a drain when the sessions that still run are closed."""


RESERVE = 0.1
LEAST_RESERVE = 4
"""Places beyond the limit, as a share of it, for sockets that come to resume: when an edge dies, the others
do not turn away conversations that were let in already.
"""

RUSH_S = 5.0
"""In how long the number of those who were turned away fades to a third."""


class Rush:
    """How many there have been lately of something. Pure."""

    def __init__(self) -> None:
        self._count = 0.0
        self._at_s = 0.0

    def one_more(self, now_s: float) -> float:
        """Count another; how many that makes."""
        self._count = self._count * math.exp((self._at_s - now_s) / RUSH_S) + 1
        self._at_s = now_s
        return self._count


class Sessions:
    """Counts, drains, and keeps the time."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._reserve = max(LEAST_RESERVE, int(limit * RESERVE))
        self._count = 0
        self._turned_away = Rush()
        self._sessions: set[Session] = set()
        self._draining = False
        self._fewer = asyncio.Event()

    def __len__(self) -> int:
        return self._count

    @property
    def draining(self) -> bool:
        """Whether nobody is let in any more."""
        return self._draining

    @contextmanager
    def place(self, *, resumes: bool = False) -> Iterator[None]:
        """One of the places, for as long as a socket is served. Raises `ClientError` `overloaded`.

        `resumes`: it comes to go on with a conversation, and may have a place of the reserve.
        """
        if self._draining:
            raise overloaded("this edge is stopping")
        if self._count >= self._limit + (self._reserve if resumes else 0):
            raise self._full()
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1
            self._fewer.set()

    def check_regular(self) -> None:
        """Raises `ClientError` `overloaded` if some who were given a place have one of the reserve."""
        if self._count > self._limit:
            raise self._full()

    @contextmanager
    def running(self, session: Session) -> Iterator[None]:
        """The session is one of those that a drain must end."""
        self._sessions.add(session)
        if self._draining:
            session.stop()  # It was let in a moment ago, and is in none of the lists of those to tell.
        try:
            yield
        finally:
            self._sessions.discard(session)

    async def watch(self) -> None:
        """Have each session look now and then at what takes too long, for ever: one loop for all of them."""
        while True:
            await asyncio.sleep(LOOK_EACH_S)
            self._look()

    def _look(self) -> None:
        # By itself, so that between two looks no variable keeps a session that has ended.
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

    def _full(self) -> ClientError:
        # All who are told so come back: the more there are, the further apart.
        wanted = self._count + self._turned_away.one_more(time.monotonic())
        return overloaded("this edge has all the conversations it can hold", wanted / self._limit)

    async def _until_empty(self, within_s: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, within_s)):
                while self._count:
                    self._fewer.clear()
                    await self._fewer.wait()
        except TimeoutError:
            log.debug("%d sessions are left", self._count)
