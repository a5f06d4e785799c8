"""Lets an answer's frames out at their time, its completion behind them, and knows how much was heard.

The socket's side of `playout`, which it gives its clock. What a completion, or an answer heard to its end,
means for the line of turns is for the conversation to say.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge import render
from edge.conversation import Effect
from edge.dialogue import Dialogue
from edge.heard import heard_text
from edge.outlet import Outlet
from edge.playout import Playout
from edge.protocols.native import Pacing
from edge.stopwatch import in_ms
from edge.transcript import Complete, FrameLine, Interrupted, Transcript, Whole
from shared.errors import ClientError
from shared.logs import bind

log = logging.getLogger(__name__)

BACKLOG_MS = 10_000.0
"""How much speech waits here to leave; the rest waits in the log."""

TIMER_MS = 1.0
"""The resolution of the event loop's timers: one that fires early would have to be set again."""

ECHO_TAIL_MS = 300.0
"""How long a room and a client's own buffers may sound on after the clock says that all was heard."""

LONGEST_HALT_MS = 3000.0
"""After so long something leaves again by itself, however often it was halted anew: a client that sends no
more in the middle of a sound, so that nobody ever finds out what it was, shall still get its answer."""

HEARD_SLACK_MS = 1.0
"""What rounding may take from the sum of many frames: the last word shall not be lost to it."""

CarryOut = Callable[[Sequence[Effect], ClientError | None], None]


@dataclass(frozen=True, slots=True)
class Heard:
    """How far the listener got in an answer that is closed."""

    ms: float
    text: str
    cleared_frames: int


