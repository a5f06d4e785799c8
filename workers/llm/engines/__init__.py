"""The seam of the speech models: what every engine does, and how one is chosen by name.

Knows no model library: each engine is one module, imported only when it is asked for.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from shared.wire import Open, Token


@dataclass(frozen=True, slots=True)
class ReplyRequest:
    """What one turn asks of a speech model.

    `spoken` holds the tokens that already stand in the log when a turn is taken over from a dead peer: the
    engine goes on after them (a forced prefix) and yields only what follows.
    """

    conversation: str
    turn: int
    settings: Open
    spoken: tuple[Token, ...] = ()


class SpeechLM(Protocol):
    """Audio in, tokens out."""

    name: str

    def process_chunked_streaming(
        self, request: ReplyRequest, audio: AsyncIterator[bytes]
    ) -> AsyncGenerator[Token, None]:
        """Yield the reply token by token.

        `audio` yields the utterance as it arrives, PCM16 mono 16 kHz pieces of any length, and ends when the
        utterance has ended: only then may the first token come. A typed turn (`request.settings.text`) has
        no audio. Closing the iterator cancels the work. Raises `EngineError`.
        """
        ...

    async def process_realtime_chunk(self, request: ReplyRequest, audio: bytes) -> str:
        """The whole reply to a whole utterance (PCM16 mono 16 kHz). Raises `EngineError`."""
        ...
