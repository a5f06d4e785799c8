"""Utterances whose beginnings and ends the client says.

Between the last byte of an utterance and the append of its `end` lies nothing but decoding. Raises
`ClientError` for whatever a client is answered by `error`.
"""

from __future__ import annotations

import logging

from edge.configuration import Configuration
from edge.dialogue import Dialogue
from edge.intake import Intake, Slice
from edge.outlet import Outlet
from edge.protocols.messages import Message
from edge.protocols.native import AudioChunk
from edge.turns import Turns
from shared.errors import AudioError, ClientError
from shared.wire import Payload

log = logging.getLogger(__name__)


class Dictation:
    """One conversation's input while nobody listens for a voice in it."""

    def __init__(self, dialogue: Dialogue, turns: Turns, intake: Intake, outlet: Outlet) -> None:
        self._dialogue = dialogue
        self._turns = turns
        self._intake = intake
        self._outlet = outlet

    @property
    def settled(self) -> int:
        """Up to where the input needs not be sent again."""
        return self._intake.position

    def resume(self) -> None:
        """An utterance stands open at the end of the input, found in the log."""
        self._intake.start(self._dialogue.configuration)

    async def take(self, message: AudioChunk, read_at: float) -> None:
        """A slice of input, which begins an utterance where none is open."""
        tell: list[Message] = []
        payloads: list[Payload] = []
        slices: list[Slice] | None
        if self._dialogue.conversation.hearing:
            slices = self._decoded(message, begins=False)
        elif not message.audio:
            return self._turns.nothing_to_end()
        else:
            configuration = self._turns.for_utterance(message)
            slices = self._first(message, configuration)
            if slices is None:
                return await self._turns.acknowledge(self._intake.position)
            opening = self._turns.begin(configuration, chunk_id=message.chunk_id, batch=message.batch)
            payloads.append(opening)
            place = next((each.place for each in slices if each.pcm), self._intake.position)
            tell.append(self._turns.started(place, "client"))
        for each in slices:
            payloads += self._turns.measure.entries(each)
        if self._turns.measure.full:
            # What lies beyond the longest utterance is passed over, but it was input: places go on counting.
            self._rest()
            self._end(read_at, payloads, tell, "max_length")
        elif message.end_of_utterance is not False:
            self._end(read_at, payloads, tell, "client")
        await self._write(payloads, tell, read_at)

    async def end(self, read_at: float) -> None:
        """The client says that the utterance is whole."""
        if not self._dialogue.conversation.hearing:
            return self._turns.nothing_to_end()
        tell: list[Message] = []
        payloads: list[Payload] = [*self._turns.measure.entries(self._rest())]
        self._end(read_at, payloads, tell, "client")
        await self._write(payloads, tell, read_at)

    def _first(self, message: AudioChunk, configuration: Configuration) -> list[Slice] | None:
        """What an utterance begins with; `None` if nothing is in it that does not stand in the log."""
        before = self._intake.position
        self._turns.check_room(configuration, batch=message.batch)
        self._intake.start(configuration)
        slices = self._decoded(message, begins=True)
        if any(each.pcm for each in slices):
            return slices
        if message.offset_samples is not None and message.offset_samples < before:
            return None
        if message.end_of_utterance is not False:
            raise ClientError("bad_audio", "an utterance of no samples")
        return slices

    def _decoded(self, message: AudioChunk, *, begins: bool) -> list[Slice]:
        slices = []
        try:
            if message.audio:
                slices.append(self._intake.take(message.audio, message.offset_samples, may_jump=begins))
            if message.end_of_utterance is not False:
                slices.append(self._intake.finish())
        except AudioError as error:
            raise ClientError("bad_audio", str(error)) from None
        return slices

    def _rest(self) -> Slice:
        try:
            return self._intake.finish()
        except AudioError as error:
            # The utterance ends all the same: what was understood of it stands in the log.
            log.debug("at the end of the utterance: %s", error)
            return Slice(self._intake.position, b"")

    def _end(self, read_at: float, payloads: list[Payload], tell: list[Message], reason: str) -> None:
        tell.append(self._turns.stopped(self._intake.position, reason))
        payloads.append(self._turns.end(read_at, reason, self._intake.position))

    async def _write(self, payloads: list[Payload], tell: list[Message], read_at: float) -> None:
        ends = not self._dialogue.conversation.hearing
        if not await self._turns.append(payloads):
            return
        for each in tell:
            await self._outlet.send(each)
        if ends or self._turns.ack_is_due(read_at):
            await self._turns.acknowledge(self._intake.position)
