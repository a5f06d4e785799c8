"""One turn in a worker's hands: the logs it may read, the one it writes, and signs of life."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from shared.errors import TurnClosed
from shared.keys import conversation_ttl_s, log_key
from shared.log import LogWriter, close_turn
from shared.reader import Cursor, Reader
from shared.store import Store
from shared.wire import Address, Closed, Entry, Log, Take


@dataclass(eq=False)
class Turn:
    """What a handler is given: `writer` has taken the output log and knows what stands there."""

    conversation: str
    number: int
    output: Log
    writer: LogWriter
    store: Store
    reader: Reader
    resume_window_s: float
    computing: bool = False
    """Whether an engine is at work: such a turn is finished on drain, and must step to keep its claim."""
    stepped_at: float = field(default_factory=time.monotonic)
    """When the engine last moved on (`time.monotonic`)."""

    def step(self, computing: bool = True) -> None:
        """Note that the engine has moved on, or (`computing=False`) that it waits for input."""
        self.computing = computing
        self.stepped_at = time.monotonic()

    @property
    def silent_s(self) -> float:
        """How long ago that was."""
        return time.monotonic() - self.stepped_at

    def follow(self, log: Log) -> Cursor:
        """A cursor on another log of the conversation, from the start of this turn."""
        return self.reader.follow(log_key(self.conversation, log), Address(self.number, -1))

    async def close(self, closed: Closed, *logs: Log, owner: bool = False) -> None:
        """Close the turn in these logs. With `owner`, only if the last entry there is this writer's."""
        await close_turn(
            self.store,
            [log_key(self.conversation, log) for log in logs],
            self.number,
            self.writer.tag,
            closed,
            ttl_s=conversation_ttl_s(self.resume_window_s),
            owner=owner,
        )


async def entries_of(cursor: Cursor, turn: int) -> AsyncIterator[Entry]:
    """The entries of one turn as they come, without `take`, through its first final one.

    Raises `TurnClosed` when another turn stands where this one was to begin.
    """
    async for entry in cursor:
        if entry.address.turn != turn:
            raise TurnClosed(f"{cursor.key}: turn {entry.address.turn} stands where {turn} was expected")
        if not isinstance(entry.payload, Take):
            yield entry
        if entry.final:
            return
