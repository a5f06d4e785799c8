"""When each frame of speech leaves, and how much of it the listener has heard by now.

    push ─> waiting, by address ─ due ─> left, at most `lead_ms` ahead of real time ─ the clock ─> heard
                  halt ─┤├─ go_on

Owns order, dedupe, pace, halts and flush. Pure: no socket, no log, no clock of its own; `now_ms` is any clock
that only goes forward, the same one throughout. All turns share one queue and one clock, so no two of them
are heard at once, except for what leaves in one piece: when that is played is the client's own affair. How
much may wait is for the caller to bound, by `backlog_ms`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from shared.wire import Address

T = TypeVar("T")

KEPT_TURNS = 4
"""Of how many turns that have left it is remembered how far they were heard."""


class _Item(NamedTuple, Generic[T]):
    address: Address
    payload: T
    duration_ms: float
    at_once: bool


@dataclass(slots=True)
class _Track:
    """What left of one turn: `settled_ms` of it was heard before `runs`, each from one time to another.

    `until_ms`: when the last of it is heard, or was. `lags_until_ms`: until when it may sound at a listener
    who is behind, though it counts as heard.
    """

    left_ms: float = 0.0
    settled_ms: float = 0.0
    until_ms: float = float("-inf")
    lags_until_ms: float = float("-inf")
    runs: list[tuple[float, float]] = field(default_factory=list)

    def extend(self, start_ms: float, duration_ms: float) -> None:
        """More left, to be heard from `start_ms` on, or once all before it was heard."""
        self.left_ms += duration_ms
        if not self.runs or start_ms > self.until_ms:
            self.runs.append((start_ms, start_ms + duration_ms))
        else:
            begin_ms, end_ms = self.runs[-1]
            self.runs[-1] = (begin_ms, end_ms + duration_ms)
        self.until_ms = self.runs[-1][1]

    @property
    def sounds_until_ms(self) -> float:
        return max(self.until_ms, self.lags_until_ms)

    def heard_ms(self, now_ms: float) -> float:
        if now_ms >= self.until_ms:
            return self.left_ms  # and not a sum that may miss it by a rounding
        played = sum(min(now_ms, end) - start for start, end in self.runs if start < now_ms)
        return min(self.settled_ms + played, self.left_ms)

    def correct(self, heard_ms: float, now_ms: float) -> None:
        """This much was heard by now; the rest of what left plays from now on."""
        sounds_until_ms = self.sounds_until_ms
        self.lags_until_ms = float("-inf")
        self.settled_ms = min(heard_ms, self.left_ms)
        rest_ms = self.left_ms - self.settled_ms
        self.runs = [(now_ms, now_ms + rest_ms)] if rest_ms > 0 else []
        self.until_ms = now_ms + rest_ms if rest_ms > 0 else min(sounds_until_ms, now_ms)

    def stop(self, now_ms: float) -> None:
        """Nothing more of it will be heard."""
        self.left_ms = self.settled_ms = self.heard_ms(now_ms)
        self.runs = []
        self.until_ms = min(self.sounds_until_ms, now_ms)
        self.lags_until_ms = float("-inf")


class Playout(Generic[T]):
    """The way out of a conversation's speech. An item of no duration leaves in its place and is no frame.

    `paced`: whether items wait for their time; without it they leave at once, and the clock runs all the
    same, as if they were played in real time. It may be changed between turns.
    """

    def __init__(self, lead_ms: float, *, paced: bool = True) -> None:
        self.paced = paced
        self._lead_ms = lead_ms
        self._halted = False
        self._waiting: deque[_Item[T]] = deque()
        self._backlog_ms = 0.0
        self._last = Address(0, 0)
        self._flushed_turn = 0
        self._plays_until_ms = float("-inf")
        self._tracks: dict[int, _Track] = {}

    @property
    def backlog_ms(self) -> float:
        """How much speech waits to leave."""
        return self._backlog_ms

    @property
    def frames(self) -> int:
        """How many frames wait to leave."""
        return sum(1 for item in self._waiting if item.duration_ms > 0)

    @property
    def sounds_until_ms(self) -> float:
        """When the listener hears, or heard, the last of what has left; minus infinity if nothing has."""
        return max((track.sounds_until_ms for track in self._tracks.values()), default=float("-inf"))

    def halt(self) -> None:
        """Let nothing leave from now on; all stays in line, and what has left plays on.

        Only `go_on` ends it, no flush does: whoever halts knows why, and when that is over.
        """
        self._halted = True

    def go_on(self) -> None:
        """Let leave again what waits: all that a halt held back, later by as much as the listener missed."""
        self._halted = False

    def push(self, address: Address, payload: T, duration_ms: float, *, at_once: bool = False) -> bool:
        """Put an item in line; false if it, or one after it, was there before, or its turn was flushed.

        `at_once`: it does not wait for its time, nor does what comes after it wait until it was heard.
        """
        if not self._advance(address):
            return False
        self._waiting.append(_Item(address, payload, duration_ms, at_once))
        self._backlog_ms += duration_ms
        return True

    def held(
        self,
        address: Address,
        duration_ms: float,
        now_ms: float,
        *,
        at_once: bool = False,
        settled: bool = False,
    ) -> bool:
        """The client holds this frame from before: it counts as heard, and is not sent. False as for `push`.

        Unless the turn is `settled`, it may yet sound: at most the lead of what left at its time, and all of
        what left at once. If the client plays it only now, its own `report` says so.
        """
        if not self._advance(address):
            return False
        track = self._tracks[address.turn]
        track.left_ms += duration_ms
        track.settled_ms += duration_ms
        if not settled:
            ahead_ms = self._lead_ms if self.paced and not at_once else float("inf")
            track.lags_until_ms = now_ms + min(track.left_ms, ahead_ms)
        return True

    def due(self, now_ms: float, at_most: int | None = None) -> list[T]:
        """The items that leave now, in order; from here on they count as sent, and no halt holds them."""
        leaving: list[T] = []
        while len(leaving) != at_most and self._next_ms() <= now_ms:
            item = self._waiting.popleft()
            self._backlog_ms = self._backlog_ms - item.duration_ms if self._waiting else 0.0
            leaving.append(item.payload)
            if item.duration_ms > 0:
                # After an underrun or a halt the listener hears silence: what comes late is played late.
                start_ms = max(self._plays_until_ms, now_ms)
                if not item.at_once:
                    self._plays_until_ms = start_ms + item.duration_ms
                self._tracks[item.address.turn].extend(start_ms, item.duration_ms)
        return leaving

    def next_due_ms(self, now_ms: float) -> float | None:
        """When the next item leaves, `now_ms` at the earliest; `None` if nothing waits, or all is halted."""
        next_ms = self._next_ms()
        return None if next_ms == float("inf") else max(now_ms, next_ms)

    def flush(self, turn: int, now_ms: float) -> int:
        """Cut off the answer of `turn`, and any older: the number of their frames that will not leave.

        Takes it that the client drops what it has not played. Items of these turns that come later are
        refused.
        """
        cleared = 0
        kept: deque[_Item[T]] = deque()
        for item in self._waiting:
            if item.address.turn > turn:
                kept.append(item)
            elif item.duration_ms > 0:
                cleared += 1
        self._waiting = kept
        self._backlog_ms = sum(item.duration_ms for item in kept)
        self._flushed_turn = max(self._flushed_turn, turn)
        later_plays = False
        for number, track in self._tracks.items():
            if number <= turn:
                track.stop(now_ms)
            else:
                later_plays = later_plays or bool(track.runs)
        if not later_plays:
            self._plays_until_ms = float("-inf")
        return cleared

    def report(self, turn: int, played_ms: float, now_ms: float) -> bool:
        """The client says how much of a turn it has played; false if nothing is known of that turn.

        Never more than has left is believed. What is heard is corrected by it, the pace is not: a client that
        waits for more before it plays would otherwise wait for ever.
        """
        track = self._tracks.get(turn)
        if track is None:
            return False
        if turn > self._flushed_turn:
            track.correct(played_ms, now_ms)
        return True

    def heard_ms(self, turn: int, now_ms: float) -> float:
        """How much of the turn's speech was heard by now."""
        track = self._tracks.get(turn)
        return track.heard_ms(now_ms) if track else 0.0

    def heard_out_ms(self, turn: int, now_ms: float) -> float | None:
        """When all of the turn will have been heard, from `now_ms` on; `None` while some of it waits."""
        if any(item.address.turn == turn for item in self._waiting):
            return None
        track = self._tracks.get(turn)
        return max(now_ms, track.until_ms) if track else now_ms

    def finished(self, turn: int, now_ms: float) -> bool:
        """Whether all of the turn that was pushed has left and was heard."""
        return self.heard_out_ms(turn, now_ms) == now_ms

    def _advance(self, address: Address) -> bool:
        if address <= self._last or address.turn <= self._flushed_turn:
            return False
        self._last = address
        if address.turn not in self._tracks:
            self._forget(address.turn - KEPT_TURNS)
            self._tracks[address.turn] = _Track()
        return True

    def _forget(self, turn: int) -> None:
        """Turns up to this one, but none of which something still waits."""
        if self._waiting:
            turn = min(turn, self._waiting[0].address.turn - 1)
        for old in [number for number in self._tracks if number <= turn]:
            del self._tracks[old]

    def _next_ms(self) -> float:
        """When the first in line may leave; infinite if nothing may.

        The listener must not hold more than the lead, nor ever wait for what is there.
        """
        if self._halted or not self._waiting:
            return float("inf")
        if not self.paced or self._waiting[0].at_once:
            return float("-inf")
        return self._plays_until_ms - max(0.0, self._lead_ms - self._waiting[0].duration_ms)
