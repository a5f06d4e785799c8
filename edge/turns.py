"""Begins and ends the turns of one conversation, whoever finds where an utterance begins and ends.

    check_room ─> begin ─> append, append … ─> end ─> append

Owns what goes with a turn's beginning and end: the state machine, the notes, the log, what the client is
told. Does not know where the audio comes from. Raises `ClientError` for whatever a client is answered by
`error`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from edge.configuration import Configuration
from edge.dialogue import Dialogue
from edge.director import Director
from edge.keeper import Keeping
from edge.measure import Measure
from edge.outlet import Outlet
from edge.protocols import messages
from edge.protocols.messages import Message
from edge.protocols.native import AudioChunk, Pacing
from edge.services import Services
from edge.utterance import Found, Utterance
from shared.audio import INPUT_RATE
from shared.errors import ClientError
from shared.wire import Open, Payload, UtteranceEnd

ACK_EACH_S = 0.5


class Host(Keeping, Protocol):
    """The session as its turns see it."""

    def follow(self) -> None:
        """A turn begins: the logs of answers are to be followed."""
        ...


class Turns:
    """The newest turn of one conversation, and each one after it."""

    def __init__(
        self, services: Services, host: Host, dialogue: Dialogue, director: Director, outlet: Outlet
    ) -> None:
        self.measure = Measure(services.settings.max_utterance_s)
        self._room = services.room
        self._host = host
        self._dialogue = dialogue
        self._director = director
        self._outlet = outlet
        self._utterance = Utterance(services, host, dialogue, director)
        self._acked_at = 0.0
        self._may_repeat_end = False

    async def resume(self, *, utterance_open: bool) -> Found | None:
        """Take up the newest turn's utterance where the log has it. Raises `LogError` and `StoreError`."""
        # Its end may have been written without the client's having heard so.
        self._may_repeat_end = True
        if not utterance_open:
            return None
        found = await self._utterance.resume()
        self.measure.begin(found.samples)
        return found

    async def confirm(self) -> None:
        """Make sure that Redis still has the utterance that is being answered."""
        await self._utterance.confirm()

    def for_utterance(self, message: AudioChunk) -> Configuration:
        """The settings of a turn that begins with this slice."""
        configuration = self._dialogue.configuration.for_utterance(message)
        return configuration.in_its_language(self._room.speaks) if message.voice else configuration

    def check_room(self, configuration: Configuration, *, batch: bool = False) -> None:
        """Raises `ClientError` if no turn can begin now. Nothing was written, and nothing was interrupted."""
        self._dialogue.conversation.check_room(interrupt=configuration.interrupt)
        self._room.check(configuration.voice, configuration.language)
        self._room.admit(batch=batch, replaces=self._dialogue.conversation.awaited is not None)

    def begin(
        self,
        configuration: Configuration,
        *,
        text: str | None = None,
        chunk_id: str | None = None,
        batch: bool = False,
        by_voice: bool = False,
    ) -> Open:
        """A turn begins, by default an utterance; the first entry of its log, which is still to be written.

        `by_voice`: the utterance was found by voice activity, and its end will be. Raises `ClientError` as
        `check_room` does for the line of turns.
        """
        conversation, player = self._dialogue.conversation, self._director.downlink.player
        effects = conversation.begin(typed=text is not None, interrupt=configuration.interrupt)
        notes = self._dialogue.notes(conversation.turn)
        voice = self._room.voice(configuration.voice, configuration.language)
        notes.voice = voice.name if voice else configuration.voice
        notes.output_format = configuration.output_format
        notes.chunk_id, notes.batch = chunk_id, batch
        player.playout.paced = configuration.pacing is Pacing.REALTIME
        self._host.follow()
        self._utterance.begin()
        self.measure.begin()
        self._may_repeat_end = False
        self._director.carry_out(effects)
        # Behind the offer, which somebody waits for: the number of this turn is not to be used again.
        self._director.establish()
        # What the user's voice held back is cut off by now, or is to be heard before this turn's answer.
        player.go_on()
        return configuration.opening(text=text, chunk_id=chunk_id, batch=batch, by_voice=by_voice)

    def end(self, at_s: float, reason: str, input_samples: int) -> UtteranceEnd:
        """The utterance is whole as of `at_s` (monotonic); its last entry, which is still to be written."""
        conversation = self._dialogue.conversation
        conversation.end_utterance()
        self.start_watch(at_s)
        self._director.utterance_ended(conversation.turn)
        # Who was not asked cannot know yet that nothing is left to end.
        self._may_repeat_end = reason != "client"
        return UtteranceEnd(reason, input_samples)

    def start_watch(self, at_s: float) -> None:
        """The latencies of the newest turn count from here."""
        notes = self._dialogue.notes(self._dialogue.conversation.turn)
        notes.stopwatch.utterance_end = notes.moved_at = at_s

    async def append(self, payloads: Sequence[Payload]) -> bool:
        """Write what comes next; false if the turn has ended by that, of which the client is told.

        Raises `ClientError` `overloaded` when the turn could not even begin; then it has never been.
        """
        return await self._utterance.append(payloads)

    def nothing_to_end(self) -> None:
        """There is no utterance to end: an error, unless the client cannot know that."""
        if not self._may_repeat_end:
            raise ClientError("wrong_state", "there is no open utterance to end")
        self._may_repeat_end = False

    # ---- what the client is told of its input

    def started(self, place: int, reason: str) -> Message:
        """The newest turn's utterance began at `place`."""
        return messages.speech_started(self._dialogue.conversation.turn, _ms(place), reason)

    def stopped(self, place: int, reason: str) -> Message:
        """The newest turn's utterance ended at `place`."""
        return messages.speech_stopped(self._dialogue.conversation.turn, _ms(place), reason)

    def ack_is_due(self, now_s: float) -> bool:
        """Whether the client has heard nothing of its input for long enough."""
        return now_s - self._acked_at >= ACK_EACH_S

    async def acknowledge(self, input_samples: int) -> None:
        """Input up to here need not be sent again."""
        self._acked_at = time.monotonic()
        await self._outlet.send(messages.audio_ack(self._dialogue.conversation.turn, input_samples))


def _ms(samples: int) -> float:
    return samples * 1000 / INPUT_RATE
