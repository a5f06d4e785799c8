"""The LLM worker's part of a turn: the utterance in, tokens and semantic chunks out.

Attached while the user still speaks, and what was said before is read meanwhile, so that nothing but the
model's own time lies between the utterance's end and the first token. Nothing but `take` goes into `text`
before that end.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence

from shared.errors import StoreError, TurnClosed
from shared.keys import Role, session_key
from shared.wire import Chunk, Closed, Entry, Log, Open, Payload, ReplyEnd, Semantic, Token
from shared.work import Announcement
from workers.llm.chunker import Chunker, Piece
from workers.llm.engines import ReplyRequest, SpeechLM
from workers.llm.history import Exchange, read_history
from workers.turn import Turn, entries_of

log = logging.getLogger(__name__)

WATCH_S = 2.0
"""How often the lease of the edge session is looked at."""


class ReplyHandler:
    """Answers turns with one engine. `reason` says in a plain line which engine that is, and why.

    `history_tokens`: how much of what was said before the engine is given; 0: nothing.
    """

    role = Role.REPLY
    output = Log.TEXT
    others: tuple[Log, ...] = (Log.SPEECH,)

    def __init__(self, engine: SpeechLM, reason: str, history_tokens: int = 0) -> None:
        self._engine = engine
        self._reason = reason
        self._history_tokens = history_tokens

    def announcement(self, name: str, slots: int) -> Announcement:
        """The engine, as edges name it."""
        return Announcement(name, self.role, self._engine.name, self._reason, slots)

    async def run(self, turn: Turn) -> None:
        """Listen to the utterance, then write the reply."""
        audio = turn.follow(Log.AUDIO)
        watch = asyncio.create_task(_close_when_abandoned(turn))
        try:
            history = await read_history(
                turn.store, turn.conversation, turn.number, self._history_tokens, self._engine.cost
            )
            entries = entries_of(audio, turn.number)
            opening = await anext(entries)
            if not isinstance(opening.payload, Open):
                raise TurnClosed(f"{audio.key}: turn {turn.number} begins with {opening.payload.kind}")
            await self._reply(turn, opening.payload, history, _utterance(turn, entries))
        finally:
            watch.cancel()
            audio.close()

    async def _reply(
        self, turn: Turn, settings: Open, history: tuple[Exchange, ...], audio: AsyncIterator[bytes]
    ) -> None:
        reply = _Reply(turn)
        if settings.text is not None:
            turn.step()
        request = ReplyRequest(turn.conversation, turn.number, settings, tuple(reply.tokens), history)
        stream = self._engine.process_chunked_streaming(request, audio)
        coming = asyncio.ensure_future(_next_or_none(stream))
        reason = "length"
        try:
            while len(reply.tokens) < settings.max_reply_tokens:
                await asyncio.wait({coming}, timeout=reply.due_in_s())
                if not coming.done():
                    await reply.tick()
                    continue
                token = coming.result()
                if token is None:
                    reason = "stop"
                    break
                turn.step()
                await reply.add(token)
                coming = asyncio.ensure_future(_next_or_none(stream))
            await reply.end(reason)
        finally:
            coming.cancel()
            await asyncio.wait({coming})
            await stream.aclose()


class _Reply:
    """The reply as it grows: tokens and the chunks cut from them, in memory and in the log."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._writer = turn.writer
        entries = turn.writer.entries
        self.tokens = [entry.payload for entry in entries if isinstance(entry.payload, Token)]
        self._chunker, self._chunks = _rebuilt(entries)
        if self.tokens:
            log.info("going on after %d tokens and %d chunks", len(self.tokens), self._chunks)

    def due_in_s(self) -> float | None:
        """How long until a chunk is due by time alone."""
        due_ms = self._chunker.deadline_ms
        return None if due_ms is None else max(0.0, (due_ms - _now_ms()) / 1000)

    async def add(self, token: Token) -> None:
        """Write the token, and with it the chunks that it completes."""
        pieces = self._chunker.feed(token.text, _now_ms())
        if not self.tokens:
            log.debug("first token")
        self.tokens.append(token)
        await self._write(token, pieces)

    async def tick(self) -> None:
        """Write what is due by time."""
        await self._write(None, self._chunker.tick(_now_ms()))

    async def end(self, reason: str) -> None:
        """Write what is left, and the end."""
        semantics = self._semantics(self._chunker.finish())
        await self._writer.append(*semantics, ReplyEnd(reason, len(self.tokens), self._chunks))

    async def _write(self, token: Token | None, pieces: Sequence[Piece]) -> None:
        payloads: list[Payload] = [] if token is None else [token]
        payloads += self._semantics(pieces)
        if payloads:
            await self._writer.append(*payloads)

    def _semantics(self, pieces: Sequence[Piece]) -> list[Semantic]:
        if pieces and not self._chunks:
            log.debug("first word")
        self._chunks += len(pieces)
        return [Semantic(piece.text, piece.from_, piece.upto, piece.boundary) for piece in pieces]


def _rebuilt(entries: Sequence[Entry]) -> tuple[Chunker, int]:
    """The chunker as the dead peer had it, on this process's clock, and the number of its chunks."""
    offset_ms = time.time() * 1000 - _now_ms()
    tokens: list[tuple[str, float]] = []
    spoken: list[tuple[Piece, float]] = []
    for entry in entries:
        at_ms = entry.at_us / 1000 - offset_ms
        match entry.payload:
            case Token(text=text):
                tokens.append((text, at_ms))
            case Semantic() as chunk:
                spoken.append((Piece(chunk.text, chunk.from_, chunk.upto, chunk.boundary), at_ms))
    return Chunker.rebuild(tokens, spoken), len(spoken)


async def _utterance(turn: Turn, entries: AsyncIterator[Entry]) -> AsyncIterator[bytes]:
    """The PCM of the utterance as it comes. When it has ended, the engine owes tokens."""
    async for entry in entries:
        match entry.payload:
            case Chunk(pcm=pcm):
                yield pcm
            case Closed():
                raise TurnClosed(f"turn {turn.number} was closed while the user spoke")
    turn.step()


async def _next_or_none(stream: AsyncIterator[Token]) -> Token | None:
    return await anext(stream, None)


async def _close_when_abandoned(turn: Turn) -> None:
    """End a turn that nobody else will: its edge session is gone, and the time to resume it has passed."""
    gone_since: float | None = None
    while True:
        await asyncio.sleep(WATCH_S)
        try:
            held = await turn.store.call("EXISTS", session_key(turn.conversation))
        except StoreError as error:
            log.debug("cannot see the session: %s", error)
            continue
        if held:
            gone_since = None
        elif gone_since is None:
            gone_since = time.monotonic()
        elif time.monotonic() - gone_since > turn.resume_window_s:
            log.info("abandoned")
            return await turn.close(Closed("abandoned"), Log.AUDIO, Log.TEXT, Log.SPEECH)


def _now_ms() -> float:
    return time.monotonic() * 1000
