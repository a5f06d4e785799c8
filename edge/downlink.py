"""The answers on their way to one client: two logs in, one ordered and paced stream of messages out.

    text   ─ cursor ─> fold ─> tokens, semantic chunks ───────────────┐
    speech ─ cursor ─> fold ─> frames ─> playout, at their time ──────┴─> socket

Whatever is sent is a projection of the logs. Between a push and the socket nothing is waited for, except that
frames wait for their time. What an ending means for the line of turns is for the conversation to say.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge import render
from edge.conversation import Effect, State
from edge.dialogue import Dialogue
from edge.heard import heard_text
from edge.outlet import Outlet
from edge.playout import Playout
from edge.protocols import messages
from edge.protocols.native import Pacing
from edge.transcript import (
    Broken,
    Complete,
    Failed,
    FrameLine,
    Interrupted,
    Line,
    SemanticLine,
    TokenLine,
    Transcript,
)
from shared.errors import ClientError, StoryForked
from shared.keys import log_key
from shared.logs import bind
from shared.reader import Cursor, Reader
from shared.wire import Address, Log

log = logging.getLogger(__name__)

BACKLOG_MS = 10_000.0
"""How much speech waits here to leave; the rest waits in the log."""

EARLY_FRAMES = 100
"""How many frames may wait here for the text of their chunk."""

HEARD_SLACK_MS = 1.0
"""What rounding may take from the sum of many frames: the last word shall not be lost to it."""

FORKED = ClientError("engine_failed", "a part of the answer was lost; ask again", retryable=True)


@dataclass(frozen=True, slots=True)
class Heard:
    """How far the listener got in an answer that is closed."""

    ms: float
    text: str
    cleared_frames: int


CarryOut = Callable[[Sequence[Effect], ClientError | None], None]


class Downlink:
    """Everything that one client is told of answers. `start` it once, in the session's task group."""

    def __init__(
        self,
        dialogue: Dialogue,
        outlet: Outlet,
        reader: Reader,
        carry_out: CarryOut,
        *,
        lead_ms: float,
        transcript: Transcript | None = None,
    ) -> None:
        paced = dialogue.configuration.pacing is Pacing.REALTIME
        self.playout: Playout[FrameLine | Complete] = Playout(lead_ms, paced=paced)
        self.started = False
        self._dialogue = dialogue
        self._outlet = outlet
        self._reader = reader
        self._carry_out = carry_out
        self._transcript = transcript or Transcript()
        self._cursors: dict[Log, Cursor] = {}
        self._folded: dict[Log, Address] = {}
        self._flushed_turn = 0
        self._leaving = asyncio.Lock()
        self._moved = asyncio.Event()
        self._wake = asyncio.Event()

    def start(self, tasks: asyncio.TaskGroup, follow: dict[Log, int]) -> None:
        """Follow each log from the start of a turn."""
        self.started = True
        for log_, turn in follow.items():
            self._folded[log_] = Address(turn, -1)
            tasks.create_task(self._follow(log_, turn), name=f"follow-{log_}")
        tasks.create_task(self._play(), name="play")

    async def caught_up(self, with_: dict[Log, Address]) -> None:
        """Wait until what stood in the logs up to these addresses has been told or is in line."""
        while any(self._folded[log_] < address for log_, address in with_.items()):
            self._moved.clear()
            await self._moved.wait()

    def has_ended(self, turn: int) -> bool:
        """Whether the turn's last message was sent."""
        return self._transcript.has_ended(turn)

    def cut(self, turn: int, *, whole: bool) -> Heard:
        """The turn is being closed: none of its frames is sent from now on. How much of it was heard.

        With `whole`, all of it was sent: that counts as heard, and may play on.
        """
        spoken = self._transcript.spoken(turn)
        if whole:
            return Heard(sum(each.duration_ms for each in spoken), heard_text(spoken, math.inf), 0)
        now_ms = _now_ms()
        heard_ms = self.playout.heard_ms(turn, now_ms)
        cleared = self._flush(turn)
        return Heard(heard_ms, heard_text(spoken, heard_ms + HEARD_SLACK_MS if heard_ms else 0.0), cleared)

    def report(self, turn: int, played_ms: float) -> None:
        """The client says what was heard."""
        self.playout.report(turn, played_ms, _now_ms())
        self._wake.set()

    async def end(self, turn: int, error: ClientError) -> None:
        """End a turn by an error that stands in no log, unless it has ended."""
        if self._transcript.end(turn):
            self._flush(turn)
            notes = self._dialogue.notes(turn)
            await self._outlet.send(messages.error(error, turn=turn, chunk_id=notes.chunk_id))

    def rest(self) -> None:
        """Look for lost pushes only while something is expected."""
        conversation = self._dialogue.conversation
        idle = conversation.state is State.LISTENING and (
            conversation.turn == 0 or self.has_ended(conversation.turn)
        )
        for cursor in self._cursors.values():
            if cursor.idle != idle:
                cursor.idle = idle
        self._wake.set()

    # ---- in

    async def _follow(self, log_: Log, turn: int) -> None:
        key = log_key(self._dialogue.id, log_)
        while True:
            cursor = self._cursors[log_] = self._reader.follow(key, Address(turn, -1))
            try:
                await self._fold_all(log_, cursor)
            except StoryForked as error:
                turn = max(turn, self._folded[log_].turn)
                log.warning("%s", error)
                await self._forked(turn)
                turn += 1
            finally:
                cursor.close()

    async def _fold_all(self, log_: Log, cursor: Cursor) -> None:
        async for entry in cursor:
            turn = entry.address.turn
            self._dialogue.notes(turn).moved_at = time.monotonic()
            for line in self._transcript.fold(log_, entry):
                await self._tell(line)
            self._folded[log_] = entry.address
            self._moved.set()
            if entry.final:
                self.rest()
            if log_ is Log.SPEECH:
                await self._room(turn)

    async def _room(self, turn: int) -> None:
        """Hold what is read but not sent within bounds."""
        while self.playout.backlog_ms > BACKLOG_MS or self._transcript.waiting(turn) > EARLY_FRAMES:
            self._moved.clear()
            await self._moved.wait()

    async def _forked(self, turn: int) -> None:
        effects = self._dialogue.conversation.broken(turn, "failed")
        if effects:
            self._carry_out(effects, FORKED)
            await self.end(turn, FORKED)

    async def _tell(self, line: Line) -> None:
        match line:
            case TokenLine():
                await self._tell_token(line)
            case SemanticLine():
                await self._tell_semantic(line)
            case FrameLine(held=True):
                self.playout.held(line.address, line.duration_ms)
                self._dialogue.conversation.spoke(line.turn)
            case Complete(held=True):
                self._carry_out(self._dialogue.conversation.complete(line.turn), None)
                self.rest()
            case FrameLine() | Complete():
                await self._tell_in_time(line)
            case Interrupted():
                await self._tell_ending(line, render.interrupted(line, self._dialogue.notes(line.turn)))
                self._carry_out(self._dialogue.conversation.broken(line.turn, line.reason), None)
            case Failed():
                await self._tell_ending(line, render.failed(line, self._dialogue.notes(line.turn)))
                effects = self._dialogue.conversation.broken(line.turn, "failed")
                self._carry_out(effects, render.failure(line))
            case Broken():
                self._carry_out(self._dialogue.conversation.broken(line.turn, line.reason), None)

    async def _tell_token(self, line: TokenLine) -> None:
        if line.held or not await self._send_word(line.turn, render.token(line, _timestamp())):
            return
        watch = self._dialogue.notes(line.turn).stopwatch
        if watch.first_token is None:
            watch.first_token = time.monotonic()
            self._note(line.turn, "first token", watch.first_token_ms)

    async def _tell_semantic(self, line: SemanticLine) -> None:
        if line.held or not await self._send_word(line.turn, render.semantic(line)):
            return
        watch = self._dialogue.notes(line.turn).stopwatch
        if watch.first_word is None:
            watch.first_word = time.monotonic()
            self._note(line.turn, "first word", watch.first_word_ms)

    async def _send_word(self, turn: int, message: messages.Message) -> bool:
        return await self._outlet.send(message, unless=lambda: self._transcript.has_ended(turn))

    async def _tell_in_time(self, line: FrameLine | Complete) -> None:
        duration_ms = 0.0
        if isinstance(line, FrameLine):
            duration_ms = line.duration_ms
            self._dialogue.notes(line.turn).stopwatch.made = time.monotonic()
        if self.playout.push(line.address, line, duration_ms):
            await self._let_out()
            self._wake.set()

    async def _tell_ending(self, line: Interrupted | Failed, message: messages.Message) -> None:
        self._flush(line.turn)
        if line.held:
            return
        await self._outlet.send(message)
        with bind(turn=line.turn):
            log.info("ended: %s", line.reason if isinstance(line, Interrupted) else line.code)

    # ---- out

    async def _play(self) -> None:
        """Let frames out at their time, and say when an answer was heard out."""
        loop = asyncio.get_running_loop()
        while True:
            await self._let_out()
            next_ms = self._next_ms()
            timer = None
            if next_ms is not None:
                timer = loop.call_later(max(0.0, next_ms - _now_ms()) / 1000, self._wake.set)
            await self._wake.wait()
            self._wake.clear()
            if timer is not None:
                timer.cancel()

    def _next_ms(self) -> float | None:
        """When the next thing is due."""
        now_ms = _now_ms()
        due_ms = self.playout.next_due_ms(now_ms)
        turn = self._dialogue.conversation.answered
        if due_ms is not None or turn is None:
            return due_ms
        heard_out_ms = self.playout.heard_out_ms(turn, now_ms)
        if heard_out_ms is None or heard_out_ms > now_ms:
            return heard_out_ms
        self._carry_out(self._dialogue.conversation.heard_out(turn), None)
        return None

    async def _let_out(self) -> None:
        async with self._leaving:
            for line in self.playout.due(_now_ms()):
                if isinstance(line, FrameLine):
                    await self._let_frame_out(line)
                else:
                    await self._let_completion_out(line)
        self._moved.set()

    async def _let_frame_out(self, line: FrameLine) -> None:
        notes = self._dialogue.notes(line.turn)
        message = render.frame(line, notes, _timestamp())
        if not await self._outlet.send(message, unless=lambda: line.turn <= self._flushed_turn):
            return
        notes.moved_at = time.monotonic()
        watch = notes.stopwatch
        if watch.first_audio is None:
            watch.first_audio = notes.moved_at
            self._dialogue.conversation.spoke(line.turn)
            self._note(line.turn, "first audio", watch.first_audio_ms)

    async def _let_completion_out(self, line: Complete) -> None:
        notes = self._dialogue.notes(line.turn)
        message = render.complete(line, notes)
        if not await self._outlet.send(message, unless=lambda: line.turn <= self._flushed_turn):
            return
        self._transcript.end(line.turn)
        with bind(turn=line.turn):
            watch = notes.stopwatch
            log.info(
                "answered: first token %s, first word %s, first audio %s, last frame %s, %.0f ms of speech",
                *map(
                    _in_ms, (watch.first_token_ms, watch.first_word_ms, watch.first_audio_ms, watch.total_ms)
                ),
                line.audio_ms,
            )
        self._carry_out(self._dialogue.conversation.complete(line.turn), None)
        self.rest()

    def _flush(self, turn: int) -> int:
        oldest = self._dialogue.conversation.oldest
        if oldest is not None and oldest < turn:
            return 0  # It waits behind an answer that goes on, and has not begun to speak.
        self._flushed_turn = max(self._flushed_turn, turn)
        cleared = self.playout.flush(turn, _now_ms())
        self._moved.set()
        return cleared

    def _note(self, turn: int, what: str, latency_ms: float | None) -> None:
        if log.isEnabledFor(logging.DEBUG):
            with bind(turn=turn):
                log.debug("%s: %s", what, _in_ms(latency_ms))


def _in_ms(latency_ms: float | None) -> str:
    return "-" if latency_ms is None else f"{latency_ms:.1f} ms"


def _now_ms() -> float:
    return time.monotonic() * 1000


def _timestamp() -> float:
    return time.time() * 1000
