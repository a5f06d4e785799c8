"""Fixed tokens at fixed times: for benchmarks and tests.

Owns when its tokens are due; the utterance is listened to but not understood. It uses no model and next to no
time of the processor, so whatever else a turn takes is the pipeline's.

With `SCRIPT_ECHO_HISTORY=1` the answer says what the engine was given: a token for each exchange of the
history, oldest first, then one for the settings of this turn. Texts are JSON strings, `null` where there
is none; a user who typed is quoted, of one who spoke the seconds are given:

    [1 user 2.50 s] [1 reply "Hello! Yes"] [2 user "And now?"] [2 reply ""] [3 prompt "Be brief." voice null]
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator

from shared.audio import INPUT_RATE, duration_ms
from shared.settings import Settings
from shared.wire import Token
from workers.clock import sleep_until
from workers.llm.engines import ReplyRequest, whole_reply
from workers.llm.history import Exchange, rough_cost


class Scripted:
    """The same answer to everything: `SCRIPT_TOKENS` or the echo, each token's id its place."""

    name = "scripted"
    slots = None

    def __init__(self, settings: Settings) -> None:
        self._tokens = settings.script_tokens
        self._first_token_ms = settings.script_first_token_ms
        self._inter_token_ms = settings.script_inter_token_ms
        self._echoes = settings.script_echo_history

    @property
    def spare(self) -> bool:
        """It waits, and keeps nobody waiting."""
        return True

    async def process_chunked_streaming(
        self, request: ReplyRequest, audio: AsyncIterator[bytes]
    ) -> AsyncGenerator[Token, None]:
        """Yield the tokens by the clock, which starts when the utterance has ended.

        The first that is missing comes after `SCRIPT_FIRST_TOKEN_MS`, like after a prefill, also where a dead
        peer had begun; the k-th after it k times `SCRIPT_INTER_TOKEN_MS` later, however late the one before.
        """
        if request.settings.text is None:
            async for _ in audio:
                pass
        asked_s = time.monotonic()
        begin = len(request.spoken)
        tokens = echo(request) if self._echoes else self._tokens
        missing = tokens[begin : request.settings.max_reply_tokens]
        for place, text in enumerate(missing):
            await sleep_until(asked_s + (self._first_token_ms + place * self._inter_token_ms) / 1000)
            yield Token(text, (begin + place,))

    async def process_realtime_chunk(self, request: ReplyRequest, audio: bytes) -> str:
        """The whole answer, when its last token is due."""
        return await whole_reply(self, request, audio)

    def cost(self, exchange: Exchange) -> int:
        """About what a speech model would take."""
        return rough_cost(exchange)


def echo(request: ReplyRequest) -> tuple[str, ...]:
    """The tokens that say what was asked, and after what."""
    settings = request.settings
    now = f"[{request.turn} prompt {_quoted(settings.prompt)} voice {_quoted(settings.voice)}]"
    return (*(f"{_told(exchange)} " for exchange in request.history), now)


def _told(exchange: Exchange) -> str:
    seconds = duration_ms(exchange.audio, INPUT_RATE) / 1000
    user = f"{seconds:.2f} s" if exchange.text is None else _quoted(exchange.text)
    return f"[{exchange.turn} user {user}] [{exchange.turn} reply {_quoted(exchange.reply)}]"


def _quoted(text: str | None) -> str:
    return json.dumps(text, ensure_ascii=False)
