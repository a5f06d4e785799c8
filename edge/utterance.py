"""The utterance of the newest turn, as it is written into `audio`.

Keeps what it wrote until it is answered, or until the next but one begins, because Redis may forget its last
seconds. Turns every way in which a log refuses into what the conversation makes of it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from edge.dialogue import Dialogue
from edge.director import LATE, Director
from edge.keeper import Keeping
from edge.room import overloaded
from edge.services import Services
from shared.audio import SAMPLE_BYTES
from shared.errors import (
    ClientError,
    EntryGarbled,
    LogError,
    StoreError,
    StoreFull,
    TurnBusy,
    TurnClosed,
    TurnTaken,
)
from shared.keys import MAX_TURN_BYTES, log_key, session_key
from shared.log import LogWriter, tail
from shared.wire import Chunk, Closed, Log, Open, Pause, Payload

log = logging.getLogger(__name__)

SPOILT = ClientError("engine_failed", "somebody else wrote into the input; ask again", retryable=True)


@dataclass(frozen=True, slots=True)
class Found:
    """An open utterance in the log: `samples` of it stand there, and last, if it is `paused`, a pause.

    `by_voice`: voice activity finds its end.
    """

    samples: int
    paused: bool
    by_voice: bool


class Utterance:
    """Writes one utterance after the other."""

    def __init__(self, services: Services, keeping: Keeping, dialogue: Dialogue, director: Director) -> None:
        self._services = services
        self._keeping = keeping
        self._dialogue = dialogue
        self._director = director
        self._writer: LogWriter | None = None
        self._earlier: list[LogWriter] = []
        """Of the turns before, oldest first."""

    def begin(self) -> None:
        """The newest turn's utterance begins; nothing of it is written yet."""
        conversation = self._dialogue.conversation
        self._earlier = [
            writer
            for writer in self._writers
            if conversation.lives(writer.turn) or writer.turn == conversation.turn - 1
        ]
        self._writer = self._new_writer()

    async def resume(self) -> Found:
        """Go on with the newest turn's utterance where the log has it. Raises `LogError` and `StoreError`."""
        self._writer = self._new_writer()
        await self._writer.take("resume")
        written = [entry.payload for entry in self._writer.entries]
        for payload in written:
            self._dialogue.retention.note(self._writer.turn, payload)
        audio = [payload for payload in written if isinstance(payload, Chunk | Pause)]
        samples = sum(len(chunk.pcm) // SAMPLE_BYTES for chunk in audio if isinstance(chunk, Chunk))
        return Found(
            samples,
            paused=bool(audio) and isinstance(audio[-1], Pause),
            by_voice=any(isinstance(payload, Open) and payload.by_voice for payload in written),
        )

    async def append(self, payloads: Sequence[Payload]) -> bool:
        """Write what comes next; false if the turn has ended by that, of which the client is told.

        Raises `ClientError` `overloaded` when the turn could not even begin; then it has never been.
        """
        writer, turn = self._writer, self._dialogue.conversation.turn
        if writer is None or not payloads:
            return True
        begins = not writer.entries
        try:
            await self._write(writer, payloads, begins)
        except TurnTaken:
            if await self._is_lost():
                self._keeping.lost()
            else:
                self._director.fail(turn, SPOILT, unwritten=True)
            return False
        except StoreFull:
            self._services.room.refused_write()
            if begins:
                self._withdraw(turn)
                raise overloaded("there is no room for another turn") from None
            self._director.fail(turn, overloaded("there is no room for more input"), unwritten=True)
            return False
        except StoreError:
            self._director.fail(turn, LATE, unwritten=True)
            return False
        except LogError as error:
            # Somebody closed the turn while the user spoke: the client hears of it from the other logs.
            log.info("the utterance of turn %d cannot go on: %s", turn, error)
            effects = self._dialogue.conversation.broken(turn, "abandoned", unwritten=True)
            self._director.carry_out(effects)
            return False
        for payload in payloads:
            self._dialogue.retention.note(turn, payload)
        self._dialogue.notes(turn).opened.set()
        return True

    async def confirm(self) -> None:
        """Make sure that what was said stands in the log, should Redis have forgotten it."""
        for writer in self._writers:
            try:
                await writer.confirm()
            except (LogError, StoreError) as error:
                log.debug("the utterance of turn %d cannot be confirmed: %s", writer.turn, error)

    @property
    def _writers(self) -> list[LogWriter]:
        """All that have written anything, oldest first."""
        writers = [*self._earlier, self._writer]
        return [writer for writer in writers if writer is not None and writer.entries]

    async def _write(self, writer: LogWriter, payloads: Sequence[Payload], begins: bool) -> None:
        if begins:
            await self._director.audio_closed()
        with suppress(TurnBusy):
            await writer.append(*payloads)
            return
        # The utterance before is open: Redis forgot its end, and whatever stood there of this one.
        with suppress(TurnBusy):
            await self._write_again()
            return
        # Or it was left open by a session that died.
        await self._director.write_closed(writer.turn - 1, Closed("superseded"), (Log.AUDIO,))
        await writer.confirm()

    async def _write_again(self) -> None:
        """What Redis has forgotten of what was said, in order. Raises as `append` does."""
        for earlier in self._earlier:
            try:
                with suppress(TurnBusy, TurnClosed):
                    await earlier.confirm()
            except TurnTaken:
                if await self._is_lost():
                    raise
        if self._writer is not None:
            await self._writer.confirm()

    async def _is_lost(self) -> bool:
        """Whether it is another session that has written into the log."""
        try:
            with suppress(StoreError):  # The keeper finds it out as well.
                await tail(self._services.store, log_key(self._dialogue.id, Log.AUDIO))
        except EntryGarbled:
            return False
        return True

    def _withdraw(self, turn: int) -> None:
        if self._dialogue.conversation.lives(turn):
            self._dialogue.conversation.withdraw()
        self._dialogue.notes(turn).opened.set()
        self._dialogue.forget(turn)
        self._writer = None

    def _new_writer(self) -> LogWriter:
        return LogWriter(
            self._services.store,
            log_key(self._dialogue.id, Log.AUDIO),
            self._dialogue.conversation.turn,
            self._keeping.hold.tag,
            max_turn_bytes=MAX_TURN_BYTES[Log.AUDIO],
            ttl_s=self._services.keeper.lease.keys_s,
            session_key=session_key(self._dialogue.id),
            busy_s=0.0,  # nobody else would end the utterance before
        )
