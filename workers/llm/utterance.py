"""What the user says in a turn, kept so that an engine may hear it again from its start.

Knows no log and no engine. What bounds it is the turn in the log: 2 MB a minute, `MAX_TURN_BYTES` at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

PIECES_AT_ONCE = 64
"""Pieces that are there already are given so many at a time: others of the event loop have waited."""


class Utterance:
    """The pieces that have come, PCM16 mono 16 kHz, and whether that seems to be all.

    `taken`: whoever listens was given all of it, and the end. `on_taken` is called when that is so.
    """

    def __init__(self, on_taken: Callable[[], None] = lambda: None) -> None:
        self.taken = False
        self._on_taken = on_taken
        self._pieces: list[bytes] = []
        self._over = False
        self._news = asyncio.Event()

    def add(self, pcm: bytes) -> None:
        """The next piece."""
        self._pieces.append(pcm)
        self._news.set()

    def end(self) -> None:
        """That was all, or it seems so: whoever listens comes to the end."""
        self._over = True
        self._news.set()

    def go_on(self) -> None:
        """It only seemed so. Nobody who was told of the end may listen any more."""
        self._over = self.taken = False

    async def listen(self) -> AsyncGenerator[bytes]:
        """Every piece from the first on, the later ones as they come, up to the end."""
        place = 0
        while True:
            while place < len(self._pieces):
                yield self._pieces[place]
                place += 1
                if place % PIECES_AT_ONCE == 0:
                    await asyncio.sleep(0)
            if self._over:
                self.taken = True
                self._on_taken()
                return
            self._news.clear()
            await self._news.wait()
