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
from workers import checkpoint, packages
from workers.llm.engines.voxtral import files
from workers.llm.history import Exchange
from workers.packages import installed, needed_for

ASKED_FOR = "LLM_ENGINE asks for it"

VOXTRAL_PACKAGES = ("huggingface_hub", "torch", "transformers", "mistral_common")

VOXTRAL_FREE_BYTES = 12 * 10**9
"""What `auto` wants to find free on the CUDA device: the weights in bfloat16, and room for a few slots."""


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

    @property
    def slots(self) -> int | None:
        """How many answers it makes at once; `None`: as many as it is asked for."""
        ...

    @property
    def spare(self) -> bool:
        """Whether an answer may be begun now that will perhaps be thrown away.

        False where others would wait for it, or where the engine cannot begin before it knows all.
        """
        ...

    def process_chunked_streaming(
        self, request: ReplyRequest, audio: AsyncIterator[bytes]
    ) -> AsyncGenerator[Token, None]:
        """Yield the reply token by token.

        `audio` yields the utterance as it arrives, PCM16 mono 16 kHz pieces of any length, and ends when the
        utterance has ended: only then may the first token come. A typed turn (`request.settings.text`) has
        no audio. Closing the iterator cancels the work. Raises `EngineError`.

        Where the engine had `spare`, the utterance may have ended only as it seemed. If it goes on, the
        iterator is closed, and the same is asked again with all of the utterance.
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

    Only `auto` chooses; an engine that is asked for by name is that one or none. Blocks while the engine
    loads. Raises `SettingsError` for a name that no engine has, `EngineError` for an engine that cannot be
    loaded.
    """
    match name:
        case "auto":
            lacking = _lacking_for_voxtral(settings)
            if lacking is None:
                return _voxtral(settings, "its weights and a CUDA device with room are here")
            return _parrot(), f"parrot, the embedded engine: {lacking}"
        case "voxtral":
            return _voxtral(settings, ASKED_FOR)
        case "openai":
            with needed_for("LLM_ENGINE=openai", "openai"):
                from workers.llm.engines.openai import Openai

                endpoint = Openai(settings)
                return endpoint, f"openai ({endpoint.description}): {ASKED_FOR}"
        case "parrot":
            return _parrot(), f"parrot: {ASKED_FOR}"
        case "scripted":
            from workers.llm.engines.scripted import Scripted

            return Scripted(settings), f"scripted: {ASKED_FOR}"
    raise SettingsError(f"LLM_ENGINE is {name!r}; expected auto, voxtral, openai, parrot or scripted")


def _voxtral(settings: Settings, why: str) -> tuple[SpeechLM, str]:
    with needed_for("LLM_ENGINE=voxtral", *VOXTRAL_PACKAGES):
        # Known at once, and not after the seconds that the imports take.
        checkpoint.find(settings.voxtral_model, files.FILES, files.COMMAND)
        from workers.llm.engines.voxtral.engine import Voxtral

        engine = Voxtral(settings)
        return engine, f"voxtral ({engine.description}): {why}"


def _parrot() -> SpeechLM:
    from workers.llm.engines.parrot import Parrot

    return Parrot()


def _lacking_for_voxtral(settings: Settings) -> str | None:
    """What keeps `auto` from taking Voxtral, the cheapest question first; `None`: nothing.

    torch takes seconds and hundreds of megabytes to import: only where there are weights to use it on.
    """
    if not installed(*VOXTRAL_PACKAGES):
        return f"the packages of the models are not installed ({packages.COMMAND})"
    if not checkpoint.present(settings.voxtral_model, files.FILES):
        return f"no weights of Voxtral here ({files.COMMAND})"
    if settings.device == "cpu":
        return "Voxtral is too slow without CUDA, and DEVICE is cpu"
    import torch

    if not torch.cuda.is_available():
        return "no CUDA device"
    free_bytes, _ = torch.cuda.mem_get_info()
    if free_bytes < VOXTRAL_FREE_BYTES:
        return f"{free_bytes / 1e9:.1f} GB of {VOXTRAL_FREE_BYTES / 1e9:.0f} GB are free on the CUDA device"
    return None


async def whole_reply(engine: SpeechLM, request: ReplyRequest, audio: bytes) -> str:
    """The reply to an utterance that is there as a whole, from an engine that answers in tokens."""

    async def utterance() -> AsyncIterator[bytes]:
        yield audio

    texts = [token.text for token in request.spoken]
    async with aclosing(engine.process_chunked_streaming(request, utterance())) as tokens:
        async for token in tokens:
            texts.append(token.text)
    return "".join(texts)