class Player:
    """The way out of one conversation's speech. `run` must be running for frames to leave in time."""

    def __init__(
        self,
        dialogue: Dialogue,
        outlet: Outlet,
        transcript: Transcript,
        carry_out: CarryOut,
        *,
        lead_ms: float,
        moved: asyncio.Event,
    ) -> None:
        paced = dialogue.configuration.pacing is Pacing.REALTIME
        self.playout: Playout[FrameLine | Complete] = Playout(lead_ms, paced=paced)
        self._dialogue = dialogue
        self._outlet = outlet
        self._transcript = transcript
        self._carry_out = carry_out
        self._moved = moved
        self._leaving = asyncio.Lock()
        self._flushed_turn = 0
        self._halted_until_ms = math.inf
        self._gathered: dict[int, list[bytes]] = {}
        self._cut_short: deque[Interrupted] = deque()
        self._wake = asyncio.Event()
        self._wakes_at_ms = math.inf

    @property
    def full(self) -> bool:
        """Whether enough waits here; `moved` is set when that may have changed."""
        return self.playout.backlog_ms > BACKLOG_MS

    @property
    def ending(self) -> bool:
        """Whether the end of an answer that was cut off is still to be sent; `moved` is set as for `full`."""
        return bool(self._cut_short)

    def halt(self) -> None:
        """Let nothing leave for now: the user may have begun to speak. What has left plays on.

        At most the one frame that is just being written still goes; it counts as sent.
        """
        self.playout.halt()
        self._halted_until_ms = min(self._halted_until_ms, _now_ms() + LONGEST_HALT_MS)
        self.look()

    def go_on(self) -> None:
        """End a halt, if there is one: what it held back leaves from now on, in order.

        Until something of that has left, another halt is no longer than the rest of this one.
        """
        self.playout.go_on()
        if self.playout.next_due_ms(_now_ms()) is None:
            self._halted_until_ms = math.inf
        self.look()

    async def let_out(self) -> None:
        """Let leave what is due, before anything else happens."""
        async with self._leaving:
            while self._cut_short:
                await self._let_ending_out(self._cut_short[0])
                self._cut_short.popleft()
            # One at a time: what is not being written yet can still be halted.
            while lines := self.playout.due(_now_ms(), at_most=1):
                self._halted_until_ms = math.inf
                line = lines[0]
                if isinstance(line, FrameLine):
                    await self._let_frame_out(line)
                else:
                    await self._let_completion_out(line)
        self._moved.set()

    def audible(self) -> bool:
        """Whether the user's microphone may hear an answer: one is playing there, or was just now."""
        return _now_ms() < self.playout.sounds_until_ms + ECHO_TAIL_MS

    async def put(self, line: FrameLine | Complete) -> None:
        """Put a line behind those that wait; it leaves here if it is due."""
        duration_ms = line.duration_ms if isinstance(line, FrameLine | Whole) else 0.0
        if self.playout.push(line.address, line, duration_ms, at_once=isinstance(line, Whole)):
            await self.let_out()
            due_ms = self.playout.next_due_ms(_now_ms())
            if due_ms is not None and due_ms < self._wakes_at_ms:
                self._wake.set()

    def gather(self, line: FrameLine) -> None:
        """Keep a frame of a batch turn for the one message that its speech leaves in.

        At most `MAX_TURN_BYTES` of them: a turn has no more in the log.
        """
        self._gathered.setdefault(line.turn, []).append(line.pcm)

    async def put_whole(self, line: Complete) -> None:
        """Put a batch turn, with all that was gathered of it, behind what waits; or note that it was held."""
        whole = line.with_speech(b"".join(self._gathered.pop(line.turn, ())))
        if not line.held:
            await self.put(whole)
        elif whole.duration_ms > 0:
            self._held(whole, at_once=True)

    def held(self, line: FrameLine) -> None:
        """The client has this frame from before."""
        self._held(line)

    def report(self, turn: int, played_ms: float) -> None:
        """The client says what was heard."""
        self.playout.report(turn, played_ms, _now_ms())
        self.look()

    def waits(self, turn: int) -> bool:
        """Whether something of the turn is here, and leaves when its time has come."""
        return self.playout.heard_out_ms(turn, _now_ms()) is None

    def look(self) -> None:
        """See anew what is due next."""
        self._wake.set()

    def cut(self, turn: int, *, whole: bool) -> Heard:
        """The turn is being closed: none of its frames is sent from now on. How much of it was heard.

        With `whole`, all of it was sent: that counts as heard, and may play on.
        """
        spoken = self._transcript.spoken(turn)
        if whole:
            return Heard(sum(each.duration_ms for each in spoken), heard_text(spoken, math.inf), 0)
        heard_ms = self.playout.heard_ms(turn, _now_ms())
        cleared = self.flush(turn)
        return Heard(heard_ms, heard_text(spoken, heard_ms + HEARD_SLACK_MS if heard_ms else 0.0), cleared)

    def flush(self, turn: int) -> int:
        """Send no more frames of the turn, nor its completion: the number of frames that are held back."""
        ending = self._transcript.cut_off(turn)
        if ending is not None:
            self._cut_short.append(ending)
            self.look()
        oldest = self._dialogue.conversation.oldest
        if oldest is not None and oldest < turn:
            return 0  # It waits behind an answer that goes on, and has not begun to speak.
        self._flushed_turn = max(self._flushed_turn, turn)
        cleared = self.playout.flush(turn, _now_ms())
        for gathered in [each for each in self._gathered if each <= turn]:
            cleared += len(self._gathered.pop(gathered))
        self._moved.set()
        return cleared

    async def run(self) -> None:
        """Let frames out at their time, and say when an answer was heard out; for ever."""
        loop = asyncio.get_running_loop()
        while True:
            if _now_ms() >= self._halted_until_ms:
                self._halted_until_ms = math.inf
                self.playout.go_on()
            await self.let_out()
            self._wakes_at_ms = min(self._next_ms(), self._halted_until_ms)
            timer = None
            if self._wakes_at_ms < math.inf:
                wait_ms = max(0.0, self._wakes_at_ms - _now_ms()) + TIMER_MS
                timer = loop.call_later(wait_ms / 1000, self._wake.set)
            await self._wake.wait()
            self._wake.clear()
            if timer is not None:
                timer.cancel()

    def _held(self, line: FrameLine | Whole, *, at_once: bool = False) -> None:
        conversation = self._dialogue.conversation
        settled = not conversation.lives(line.turn)
        self.playout.held(line.address, line.duration_ms, _now_ms(), at_once=at_once, settled=settled)
        conversation.spoke(line.turn)

    def _next_ms(self) -> float:
        """When the next thing is due; infinite if nothing is."""
        now_ms = _now_ms()
        due_ms = self.playout.next_due_ms(now_ms)
        turn = self._dialogue.conversation.answered
        if due_ms is not None:
            return due_ms
        heard_out_ms = None if turn is None else self.playout.heard_out_ms(turn, now_ms)
        if turn is None or heard_out_ms is None:
            return math.inf
        if heard_out_ms <= now_ms:
            self._carry_out(self._dialogue.conversation.heard_out(turn), None)
            return math.inf
        return heard_out_ms

    async def _let_frame_out(self, line: FrameLine) -> None:
        notes = self._dialogue.notes(line.turn)
        message = render.frame(line, notes, time.time() * 1000)
        # One that ended while it waited behind an answer that goes on was not flushed.
        if not await self._outlet.send(
            message,
            unless=lambda: line.turn <= self._flushed_turn or self._transcript.has_ended(line.turn),
        ):
            return
        notes.moved_at = time.monotonic()
        if notes.stopwatch.first_audio is None:
            notes.stopwatch.first_audio = notes.moved_at
            self._dialogue.conversation.spoke(line.turn)
            with bind(turn=line.turn):
                log.debug("first audio: %s", in_ms(notes.stopwatch.first_audio_ms))

    async def _let_completion_out(self, line: Complete) -> None:
        notes = self._dialogue.notes(line.turn)
        message = render.ending(line, notes)
        # The turn has ended as soon as this is being written: a cut that comes meanwhile tells nothing more.
        if not await self._outlet.send(
            message,
            unless=lambda: line.turn <= self._flushed_turn or not self._transcript.end(line.turn),
        ):
            return
        if isinstance(line, Whole):
            notes.stopwatch.first_audio = time.monotonic()
            self._dialogue.conversation.spoke(line.turn)
        with bind(turn=line.turn):
            watch = notes.stopwatch
            log.info(
                "answered: first token %s, first word %s, first audio %s, last frame %s, %.0f ms of speech",
                in_ms(watch.first_token_ms),
                in_ms(watch.first_word_ms),
                in_ms(watch.first_audio_ms),
                in_ms(watch.total_ms),
                line.audio_ms,
            )
        self._carry_out(self._dialogue.conversation.complete(line.turn), None)
        self.look()

    async def _let_ending_out(self, line: Interrupted) -> None:
        message = render.closing(line, self._dialogue.notes(line.turn))
        if await self._outlet.send(message, unless=lambda: not self._transcript.end(line.turn)):
            with bind(turn=line.turn):
                log.info("ended: cut off when it was told again")


def _now_ms() -> float:
    return time.monotonic() * 1000
