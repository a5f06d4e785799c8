"""The LLM worker's part of a turn: the utterance in, tokens and semantic chunks out.

Attached while the user still speaks, and what was said before is read meanwhile, so that nothing but the
model's own time lies between the utterance's end and the first token. If the engine has room, not even that:
an answer is begun at each pause, in case it was the end. Nothing but `take` goes into `text` before that end.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import asdict

from shared.errors import StoreError, TurnClosed
from shared.keys import Role, log_key, session_key
from shared.log import persist, tail
from shared.reader import Cursor
from shared.store import Store
from shared.wire import Chunk, Closed, Entry, Log, Open, Pause, Token
from shared.work import Announcement
from workers.llm.draft import Draft
from workers.llm.engines import ReplyRequest, SpeechLM
from workers.llm.history import Exchange, read_history
from workers.llm.start import Start, now_ms
from workers.llm.thinking import Tally, Thinking
from workers.turn import Turn, entries_of

log = logging.getLogger(__name__)

WATCH_S = 2.0
"""How often the lease of the edge session is looked at."""


class ReplyHandler:
    """Answers turns with one engine. `reason` says in a plain line which engine that is, and why.

    `history_tokens`: how much of what was said before the engine is given; 0: nothing. `think_ahead`: whether
    an answer may be begun before it is known that the utterance has ended.
    """

    role = Role.REPLY
    output = Log.TEXT
    others: tuple[Log, ...] = (Log.SPEECH,)

    def __init__(
        self, engine: SpeechLM, reason: str, history_tokens: int = 0, think_ahead: bool = True
    ) -> None:
        self._engine = engine
        self._reason = reason
        self._history_tokens = history_tokens
        self._think_ahead = think_ahead
        self._tally = Tally()

    def announcement(self, name: str, slots: int) -> Announcement:
        """The engine, as edges name it, with as many slots as it has rows, if those are fewer."""
        slots = min(slots, self._engine.slots or slots)
        return Announcement(name, self.role, self._engine.name, self._reason, slots)

    def counts(self) -> dict[str, int]:
        """How many answers were begun at a pause, and how many of them were thrown away."""
        return asdict(self._tally)

    async def is_due(self, store: Store, conversation: str, turn: int) -> bool:
        """Whether the utterance has ended."""
        last = await tail(store, log_key(conversation, Log.AUDIO))
        return last is not None and (last.final or last.address.turn > turn)

    async def run(self, turn: Turn) -> None:
        """Listen to the utterance, then write the reply."""
        audio = turn.follow(Log.AUDIO)
        watch = asyncio.create_task(_close_when_abandoned(turn))
        try:
            history = await persist(
                lambda: read_history(
                    turn.store, turn.conversation, turn.number, self._history_tokens, self._engine.cost
                )
            )
            entries = entries_of(audio, turn.number)
            opening = await anext(entries)
            if not isinstance(opening.payload, Open):
                raise TurnClosed(f"{audio.key}: turn {turn.number} begins with {opening.payload.kind}")
            thinking = self._thinking(turn, opening.payload, history)
            try:
                if opening.payload.text is None:
                    await _listen(audio, entries, thinking)
                else:
                    turn.step()  # It is there as a whole.
                await _write(turn, thinking.stand())
            finally:
                await thinking.close()
        finally:
            watch.cancel()
            audio.close()

    def _thinking(self, turn: Turn, settings: Open, history: tuple[Exchange, ...]) -> Thinking:
        """The answer in the making, which has begun to listen."""
        stood = tuple(turn.writer.entries)
        spoken = tuple(entry.payload for entry in stood if isinstance(entry.payload, Token))
        request = ReplyRequest(turn.conversation, turn.number, settings, spoken, history)
        if spoken:
            log.info("going on after %d tokens", len(spoken))

        def begin(audio: AsyncIterator[bytes]) -> Start:
            stream = self._engine.process_chunked_streaming(request, audio)
            draft = Draft(stood, time.time() * 1000 - now_ms())
            return Start(stream, draft, settings.max_reply_tokens)

        # An engine that reads only as fast as it understands is not stalled while it still reads.
        return Thinking(begin, lambda: self._think_ahead and self._engine.spare, self._tally, turn.step)


async def _listen(audio: Cursor, entries: AsyncIterator[Entry], thinking: Thinking) -> None:
    """Follow the utterance, whose entries come from `audio`, to its end."""
    async for entry in entries:
        match entry.payload:
            case Chunk(pcm=pcm):
                await thinking.hear(pcm)
            case Pause():
                # One that is past is no reason to think ahead: whoever takes a turn over meets them all.
                if await audio.caught_up():
                    thinking.pause()
            case Closed():
                raise TurnClosed(f"{audio.key}: turn {entry.address.turn} was closed while the user spoke")


async def _write(turn: Turn, start: Start) -> None:
    """Write the reply: what is there at once, then the rest as it comes."""
    draft = start.draft
    drawn = draft.tokens
    draft.want(now_ms())
    while True:
        if draft.tokens > drawn:
            turn.step()
            drawn = draft.tokens
        if payloads := draft.take():
            await turn.writer.append(*payloads)
        elif start.error is not None:
            raise start.error
        elif start.over:
            return
        else:
            await start.news(draft.due_in_s(now_ms()))
            draft.tick(now_ms())


async def _close_when_abandoned(turn: Turn) -> None:
    """End a turn that nobody else will: its edge session is gone, and the time to resume it has passed."""
    gone_since: float | None = None
    while True:
        await asyncio.sleep(WATCH_S)
        try:
            if await turn.store.call("EXISTS", session_key(turn.conversation)):
                gone_since = None
            elif gone_since is None:
                gone_since = time.monotonic()
            elif time.monotonic() - gone_since > turn.resume_window_s:
                log.info("abandoned")
                return await turn.close(Closed("abandoned"), Log.AUDIO, Log.TEXT, Log.SPEECH)
        except StoreError as error:
            log.debug("cannot see or end the session: %s", error)
