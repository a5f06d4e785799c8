"""One start of an engine at an answer: a task that draws its tokens into a draft, as fast as they come.

Knows no log: whether anything of the draft is ever written is for others to say.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from shared.wire import Token
from workers.llm.draft import Draft

log = logging.getLogger(__name__)

LET_GO_S = 1.0
"""How long an engine may take to close its stream before nobody waits for that any more."""


class Start:
    """Draws until the stream ends, fails, or the reply has `most` tokens. To be closed in the end."""

    def __init__(self, stream: AsyncGenerator[Token], draft: Draft, most: int) -> None:
        self.draft = draft
        self.over = False
        """Whether nothing more will come."""
        self.error: Exception | None = None
        """What the engine raised."""
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._draw(stream, most), name="start")

    async def news(self, within_s: float | None = None) -> None:
        """Wait until something has come since the last call, or until `within_s` have passed."""
        timer = None
        if within_s is not None:
            timer = asyncio.get_running_loop().call_later(within_s, self._news.set)
        try:
            await self._news.wait()
        finally:
            self._news.clear()
            if timer is not None:
                timer.cancel()

    async def close(self) -> None:
        """Give it up. Returns once the engine's stream is closed, or after `LET_GO_S`; may be repeated."""
        self._task.cancel()
        _, clinging = await asyncio.wait({self._task}, timeout=LET_GO_S)
        if clinging:
            # The user speaks meanwhile, or the next turn waits.
            log.warning("an engine does not let go of an answer that was given up")

    async def _draw(self, stream: AsyncGenerator[Token], most: int) -> None:
        try:
            async with aclosing(stream):
                await self._draw_all(stream, most)
                self._end()
        except Exception as error:
            # Of no use to anybody if the start was made in vain: so it is kept until it is known to stand.
            if self.over:
                log.warning("the engine failed after its answer: %r", error)
            else:
                self.error = error
                self._end()

    async def _draw_all(self, stream: AsyncGenerator[Token], most: int) -> None:
        while self.draft.tokens < most:
            token = await anext(stream, None)
            if token is None:
                return self.draft.end("stop")
            self.draft.add(token, now_ms())
            self._news.set()
            # Whoever writes it goes first: to ask an engine for the next token may take longer than that.
            await asyncio.sleep(0)
        self.draft.end("length")

    def _end(self) -> None:
        self.over = True
        self._news.set()


def now_ms() -> float:
    """The clock of drafts."""
    return time.monotonic() * 1000
