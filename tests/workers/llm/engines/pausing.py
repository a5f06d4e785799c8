"""Somebody who stops and goes on while an engine thinks ahead, whatever the engine is."""

from __future__ import annotations

from collections.abc import AsyncIterator

from shared.wire import Token
from tests.conftest import eventually
from workers.llm.draft import Draft
from workers.llm.engines import ReplyRequest, SpeechLM
from workers.llm.start import Start
from workers.llm.thinking import Tally, Thinking


async def answer_after_pauses(engine: SpeechLM, request: ReplyRequest, *pieces: bytes) -> list[Token]:
    """What is answered to the pieces together, of an engine that has begun to answer after each of them."""
    begun: list[Start] = []

    def begin(audio: AsyncIterator[bytes]) -> Start:
        stream = engine.process_chunked_streaming(request, audio)
        begun.append(Start(stream, Draft((), 0.0), request.settings.max_reply_tokens))
        return begun[-1]

    tally = Tally()
    thinking = Thinking(begin, lambda: True, tally)
    try:
        for piece in pieces:
            await thinking.hear(piece)
            thinking.pause()
            await eventually(lambda: begun[-1].draft.tokens > 0, "the answer is begun")
        start = thinking.stand()
        await eventually(lambda: start.over, "the answer is whole")
        assert start.error is None
        assert tally == Tally(len(pieces), len(pieces) - 1)
    finally:
        await thinking.close()
    tokens = []
    while payloads := start.draft.take():
        tokens += [payload for payload in payloads if isinstance(payload, Token)]
    return tokens
