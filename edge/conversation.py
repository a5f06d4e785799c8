"""Whose turn it is: the state machine of one conversation. Events in, effects out.

Owns the numbering of turns, their order, barge-in and the queue of utterances that wait for an answer. Knows
no socket, no log, no clock: a session tells it what happened and carries out what it answers, in order.

    LISTENING ─ sound ─> HEARING ─ end ─> THINKING ─ first frame ─> SPEAKING ─ heard out ─> LISTENING

A turn is offered to the workers only when the one before it has had its last message and is final in the
logs, so at most one answer is made or played at any time: the head of the line.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from shared.errors import ClientError

MAX_WAITING = 4
"""How many utterances may wait for an answer with `interrupt: false`."""


class State(StrEnum):
    """What a client sees of the conversation in `status`."""

    LISTENING = "listening"
    HEARING = "hearing"
    THINKING = "thinking"
    SPEAKING = "speaking"


@dataclass(frozen=True, slots=True)
class Offer:
    """Offer the turn to the workers: those before it are final, or closed by an effect before this one."""

    turn: int


@dataclass(frozen=True, slots=True)
class Close:
    """Let no more frames of the turn out and close it in `text` and `speech`, with what was heard of it.

    `whole`: all of it counts as heard, and what has left may play on. `utterance_too`: its utterance is still
    open and is closed as well; what the client sends then begins a new one.
    """

    turn: int
    reason: str
    whole: bool = False
    utterance_too: bool = False


Effect = Offer | Close


@dataclass(slots=True)
class _Turn:
    number: int
    open: bool
    replayed: bool = False
    spoke: bool = False
    ended: bool = False


class Conversation:
    """The living turns of one conversation, oldest first: from the first of its sound until it is settled."""

    def __init__(self, last_turn: int = 0) -> None:
        self.turn = last_turn
        """The newest turn; 0 before the first."""
        self._line: deque[_Turn] = deque()

    @classmethod
    def restored(
        cls, living: Iterable[tuple[int, bool]], last_turn: int, replayed: Iterable[int] = ()
    ) -> Conversation:
        """As it stands in the logs: `living` are the unsettled turns in order, each with `utterance open`.

        `replayed`: those before them that are settled and only told again: they are offered to nobody.
        """
        conversation = cls(last_turn)
        conversation._line.extend(_Turn(number, open=False, replayed=True) for number in replayed)
        conversation._line.extend(_Turn(number, open_) for number, open_ in living)
        return conversation

    @property
    def state(self) -> State:
        """Where the conversation is, in one word; an open utterance counts before an answer that plays."""
        if not self._line:
            return State.LISTENING
        if self._line[-1].open:
            return State.HEARING
        return State.SPEAKING if self._line[0].spoke else State.THINKING

    @property
    def hearing(self) -> bool:
        """Whether an utterance is open; it is the newest turn's."""
        return bool(self._line) and self._line[-1].open

    @property
    def awaited(self) -> int | None:
        """The turn whose answer is being made and has not had its last message."""
        head = self._answering()
        return head.number if head and not head.ended else None

    @property
    def answered(self) -> int | None:
        """The turn that has had its last message and may still be playing at the listener's."""
        head = self._answering()
        return head.number if head and head.ended else None

    @property
    def oldest(self) -> int | None:
        """The first turn that is not settled."""
        return self._line[0].number if self._line else None

    def lives(self, turn: int) -> bool:
        """Whether the turn is neither cut off nor settled."""
        return self._find(turn) is not None

    def check_room(self, *, interrupt: bool) -> None:
        """Raises what `begin` would raise, and changes nothing."""
        if self.hearing:
            raise ClientError("wrong_state", f"the utterance of turn {self.turn} is still open")
        if not interrupt and len(self._line) > MAX_WAITING:
            raise ClientError("busy", f"{MAX_WAITING} utterances are waiting for an answer", retryable=True)

    def begin(self, *, typed: bool, interrupt: bool) -> list[Effect]:
        """An utterance begins: the turn `self.turn` from now on. `typed`: it is whole already.

        Raises `ClientError`: `wrong_state` while another utterance is open, `busy` when the line is full.
        """
        self.check_room(interrupt=interrupt)
        effects: list[Effect] = []
        if interrupt:
            effects += self._clear("barge_in")
        elif self._line and self._line[0].ended:
            # Nothing can be held back any more of an answer that is out: it counts as heard.
            effects += self._settle(self._line[0], whole=True)
        self.turn += 1
        self._line.append(_Turn(self.turn, open=not typed))
        if len(self._line) == 1:
            effects.append(Offer(self.turn))
        return effects

    def withdraw(self) -> None:
        """The turn that has just begun could not be written: it has never been."""
        self._line.pop()
        self.turn -= 1

    def end_utterance(self) -> None:
        """The open utterance is whole. Raises `ClientError` `wrong_state` if there is none."""
        if not self.hearing:
            raise ClientError("wrong_state", "there is no open utterance to end")
        self._line[-1].open = False

    def spoke(self, turn: int) -> None:
        """A frame of the turn was sent."""
        found = self._find(turn)
        if found:
            found.spoke = True

    def interrupt(self) -> list[Effect]:
        """Barge-in by hand. Raises `ClientError` `wrong_state` if no answer is being made or played."""
        head = self._answering()
        if head is None:
            raise ClientError("wrong_state", "no answer is being made or played")
        return [*self._cut(head, "user_interrupt"), *self._next()]

    def complete(self, turn: int) -> list[Effect]:
        """The whole answer was sent and its last message with it; it may still be playing."""
        head = self._find(turn)
        if head is None:
            return []
        head.ended = True
        if len(self._line) == 1:
            return []
        return [*self._settle(head, whole=True), *self._next()]

    def heard_out(self, turn: int) -> list[Effect]:
        """The listener has heard the answer to its end."""
        return [*self._settle(self._line[0], whole=True), *self._next()] if self.answered == turn else []

    def broken(self, turn: int, reason: str, *, unwritten: bool = False) -> list[Effect]:
        """The turn was closed in a log by someone else, or must end because something failed.

        Closing it once more everywhere changes nothing where that was done, and frees the logs for the next
        turn where it was not. `unwritten`: its utterance may not stand in the log to its end.
        """
        found = self._find(turn)
        if found is None:
            return []
        was_head = found is self._line[0]
        self._line.remove(found)
        effects: list[Effect] = [Close(turn, reason, utterance_too=found.open or unwritten)]
        return effects + self._next() if was_head else effects

    def leave(self) -> list[Effect]:
        """The conversation ends now."""
        effects: list[Effect] = []
        while self._line:
            effects += self._cut(self._line[0], "bye")
        return effects

    def resumed(self, *, interrupt: bool) -> list[Effect]:
        """What a session that took over does first: finish what its predecessor may have left half done.

        What is replayed was answered before another turn began, and is heard before it.
        """
        effects: list[Effect] = []
        living = [turn for turn in self._line if not turn.replayed]
        for turn in living[:-1] if interrupt else ():
            effects += self._settle(turn, whole=True) if turn.ended else self._cut(turn, "barge_in")
        return effects + self._next()

    def _answering(self) -> _Turn | None:
        return self._line[0] if self._line and not self._line[0].open else None

    def _find(self, turn: int) -> _Turn | None:
        return next((each for each in self._line if each.number == turn), None)

    def _next(self) -> list[Effect]:
        """Offer the head of the line. Offering twice is offering once, so nobody keeps book of it."""
        head = self._line[0] if self._line else None
        return [Offer(head.number)] if head and not (head.ended or head.replayed) else []

    def _clear(self, reason: str) -> list[Effect]:
        effects: list[Effect] = []
        while self._line:
            head = self._line[0]
            effects += self._settle(head) if head.ended else self._cut(head, reason)
        return effects

    def _cut(self, turn: _Turn, reason: str) -> list[Effect]:
        self._line.remove(turn)
        return [Close(turn.number, reason, utterance_too=turn.open)]

    def _settle(self, turn: _Turn, *, whole: bool = False) -> list[Effect]:
        self._line.remove(turn)
        return [Close(turn.number, "heard", whole=whole)]
