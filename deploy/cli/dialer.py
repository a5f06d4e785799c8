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
        """A link to the first edge that lets us in, each being asked once. Raises `CannotConnect`."""
        for _ in range(self._count - 1):
            try:
                return await self._dial()
            except CannotConnect as error:
                log.debug("%s", error)
        return await self._dial()

    async def insist(self, give_up_at: float) -> Link:
        """A link, as soon as an edge lets us in. Raises `CannotConnect` when that is hopeless, or too late.

        `give_up_at` is a monotonic time in seconds.
        """
        pauses = backoff()
        while True:
            try:
                return await self._dial()
            except CannotConnect as error:
                log.debug("%s", error)
                pause_s = max(next(pauses), error.retry_after_s)
                if not error.retryable or time.monotonic() + pause_s > give_up_at:
                    raise
            await asyncio.sleep(pause_s)

    async def _dial(self) -> Link:
        return await open_link(next(self._urls), self._encoding, self._key)


def backoff() -> Iterator[float]:
    """Pauses in seconds, for ever: growing, and never the same for all who wait for one edge."""
    pause_s, longest_s = BACKOFF_S
    while True:
        yield pause_s * random.uniform(0.5, 1.0)
        pause_s = min(pause_s * 2, longest_s)
