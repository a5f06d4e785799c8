"""The seam of the speech models: what every engine does, and how one is chosen by name.

Knows no model library: each engine is one module, imported only when it is asked for.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from shared.errors import SettingsError
from shared.settings import Settings
from shared.wire import Open, Token
from workers.llm.history import Exchange


@dataclass(frozen=True, slots=True)
class ReplyRequest:
    """What one turn asks of a speech model.

    `spoken` holds the tokens that already stand in the log when a turn is taken over from a dead peer: the
    engine goes on after them (a forced prefix) and yields only what follows. `history` is what was said
    before, oldest first, as much of it as fits `HISTORY_TOKENS`.
    """

    conversation: str
    turn: int
    settings: Open
    spoken: tuple[Token, ...] = ()
    history: tuple[Exchange, ...] = ()


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

    def cost(self, exchange: Exchange) -> int:
        """What a past turn takes of `HISTORY_TOKENS`, in this engine's tokens. Does not block."""
        ...


def load(name: str, settings: Settings) -> tuple[SpeechLM, str]:
    """The engine that `LLM_ENGINE` names, and one plain line: which one was taken, and why.

    Blocks while the engine loads. Raises `SettingsError` for a name that no engine has, `EngineError` for an
    engine that cannot be loaded.
    """
    match name:
        case "auto":
            from workers.llm.engines.parrot import Parrot

            return (
                Parrot(),
                "parrot, the embedded engine: LLM_ENGINE is auto",
            )
        case "parrot":
            from workers.llm.engines.parrot import Parrot

            return Parrot(), "parrot: LLM_ENGINE asks for it"
        case "scripted":
            from workers.llm.engines.scripted import Scripted

            return Scripted(settings), "scripted: LLM_ENGINE asks for it"
    raise SettingsError(f"LLM_ENGINE is {name!r}; expected auto, parrot or scripted")


async def whole_reply(engine: SpeechLM, request: ReplyRequest, audio: bytes) -> str:
    """The reply to an utterance that is there as a whole, from an engine that answers in tokens."""

    async def utterance() -> AsyncIterator[bytes]:
        yield audio

    texts = [token.text for token in request.spoken]
    async with aclosing(engine.process_chunked_streaming(request, utterance())) as tokens:
        async for token in tokens:
            texts.append(token.text)
    return "".join(texts)
