"""The text in the events of a streamed answer (`chat.completion.chunk`), and how the answer ended.

Servers differ in what else they send: events without a choice, choices without text, text after a role. All
of that is passed over; only an end that nobody announced is an error.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from typing import Any

from shared.errors import EngineError
from workers.llm.engines.openai import failures

CLOSING_S = 0.1
"""How long a stream whose answer is whole may take to end, so that its connection can be used again."""


async def texts(events: AsyncIterator[dict[str, Any]], *, begun: bool = False) -> AsyncGenerator[str, None]:
    """Yield the pieces of the answer, none of them empty. `begun`: something was answered before.

    An answer that a content filter cuts short ends there: what was said was heard. Raises `EngineError` where
    the filter left nothing, and for a stream that ends without a `finish_reason`.
    """
    async for event in events:
        if event.get("object") == "error":
            raise failures.broken()
        choice = _choice(event)
        text = _text(choice)
        if text:
            begun = True
            yield text
        match choice.get("finish_reason"):
            case None:
                continue
            case "error":
                raise failures.broken()
            case "content_filter" if not begun:
                raise failures.filtered()
        await _exhaust(events)
        return
    raise failures.broken("it ended without a finish_reason")


def _choice(event: dict[str, Any]) -> dict[str, Any]:
    choices = event.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    return choice if isinstance(choice, dict) else {}


def _text(choice: dict[str, Any]) -> str:
    match choice:
        case {"delta": {"content": str(text)}}:
            # JSON can spell half of a character, which no text may hold.
            return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return ""


async def _exhaust(events: AsyncIterator[dict[str, Any]]) -> None:
    with suppress(TimeoutError, EngineError):
        async with asyncio.timeout(CLOSING_S):
            async for _ in events:
                continue
