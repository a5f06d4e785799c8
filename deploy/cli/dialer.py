"""Opens links: to one edge after the other, with patience. Knows no conversation."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from collections.abc import Iterator, Sequence

from deploy.cli.link import CannotConnect, Link, open_link
from edge.protocols.encoding import Encoding

log = logging.getLogger(__name__)

BACKOFF_S = (0.05, 2.0)
"""The first pause between two attempts, and the longest; each is shortened by chance, by half at the most."""


SPREAD = 1.5
"""Up to how many times as long as it was told to, somebody who was refused stays away."""


class Dialer:
    """Edges, tried in turn, each link to the one after the last."""

    def __init__(self, urls: Sequence[str], encoding: Encoding, key: str | None) -> None:
        if not urls:
            raise ValueError("no URL to connect to")
        self._count = len(urls)
        self._urls = itertools.cycle(urls)
        self._encoding = encoding
        self._key = key

    async def once(self) -> Link:
        """A link for a new conversation, to the first edge that lets us in. Raises `CannotConnect`."""
        return await self._ask_each(resumes=False)

    async def insist(self, give_up_at: float) -> Link:
        """A link to resume on, as soon as an edge lets us in. Raises `CannotConnect` when that is hopeless,
        or too late.

        `give_up_at` is a monotonic time in seconds.
        """
        pauses = backoff()
        while True:
            try:
                return await self._ask_each(resumes=True)
            except CannotConnect as error:
                pause_s = pause_after(error, next(pauses))
                if not error.retryable or time.monotonic() + pause_s > give_up_at:
                    raise
            await asyncio.sleep(pause_s)

    async def _ask_each(self, *, resumes: bool) -> Link:
        """A link to the first edge that lets us in, each being asked once. Raises `CannotConnect`: of all
        refusals, the one that leaves the most hope, and wants the most patience."""
        refusals = []
        for _ in range(self._count):
            try:
                return await open_link(next(self._urls), self._encoding, self._key, resumes=resumes)
            except CannotConnect as error:
                log.debug("%s", error)
                refusals.append(error)
        raise max(refusals, key=lambda each: (each.retryable, each.retry_after_s))


def backoff() -> Iterator[float]:
    """Pauses in seconds, for ever: growing, and never the same for all who wait for one edge."""
    pause_s, longest_s = BACKOFF_S
    while True:
        yield pause_s * random.uniform(0.5, 1.0)
        pause_s = min(pause_s * 2, longest_s)


def pause_after(refusal: CannotConnect, pause_s: float) -> float:
    """The pause, in seconds, or a longer one if the edge wants it: never the same for all that it refused."""
    return max(pause_s, refusal.retry_after_s * random.uniform(1.0, SPREAD))
