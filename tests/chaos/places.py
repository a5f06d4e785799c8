"""Where conversations stand, at the speed of pushes: who took which turn, and which place is reached."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from shared.errors import StoryForked
from shared.keys import log_key
from shared.reader import Reader
from shared.wire import Address, Entry, Log, Take


class Place(NamedTuple):
    """An entry of a log."""

    conversation: str
    turn: int
    log: Log
    seq: int

    def __str__(self) -> str:
        return f"{self.log}:{self.turn}-{self.seq}"


class Places:
    """Follows the logs of conversations, beside those who work on them. `reader` must be running."""

    def __init__(self, reader: Reader) -> None:
        self.takers: dict[tuple[str, Log], str] = {}
        """The worker that took the newest turn of a log last."""
        self._reader = reader
        self._following: dict[str, list[asyncio.Task[None]]] = {}
        self._waiting: list[tuple[Log, int, asyncio.Future[Place]]] = []
        self._begun: set[tuple[str, int]] = set()

    def follow(self, conversation: str) -> None:
        """Follow a conversation from its start, if that is not done already."""
        if conversation not in self._following:
            self._following[conversation] = [
                asyncio.create_task(self._follow(conversation, log), name=f"places-{log}") for log in Log
            ]

    async def leave(self, conversation: str) -> None:
        """Follow it no more."""
        tasks = self._following.pop(conversation, [])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def reached(self, log: Log, seq: int, within_s: float) -> Place | None:
        """The first place of a log, at `seq` or behind it, that a turn comes to which has yet to begin.

        `None` when no turn comes so far in time.
        """
        reached: asyncio.Future[Place] = asyncio.get_running_loop().create_future()
        self._begun.clear()
        waiting = (log, seq, reached)
        self._waiting.append(waiting)
        try:
            async with asyncio.timeout(within_s):
                return await reached
        except TimeoutError:
            return None
        finally:
            if waiting in self._waiting:
                self._waiting.remove(waiting)

    async def _follow(self, conversation: str, log: Log) -> None:
        turn = 1
        while True:
            cursor = self._reader.follow(log_key(conversation, log), Address(turn, -1))
            try:
                async for entry in cursor:
                    turn = entry.address.turn
                    self._note(conversation, log, entry)
            except StoryForked:
                turn += 1
            finally:
                cursor.close()

    def _note(self, conversation: str, log: Log, entry: Entry) -> None:
        turn, seq = entry.address
        if log is Log.AUDIO and seq == 0:
            self._begun.add((conversation, turn))
        if isinstance(entry.payload, Take) and entry.payload.worker:
            self.takers[conversation, log] = entry.payload.worker
        for waiting in list(self._waiting):
            wanted, at_least, reached = waiting
            fits = log is wanted and seq >= at_least and (conversation, turn) in self._begun
            if fits and not entry.final and not reached.done():
                reached.set_result(Place(conversation, turn, log, seq))
                self._waiting.remove(waiting)
