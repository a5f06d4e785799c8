"""The answers on their way to one client: two logs in, one ordered stream of messages out.

    text   ─ cursor ─> fold ─> tokens, semantic chunks ────────────┐
    speech ─ cursor ─> fold ─> frames ─> player, at their time ────┴─> socket

Of a batch turn nothing is sent but its last message, with all of its speech; until then that waits here.
Whatever is sent is a projection of the logs. Between a push and the socket nothing is waited for, except that
frames wait for their time. What an ending means for the line of turns is for the conversation to say.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from edge import render
from edge.conversation import State
from edge.dialogue import Dialogue
from edge.outlet import Outlet
from edge.player import CarryOut, Player
from edge.protocols import messages
from edge.stopwatch import in_ms
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
from shared.errors import ClientError, EntryGarbled, StoryForked
from shared.keys import log_key
from shared.logs import bind
from shared.reader import Cursor, Reader
from shared.wire import Address, Closed, Log

log = logging.getLogger(__name__)

EARLY_FRAMES = 100
"""How many frames may wait here for the text of their chunk."""

NOWHERE = Address(0, 0)

FORKED = ClientError("engine_failed", "a part of the answer was lost; ask again", retryable=True)
GARBLED = ClientError("engine_failed", "a part of the answer cannot be read; ask again", retryable=True)


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
        turn_ended: Callable[[], None],
        transcript: Transcript | None = None,
    ) -> None:
        self.started = False
        self._turn_ended = turn_ended
        self._last_ended = 0
        self._dialogue = dialogue
        self._outlet = outlet
        self._reader = reader
        self._carry_out = carry_out
        self._transcript = transcript or Transcript()
        self._moved = asyncio.Event()
        self._telling = asyncio.Lock()
        self.player = Player(
            dialogue, outlet, self._transcript, carry_out, lead_ms=lead_ms, moved=self._moved
        )
        self._cursors: dict[Log, Cursor] = {}
        self._folded: dict[Log, Address] = {}

    def start(self, tasks: asyncio.TaskGroup, follow: dict[Log, int], text_tail: Address = NOWHERE) -> None:
        """Follow each log from the start of a turn. `text_tail`: up to where `text` stands already."""
        self.started = True
        for log_, turn in follow.items():
            self._folded[log_] = Address(turn, -1)
        # The turns before `speech` begins end in `text`: first, or their places would come behind later ones.
        behind = min(text_tail, Address(follow[Log.SPEECH], 0))
        tasks.create_task(self._follow(Log.TEXT, follow[Log.TEXT]), name="follow-text")
        tasks.create_task(self._follow(Log.SPEECH, follow[Log.SPEECH], behind), name="follow-speech")
        tasks.create_task(self.player.run(), name="play")

    async def caught_up(self, with_: dict[Log, Address]) -> None:
        """Wait until what stood in the logs up to these addresses has been told or is in line."""
        while any(self._folded[log_] < address for log_, address in with_.items()):
            self._moved.clear()
            await self._moved.wait()

    def read(self, turn: int, log_: Log) -> int:
        """The last seq of the turn that was read in a log; -1 if none was."""
        last = self._folded.get(log_)
        return last.seq if last is not None and last.turn == turn else -1

    def has_ended(self, turn: int) -> bool:
        """Whether the turn's last message was sent."""
        return self._transcript.has_ended(turn)

    async def end(self, turn: int, closed: Closed) -> None:
        """Tell the client, unless its turn has ended, of a closing that no log has brought."""
        line = self._transcript.close(turn, closed)
        if line is not None:
            await self._tell_ending(line)

    def rest(self) -> None:
        """Look for lost pushes only while something is expected."""
        conversation = self._dialogue.conversation
        idle = conversation.state is State.LISTENING and (
            conversation.turn == 0 or self.has_ended(conversation.turn)
        )
        for cursor in self._cursors.values():
            if cursor.idle != idle:
                cursor.idle = idle
        self.player.look()

    async def _follow(self, log_: Log, turn: int, text: Address = NOWHERE) -> None:
        """Fold a log for ever, once `text` is folded up to some place."""
        await self.caught_up({Log.TEXT: text})
        key = log_key(self._dialogue.id, log_)
        while True:
            cursor = self._cursors[log_] = self._reader.follow(key, Address(turn, -1))
            try:
                await self._fold_all(log_, cursor)
            except StoryForked as error:
                log.warning("%s", error)
                turn = error.turn
                await self._forked(turn)
            except EntryGarbled as error:
                if error.turn is None or error.turn > self._dialogue.conversation.turn:
                    raise  # Behind it, no turn can be written any more.
                log.warning("%s", error)
                turn = error.turn
                await self._garbled(turn)
            finally:
                cursor.close()
            turn += 1
            self._folded[log_] = Address(turn, -1)
            self._moved.set()

    async def _fold_all(self, log_: Log, cursor: Cursor) -> None:
        async for entry in cursor:
            turn = entry.address.turn
            self._dialogue.notes(turn).moved_at = time.monotonic()
            if log_ is Log.SPEECH and isinstance(entry.payload, Closed):
                await self._after_those_before(turn)
            async with self._telling:
                # One entry after the other, of whichever log: a text may bring many frames along, and none of
                # those that come while they are told may overtake them.
                for line in self._transcript.fold(log_, entry):
                    await self._tell(line)
            self._folded[log_] = entry.address
            self._moved.set()
            if entry.final:
                self.rest()
            if log_ is Log.SPEECH:
                if entry.final and turn > self._last_ended:
                    self._last_ended = turn
                    if not self._dialogue.notes(turn).batch:
                        self._turn_ended()
                await self._room(turn)

    async def _after_those_before(self, turn: int) -> None:
        """Wait until the turns before have had their last message, so that turns end in their order."""
        while (self._dialogue.conversation.awaited or turn) < turn or self.player.ending:
            self._moved.clear()
            await self._moved.wait()

    async def _room(self, turn: int) -> None:
        """Hold what is read but not sent within bounds."""
        while self.player.full or self._transcript.waiting(turn) > EARLY_FRAMES:
            self._moved.clear()
            await self._moved.wait()

    async def _forked(self, turn: int) -> None:
        effects = self._dialogue.conversation.broken(turn, "failed")
        if effects:  # Of a turn that was closed meanwhile, whoever closed it sees to it that this is told.
            self._carry_out(effects, FORKED)
            await self._fail(turn, FORKED)

    async def _garbled(self, turn: int) -> None:
        self._carry_out(self._dialogue.conversation.broken(turn, "failed"), GARBLED)
        # A turn that was closed already too: what tells of that may stand behind what cannot be read.
        await self._fail(turn, GARBLED)

    async def _fail(self, turn: int, error: ClientError) -> None:
        closed = Closed("failed", code=error.code, message=error.message, retryable=error.retryable)
        await self.end(turn, closed)

    async def _tell(self, line: Line) -> None:
        batch = self._dialogue.notes(line.turn).batch
        match line:
            case TokenLine() | SemanticLine() if batch:
                return
            case FrameLine() if batch:
                self._dialogue.notes(line.turn).stopwatch.made = time.monotonic()
                self.player.gather(line)
            case Complete() if batch:
                await self.player.put_whole(line)
                if line.held:
                    self._complete(line)
            case TokenLine(held=False):
                await self._tell_token(line)
            case SemanticLine(held=False):
                await self._tell_semantic(line)
            case FrameLine(held=True):
                self.player.held(line)
            case FrameLine():
                self._dialogue.notes(line.turn).stopwatch.made = time.monotonic()
                await self.player.put(line)
            case Complete(held=True):
                self._complete(line)
            case Complete():
                await self.player.put(line)
            case Interrupted():
                await self._tell_ending(line)
                self._carry_out(self._dialogue.conversation.broken(line.turn, line.reason), None)
            case Failed():
                await self._tell_ending(line)
                effects = self._dialogue.conversation.broken(line.turn, "failed")
                self._carry_out(effects, render.failure(line))
            case Broken():
                self._carry_out(self._dialogue.conversation.broken(line.turn, line.reason), None)

    def _complete(self, line: Complete) -> None:
        self._carry_out(self._dialogue.conversation.complete(line.turn), None)
        self.rest()

    async def _tell_token(self, line: TokenLine) -> None:
        if not await self._send_word(line.turn, render.token(line, time.time() * 1000)):
            return
        watch = self._dialogue.notes(line.turn).stopwatch
        if watch.first_token is None:
            watch.first_token = time.monotonic()
            with bind(turn=line.turn):
                log.debug("first token: %s", in_ms(watch.first_token_ms))

    async def _tell_semantic(self, line: SemanticLine) -> None:
        if not await self._send_word(line.turn, render.semantic(line)):
            return
        watch = self._dialogue.notes(line.turn).stopwatch
        if watch.first_word is None:
            watch.first_word = time.monotonic()
            with bind(turn=line.turn):
                log.debug("first word: %s", in_ms(watch.first_word_ms))

    async def _send_word(self, turn: int, message: messages.Message) -> bool:
        return await self._outlet.send(message, unless=lambda: self._transcript.has_ended(turn))

    async def _tell_ending(self, line: Interrupted | Failed) -> None:
        self.player.flush(line.turn)
        if line.held:
            return
        await self._outlet.send(render.closing(line, self._dialogue.notes(line.turn)))
        with bind(turn=line.turn):
            log.info("ended: %s", line.reason if isinstance(line, Interrupted) else line.code)
