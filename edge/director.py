"""Carries out what the state machine decides: offers, jobs and closings in Redis, the deadline of an answer.

Owns the order of a conversation's side effects. Decides nothing about turns itself.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from edge.clerk import Clerk, Job
from edge.conversation import Close, Effect, Offer
from edge.dialogue import Dialogue, Notes
from edge.downlink import Downlink
from edge.keeper import Keeping
from edge.room import overloaded
from edge.services import Services
from shared.errors import ClientError, StoreError, StoreFull
from shared.hold import Hold, Standing
from shared.keys import Role, log_key, session_key
from shared.log import close_turn, trim_log
from shared.wire import Address, Closed, Log
from shared.work import offer

log = logging.getLogger(__name__)

ANSWER = (Log.SPEECH, Log.TEXT)

DEADLINE_S = 30.0
"""How long nothing may come of a turn before it is given up."""

BATCH_DEADLINE_S = 120.0
"""The same for a batch turn: it may wait behind others, or for the engines to be loaded."""

SILENT_S = 3.0
"""How long nothing may come of a turn before it is made sure that Redis still knows of it."""

KEPT_CLOSINGS = 2
"""How many turns are closed again, in case that Redis forgot it. Of those before, later ones say enough."""

TELL_WITHIN_S = 3.0
"""How long the log may take to bring a closing back, before the client is told of it without."""

RETRY_S = (0.05, 1.0)

LATE = ClientError("deadline", "no answer came in time; ask again", retryable=True)


class Director:
    """The side effects of one conversation, in order."""

    def __init__(self, services: Services, keeping: Keeping, dialogue: Dialogue, clerk: Clerk) -> None:
        self.downlink: Downlink
        """Set by the session that makes both."""
        self.established = False
        self._services = services
        self._keeping = keeping
        self._dialogue = dialogue
        self._clerk = clerk
        self._closing_audio: asyncio.Future[None] | None = None
        self._closings: deque[tuple[int, Job]] = deque(maxlen=KEPT_CLOSINGS)
        self._healed_at = 0.0
        self._behind: deque[tuple[int, Closed]] = deque()
        """Turns that ended while they waited behind an answer: to close them now would end that too."""
        self._untold: dict[int, tuple[float, Closed]] = {}
        """Closed turns, and when their client is told so if it has not been by then."""

    @property
    def _hold(self) -> Hold:
        return self._keeping.hold

    def establish(self) -> None:
        """Write, or write again, what another session would need to take the conversation over."""
        if not self.established:
            self.established = True
            self._services.keeper.add(self._keeping)
        self._clerk.add("meta", self._write_meta)

    def carry_out(self, effects: Sequence[Effect], failure: ClientError | None = None) -> None:
        """Carry effects out, in order. What keeps frames in takes effect before this returns."""
        for effect in effects:
            match effect:
                case Offer(turn=turn):
                    self._close_what_waited()
                    # It may have waited for long behind another answer; its own time begins now.
                    self._dialogue.notes(turn).moved_at = time.monotonic()
                    self._add_offer(turn)
                case Close():
                    self._close(effect, failure)
        if effects:
            self._close_what_waited()
            self.downlink.rest()

    def utterance_ended(self, turn: int) -> None:
        """The turn's utterance is whole: a batch turn may be enqueued, as soon as it is at the head."""
        if self._dialogue.notes(turn).batch and self._dialogue.conversation.awaited == turn:
            self._add_offer(turn)

    async def audio_closed(self) -> None:
        """Wait until no closing of an utterance stands between the log and the next one."""
        if self._closing_audio is not None:
            await self._closing_audio
            self._closing_audio = None

    def fail(self, turn: int, error: ClientError, *, unwritten: bool = False) -> None:
        """End a turn by an error: closed in the logs, and told to the client even if Redis is gone.

        `unwritten`: its utterance may not stand in the log to its end.
        """
        effects = self._dialogue.conversation.broken(turn, "failed", unwritten=unwritten)
        self.carry_out(effects, error)

    @property
    def restless(self) -> bool:
        """Whether there is anything for `tick` to look at."""
        return bool(self._untold) or self._dialogue.conversation.awaited is not None

    async def tick(self, confirm: Job) -> None:
        """Look, about each second while `restless`, at what takes too long.

        `confirm` makes sure that the utterance stands in the log, here and in `heal`.
        """
        now = time.monotonic()
        awaited = self._dialogue.conversation.awaited
        if awaited is not None and self.downlink.player.waits(awaited):
            self._dialogue.notes(awaited).moved_at = now
        silent_s = now - self._dialogue.notes(awaited).moved_at if awaited is not None else 0.0
        if awaited is not None and silent_s > self._patience_s(awaited):
            self.fail(awaited, LATE)
        elif awaited is not None and silent_s > SILENT_S and now - self._healed_at > SILENT_S:
            self.heal(confirm)
        for turn, (due, closed) in list(self._untold.items()):
            if self.downlink.has_ended(turn):
                del self._untold[turn]
            elif now >= due:
                del self._untold[turn]
                await self.downlink.end(turn, closed)

    def heal(self, confirm: Job) -> None:
        """Should Redis have lost its last seconds: what ended before, the utterance, and its offer again."""
        head = self._dialogue.conversation.oldest
        if head is None or head == self._dialogue.conversation.answered:
            return
        self._healed_at = time.monotonic()
        for turn, writing in self._closings:
            self._clerk.add(f"closing of turn {turn}, again", writing)
        self._clerk.add("the utterance", confirm)
        self._add_offer(head)

    def _patience_s(self, turn: int) -> float:
        return BATCH_DEADLINE_S if self._dialogue.notes(turn).batch else DEADLINE_S

    def _add_offer(self, turn: int) -> None:
        notes = self._dialogue.notes(turn)
        if notes.batch and self._dialogue.conversation.awaited != turn:
            return  # A job would only wait for the end of its utterance, and keep others waiting.
        self._clerk.add(f"offer of turn {turn}", partial(self._offer, turn, notes))

    def _close(self, effect: Close, failure: ClientError | None) -> None:
        heard = self.downlink.player.cut(effect.turn, whole=effect.whole)
        failed = failure if effect.reason == "failed" else None
        closed = Closed(
            effect.reason,
            heard_ms=heard.ms,
            heard_text=heard.text,
            cleared_frames=None if effect.reason == "heard" else heard.cleared_frames,
            code=failed.code if failed else None,
            message=failed.message if failed else None,
            retryable=failed.retryable if failed else None,
        )
        # Whoever waits to offer this turn must not: nothing of it will be answered.
        self._dialogue.notes(effect.turn).opened.set()
        oldest = self._dialogue.conversation.oldest
        waits = oldest is not None and oldest < effect.turn
        if waits:
            self._behind.append((effect.turn, closed))
        logs = (*(() if waits else ANSWER), *((Log.AUDIO,) if effect.utterance_too else ()))
        done = self._add_closing(effect.turn, closed, logs)
        if effect.utterance_too:
            self._closing_audio = done
        if effect.reason == "failed" or waits:
            # Told even if Redis is gone.
            self._expect(effect.turn, closed, TELL_WITHIN_S if self._services.room.reachable else 0.0)
        elif effect.reason != "heard":
            done.add_done_callback(lambda _: self._expect(effect.turn, closed, TELL_WITHIN_S))

    def _close_what_waited(self) -> None:
        oldest = self._dialogue.conversation.oldest
        while self._behind and (oldest is None or oldest > self._behind[0][0]):
            self._add_closing(*self._behind.popleft(), ANSWER)

    def _add_closing(self, turn: int, closed: Closed, logs: Sequence[Log]) -> asyncio.Future[None]:
        # The next turn could not begin in logs in which this one is open.
        seen = {each: self.downlink.read(turn, each) for each in logs}
        writing = partial(self._write_closing, turn, closed, seen)
        if logs:
            self._closings.append((turn, writing))
        return self._clerk.add(f"closing of turn {turn}", writing, insist=True)

    def _expect(self, turn: int, closed: Closed, within_s: float) -> None:
        """Let the logs bring the closing back; they cannot if Redis lost what came before it there."""
        if not self.downlink.has_ended(turn):
            self._untold[turn] = (time.monotonic() + within_s, closed)

    async def _write_meta(self) -> None:
        settings, turn = self._dialogue.configuration.dump(), self._dialogue.conversation.turn
        if await self._hold.begin(self._dialogue.token, settings, turn) is Standing.LOST:
            self._keeping.lost()

    async def _write_closing(self, turn: int, closed: Closed, seen: Mapping[Log, int]) -> None:
        """Close the turn in `speech`, then elsewhere, so that its closing in `text` can say where that is."""
        others = [each for each in seen if each is not Log.SPEECH]
        if Log.SPEECH in seen:
            (place,) = await self.write_closed(turn, closed, (Log.SPEECH,), seen)
            if place is not None:
                closed = replace(closed, speech_seq=place.seq)
        if others:
            await self.write_closed(turn, closed, others, seen)

    async def write_closed(
        self, turn: int, closed: Closed, logs: Sequence[Log], seen: Mapping[Log, int] | None = None
    ) -> list[Address | None]:
        """Close the turn in some of its logs; where that stands in each, as `close_turn` says it.

        `seen`: the last seq of the turn that was read in each. Raises `TurnTaken` and `StoreError`.
        """
        return await close_turn(
            self._services.store,
            [log_key(self._dialogue.id, each) for each in logs],
            turn,
            self._hold.tag,
            closed,
            ttl_s=self._services.keeper.lease.keys_s,
            session_key=session_key(self._dialogue.id),
            seen=[seen[each] for each in logs] if seen else (),
        )

    async def _offer(self, turn: int, notes: Notes) -> None:
        conversation = self._dialogue.conversation
        delay_s = RETRY_S[0]
        while conversation.lives(turn):
            try:
                # Trimmed before it is offered: whoever takes the turn up, and after its death another, must
                # read the same history. Its utterance is on its way to the log meanwhile.
                await self._trim(turn)
                await notes.opened.wait()
                if conversation.lives(turn):
                    await self._hand_over(turn, notes)
                    notes.offered = True
                return
            except StoreFull:
                self._services.room.refused_write()
                # What was offered before most likely stands there still; if not, it is offered again later.
                if not notes.offered:
                    self.fail(turn, overloaded("there is no room for another turn"))
                return
            except StoreError as error:
                log.debug("the offer of turn %d waits: %s", turn, error)
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
            delay_s = min(delay_s * 2, RETRY_S[1])

    async def _hand_over(self, turn: int, notes: Notes) -> None:
        if notes.batch:
            await asyncio.to_thread(self._services.batch.enqueue, self._dialogue.id, turn)
        else:
            await offer(self._services.store, Role, self._dialogue.id, turn)

    async def _trim(self, turn: int) -> None:
        """Drop turns that are not needed any more, now that this one begins. Raises as `write_closed`."""
        audio_s = self._services.settings.history_audio_s
        first_turns = self._dialogue.retention.first_turns(turn, audio_s)
        session = session_key(self._dialogue.id)
        await asyncio.gather(
            *(
                trim_log(
                    self._services.store,
                    log_key(self._dialogue.id, log_),
                    first,
                    self._hold.tag,
                    session_key=session,
                )
                for log_, first in first_turns.items()
                if first > 1
            )
        )
