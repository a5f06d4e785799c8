"""A handler that a test tells what to do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from shared.keys import Role
from shared.store import Store
from shared.wire import Log, ReplyEnd, Token
from shared.work import Announcement
from workers.turn import Turn


class Replies:
    """A handler that answers as it is told to."""

    role = Role.REPLY
    output = Log.TEXT
    others: tuple[Log, ...] = (Log.SPEECH,)

    def __init__(self, answer: Callable[[Turn], Awaitable[None]], due: bool = True) -> None:
        self.due = due
        self._answer = answer
        self.turns: list[Turn] = []

    def announcement(self, name: str, slots: int) -> Announcement:
        return Announcement(name, self.role, "told", "told by a test", slots)

    def counts(self) -> dict[str, int]:
        return {"answered": len(self.turns)}

    async def is_due(self, store: Store, conversation: str, turn: int) -> bool:
        return self.due

    async def run(self, turn: Turn) -> None:
        self.turns.append(turn)
        await self._answer(turn)


async def end(turn: Turn) -> None:
    """Answer with one word."""
    await turn.writer.append(Token("word", (1,)), ReplyEnd("stop", 1, 0))


async def wait_for_ever(turn: Turn) -> None:
    """Be attached, and no more."""
    await asyncio.Event().wait()
