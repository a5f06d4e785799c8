"""An OpenAI-compatible endpoint that takes audio: how one model outgrows one GPU (vLLM serving Voxtral).

    history ─> Chat ─┐
    audio ─> WAV ────┴─> body ─> Endpoint ─> events ─> Token(text, (place,))

Owns what is asked for and what becomes of the events. While the user speaks, the connection is opened and all
that is known already gets its final form. Understands no audio.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from itertools import takewhile
from typing import TYPE_CHECKING

from shared.audio import INPUT_RATE, SAMPLE_BYTES
from shared.errors import SettingsError
from shared.settings import Settings
from shared.wire import Token
from workers.llm.engines import ReplyRequest, whole_reply
from workers.llm.engines.openai import failures
from workers.llm.engines.openai.chat import Chat, Sound, SoundWriter
from workers.llm.engines.openai.events import texts
from workers.llm.history import Exchange
from workers.packages import needed_for

if TYPE_CHECKING:
    from workers.llm.engines.openai.endpoint import Endpoint, Event

WINDOW_S = 30
WINDOW_TOKENS = 375
"""Voxtral takes 12.5 tokens a second, in windows of which each that is begun counts whole."""

TOKEN_BYTES = 4
"""Of a token of text, in UTF-8: 4 in English, and 3, a character, where there is no alphabet."""

MESSAGE_TOKENS = 4
"""What stands around a text."""


class Openai:
    """Asks `OPENAI_MODEL` at `OPENAI_BASE_URL`. A token is what the server sends at once, its id its place.

    Raises `SettingsError` where one of both is missing, and `EngineError` without the client library.
    """

    name = "openai"
    slots = None

    def __init__(self, settings: Settings) -> None:
        missing = [
            name for name in ("OPENAI_BASE_URL", "OPENAI_MODEL") if not getattr(settings, name.lower())
        ]
        if missing:
            raise SettingsError(f"LLM_ENGINE is 'openai', which needs {' and '.join(missing)}; not set")
        self._endpoint = _endpoint(settings)
        self._continue = settings.openai_continue
        self._takes_system = True

    @property
    def description(self) -> str:
        """The model that is asked."""
        return self._endpoint.model

    @property
    def spare(self) -> bool:
        """As far as is known here: the endpoint's own queue cannot be seen."""
        return True

    async def process_chunked_streaming(
        self, request: ReplyRequest, audio: AsyncIterator[bytes]
    ) -> AsyncGenerator[Token, None]:
        """Yield what the endpoint answers, as it comes.

        After a dead peer the endpoint is asked to go on behind what was said; one that cannot ends the turn,
        and the client may ask again. An answer that the server's content filter cuts ends where it was cut;
        one of which nothing is left is an error. `max_reply_tokens` bounds the server's tokens and ours: of a
        server that sends several at once fewer come.
        """
        settings = request.settings
        place, said = len(request.spoken), "".join(token.text for token in request.spoken)
        if place >= settings.max_reply_tokens:
            return
        begun = said.rstrip()
        if begun:
            await self._see_that_it_can_go_on()
        chat = Chat(settings)
        for exchange in request.history:
            chat.add(exchange)
            await asyncio.sleep(0)  # a minute of sound takes its time, and other conversations go on
        if settings.text is not None:
            chat.say(settings.text)
        elif (sound := await self._listen(audio, warm=not begun)) is not None:
            chat.say(sound)
        skipped = said[len(begun) :]
        async with (
            aclosing(self._ask(chat, settings.max_reply_tokens - place, begun)) as events,
            aclosing(texts(events, begun=bool(begun))) as answer,
        ):
            async for text in answer:
                # Servers cut blanks at the end of what they go on with: they come again, or not.
                text, skipped = _without(text, skipped)
                if text:
                    yield Token(text, (place,))
                    place += 1

    async def process_realtime_chunk(self, request: ReplyRequest, audio: bytes) -> str:
        """The whole answer."""
        return await whole_reply(self, request, audio)

    def cost(self, exchange: Exchange) -> int:
        """An estimate, of what Voxtral takes: sound by its windows, text by its bytes."""
        windows = math.ceil(len(exchange.audio) / (WINDOW_S * INPUT_RATE * SAMPLE_BYTES))
        written = [text.encode() for text in (exchange.text, exchange.reply) if text]
        return windows * WINDOW_TOKENS + sum(len(text) // TOKEN_BYTES + MESSAGE_TOKENS for text in written)

    async def close(self) -> None:
        """Close every connection: nothing can be asked any more."""
        await self._endpoint.close()

    async def _see_that_it_can_go_on(self) -> None:
        if self._continue == "no":
            raise failures.cannot_go_on("OPENAI_CONTINUE is no")
        if self._continue == "auto" and not await self._endpoint.is_vllm():
            raise failures.cannot_go_on("it does not say that it is vLLM; OPENAI_CONTINUE is auto")

    async def _listen(self, audio: AsyncIterator[bytes], *, warm: bool) -> Sound | None:
        sound = SoundWriter()
        warming = asyncio.create_task(self._endpoint.keep_warm()) if warm else None
        try:
            async for pcm in audio:
                sound.feed(pcm)
        finally:
            if warming is not None:
                warming.cancel()
        return None if sound.empty else sound.finish()

    async def _ask(self, chat: Chat, max_tokens: int, begun: str) -> AsyncGenerator[Event, None]:
        """The events of the answer. Where a model takes no system message beside sound, it is asked anew.

        Voxtral's tokenizer of 2507 is one that does not; it is asked the other way from then on.
        """
        ways = (True, False) if self._takes_system and chat.sound_and_prompt else (self._takes_system,)
        for system in ways:
            body = chat.body(self._endpoint.model, max_tokens, begun, system=system)
            try:
                async with aclosing(self._endpoint.answer(body, chat.texts)) as events:
                    async for event in events:
                        self._takes_system = system
                        yield event
                return
            except failures.Refused as refusal:
                if not refusal.content:
                    raise
                if system is ways[-1]:
                    raise failures.cannot_go_on(str(refusal)) if begun else refusal from None


def _endpoint(settings: Settings) -> Endpoint:
    with needed_for("LLM_ENGINE=openai"):
        from workers.llm.engines.openai.endpoint import Endpoint
    return Endpoint(
        settings.openai_base_url or "",
        settings.openai_api_key,
        settings.openai_model or "",
        settings.openai_timeout_s,
    )


def _without(text: str, skipped: str) -> tuple[str, str]:
    """The text without the beginning that it shares with what is `skipped`, and what is left of that."""
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(text, skipped, strict=False)))
    return text[shared:], "" if text[shared:] else skipped[shared:]
