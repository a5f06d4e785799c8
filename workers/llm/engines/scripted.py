"""Fixed tokens at fixed times: for benchmarks and tests.

Owns when its tokens are due; the utterance is listened to but not understood. It uses no model and next to no
time of the processor, so whatever else a turn takes is the pipeline's.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator

from shared.settings import Settings
from shared.wire import Token
from workers.clock import sleep_until
from workers.llm.engines import ReplyRequest, whole_reply


class Scripted:
    """The same answer to everything: `SCRIPT_TOKENS`, each a token whose id is its place."""

    name = "scripted"

    def __init__(self, settings: Settings) -> None:
        self._tokens = settings.script_tokens
        self._first_token_ms = settings.script_first_token_ms
        self._inter_token_ms = settings.script_inter_token_ms

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
        missing = self._tokens[begin : request.settings.max_reply_tokens]
        for place, text in enumerate(missing):
            await sleep_until(asked_s + (self._first_token_ms + place * self._inter_token_ms) / 1000)
            yield Token(text, (begin + place,))

    async def process_realtime_chunk(self, request: ReplyRequest, audio: bytes) -> str:
        """The whole answer, when its last token is due."""
        return await whole_reply(self, request, audio)
