"""An LLM worker that dies of one word and hangs at another, typed by the user.

`python -m tests.chaos.bait workers.llm` is the worker of that name, with the scripted engine.
"""

from __future__ import annotations

import asyncio
import os
import runpy
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator

from shared.wire import Token
from tests.chaos.checker import POISON
from workers.llm.engines import ReplyRequest
from workers.llm.engines.scripted import Scripted

HANG = "hang"
"""Who begins the answer to a turn with this word stops in the middle, for ever; who goes on does not."""

BAIT_TOKENS = 3
"""After so many tokens."""


def lay() -> None:
    """Give the scripted engine its weakness."""
    whole = Scripted.process_chunked_streaming

    async def process_chunked_streaming(
        self: Scripted, request: ReplyRequest, audio: AsyncIterator[bytes]
    ) -> AsyncGenerator[Token, None]:
        text = request.settings.text or ""
        place = len(request.spoken)
        async for token in whole(self, request, audio):
            if place >= BAIT_TOKENS and POISON in text:
                os.kill(os.getpid(), signal.SIGKILL)
            if place == BAIT_TOKENS > len(request.spoken) and HANG in text:
                await asyncio.Event().wait()
            yield token
            place += 1

    Scripted.process_chunked_streaming = process_chunked_streaming  # type: ignore[method-assign]


if __name__ == "__main__":
    lay()
    module = sys.argv.pop(1)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
