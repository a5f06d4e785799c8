"""The running batch: conversations join and leave a running decode at any step.

    open -> feed, feed … while the user speaks -> start -> a token each step -> Finished, Failed, or drop

Owns who holds a slot, whose prompt is taken in next, and who decodes. It has no thread, no queue and no text.
Each step is at most one slice of one prompt and one token for everybody who decodes, so a newcomer holds the
others up by a slice at a time. A row's failure is its own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Literal

from shared.errors import EngineError
from workers.llm.engines.voxtral.decoder import Decoder, Lane
from workers.llm.engines.voxtral.pieces import Piece
from workers.llm.engines.voxtral.rows import Event, Failed, Finished, Row, Sampled, Stage
from workers.llm.engines.voxtral.sampling import BROKEN, Sampling, draw

log = logging.getLogger(__name__)

NO_ROOM_S = 5.0
"""So long a row that has started waits for a slot."""

LEAST_NEW = 16
"""A prompt that leaves room for fewer tokens than this, and fewer than were asked for, is refused."""

SLICE_TOKENS = {"cuda": 512, "cpu": 64}
"""Places of a prompt that are taken in at once while others decode. On a GPU a window and what stands around:
down to about this many, launching the layers takes longer than computing them."""

ALONE_TOKENS = 1024
"""The same while nobody decodes; bounded, so that a command is seen to in between."""


class Batch:
    """All rows of one decoder. Every call comes from one thread."""

    def __init__(self, decoder: Decoder, clock: Callable[[], float] = time.monotonic) -> None:
        self._decoder = decoder
        self._cache = decoder.cache
        self._clock = clock
        self._slice_tokens = SLICE_TOKENS.get(decoder.device.type, SLICE_TOKENS["cpu"])
        # Each in the order of arrival.
        self._listening: dict[Row, None] = {}
        self._started: dict[Row, None] = {}
        self._decoding: dict[Row, None] = {}
        self._events: list[Event] = []

    @property
    def idle(self) -> bool:
        """Whether a step would do nothing."""
        return not (self._events or self._started or self._decoding or self._work_of_listeners())

    @property
    def spare(self) -> bool:
        """Whether a row that listens may start now though it is perhaps dropped: nobody waits for it.

        It has a slot, like all that listen, or finds one; and all that have started have theirs.
        """
        holders = sum(row.slot is not None for row in self._listening)
        finds_one = self._cache.free_slots > 0 or 0 < holders == len(self._listening)
        return finds_one and all(row.slot is not None for row in self._started)

    def open(self, sampling: Sampling, max_new: int, script: tuple[int, ...] | None = None) -> Row:
        """A new row, which holds no slot yet.

        `max_new` tokens at the most will be sampled. With a `script` the model does all its work, but the
        k-th token of the reply is `script[k]`, and the reply ends where the script does.
        """
        row = Row(sampling, max_new, script)
        self._listening[row] = None
        return row

    def feed(self, row: Row, piece: Piece) -> None:
        """Append to the prompt of a row that listens; it is taken in as soon as nothing is more urgent."""
        if row.stage is Stage.LISTENING:
            row.intake.add(piece)
            self._check_fit(row)

    def start(self, row: Row, position: int) -> None:
        """The prompt is whole: from now on the row owes tokens, from `position` of the reply on.

        `position` is 0, or the number of the reply's ids that the prompt ends in already. The prompt has to
        end in an id.
        """
        if row.stage is not Stage.LISTENING:
            return
        last = row.intake.last_id
        if last is None:
            return self._fail(row, EngineError("a prompt for Voxtral has to end in a token id"))
        if not self._check_fit(row):
            return
        row.max_new = min(row.max_new, self._decoder.context - row.intake.tokens)
        row.reply_position = position
        row.last_token = last
        row.place = row.intake.tokens - 1
        row.started_s = self._clock()
        row.stage = Stage.STARTED
        del self._listening[row]
        self._started[row] = None
        if row.max_new <= 0:
            self._finish(row, "length")

    def drop(self, row: Row) -> None:
        """The row leaves at once, whatever it is doing; nothing more is told of it. May be called again."""
        self._leave(row)
        self._events = [event for event in self._events if event.row is not row]

    def step(self) -> list[Event]:
        """One slice of one prompt, and one token for every row that decodes; what there is to tell of it."""
        self._hand_out_slots()
        row = self._next_to_take_in()
        if row is not None:
            self._take_in(row)
        if self._decoding:
            self._decode()
        events, self._events = self._events, []
        return events

    # -- Slots.

    def _hand_out_slots(self) -> None:
        waiting = [row for row in self._started if row.slot is None]
        for row in waiting:
            row.slot = self._cache.take()
            if row.slot is None and self._evict():
                row.slot = self._cache.take()
            if row.slot is None and self._clock() - row.started_s > NO_ROOM_S:
                held = f"all {self._cache.slots} slots are held"
                self._fail(row, EngineError(f"no room in the cache of Voxtral: {held}", retryable=True))
        for row in self._listening if self._cache.free_slots else ():
            if row.slot is None and row.intake.tokens:
                row.slot = self._cache.take()

    def _evict(self) -> bool:
        """Take the slot of a row that still listens: of the one that loses the least by it."""
        holders = [row for row in self._listening if row.slot is not None]
        if not holders:
            return False
        row = min(holders, key=lambda row: row.intake.taken)
        self._release(row)
        row.intake.restart()
        return True

    def _release(self, row: Row) -> None:
        if row.slot is not None:
            self._cache.free(row.slot, finite=row.finite or not row.intake.taken)
            row.slot = None

    # -- Prompts.

    def _check_fit(self, row: Row) -> bool:
        """Fail a row whose prompt leaves no room for an answer worth the name."""
        context, tokens = self._decoder.context, row.intake.tokens
        if tokens + min(row.max_new, LEAST_NEW) <= context:
            return True
        wanted = f"{tokens} tokens and the answer do not fit VOXTRAL_CONTEXT={context}"
        self._fail(row, EngineError(f"the prompt is too long for Voxtral: {wanted}"))
        return False

    def _work_of_listeners(self) -> bool:
        """Whether some row that listens has something to take in, and a slot for it or the hope of one."""
        room = self._cache.free_slots > 0
        return any(
            row.intake.taken < row.intake.tokens and (room or row.slot is not None) for row in self._listening
        )

    def _next_to_take_in(self) -> Row | None:
        """Whoever has started comes first, by the time of the start; then who still listens."""
        for row in self._started:
            if row.slot is not None:
                return row
        for row in self._listening:
            if row.slot is not None and row.intake.taken < row.intake.tokens:
                return row
        return None

    def _take_in(self, row: Row) -> None:
        """One slice. The last id of a whole prompt is left to the first step of decoding."""
        intake = row.intake
        assert row.slot is not None
        most = self._slice_tokens if self._decoding else ALONE_TOKENS
        if row.stage is Stage.STARTED:
            most = min(most, row.place - intake.taken)
        if most > 0:
            try:
                intake.advance(self._decoder, row.slot, most)
            except Exception as error:  # whatever it is, it is this row's alone
                log.exception("a prompt could not be taken in")
                device_failed = isinstance(error, RuntimeError)  # its memory, say: elsewhere it may work
                return self._fail(row, _error("Voxtral cannot take in the prompt", error, device_failed))
        if row.stage is Stage.STARTED and intake.taken >= row.place:
            row.stage = Stage.DECODING
            del self._started[row]
            self._decoding[row] = None

    # -- Decoding.

    def _decode(self) -> None:
        rows = list(self._decoding)
        try:
            tokens = self._decoder.decode([_lane(row) for row in rows])
        except Exception as error:  # the rows of this step are lost; those that come after need not be
            log.exception("a step of decoding failed")
            for row in rows:
                self._fail(row, _error("Voxtral failed in mid-answer", error, True))
            return
        for row, token in zip(rows, tokens, strict=True):
            if token == BROKEN:
                row.finite = False
                self._fail(row, EngineError("Voxtral computed numbers that are not finite"))
            else:
                self._follow(row, token)

    def _follow(self, row: Row, token: int) -> None:
        """Let the row go on with what was sampled, or what stands in the script instead."""
        row.finite = True
        if row.script is None:
            if token in self._decoder.eos:
                return self._finish(row, "stop")
        elif row.reply_position < len(row.script):
            token = row.script[row.reply_position]
        else:
            return self._finish(row, "stop")
        self._events.append(Sampled(row, token))
        row.last_token = token
        row.place += 1
        row.reply_position += 1
        row.max_new -= 1
        if row.max_new <= 0:
            self._finish(row, "length")

    # -- Leaving.

    def _finish(self, row: Row, reason: Literal["stop", "length"]) -> None:
        self._leave(row)
        self._events.append(Finished(row, reason))

    def _fail(self, row: Row, error: EngineError) -> None:
        row.error = error
        self._leave(row)
        self._events.append(Failed(row, error))

    def _leave(self, row: Row) -> None:
        for rows in (self._listening, self._started, self._decoding):
            rows.pop(row, None)
        self._release(row)
        row.intake.clear()
        row.stage = Stage.GONE


def _lane(row: Row) -> Lane:
    sampling = row.sampling
    assert row.slot is not None
    number = draw(sampling.seed, row.reply_position) if sampling.temperature > 0 else 0.0
    return Lane(row.slot, row.last_token, row.place, sampling.temperature, sampling.top_p, number)


def _error(what: str, cause: Exception, retryable: bool) -> EngineError:
    """In one line, however many the cause has."""
    reason = next(iter(str(cause).splitlines()), "") or type(cause).__name__
    return EngineError(f"{what}: {reason}", retryable=retryable)
