"""What a client's messages do: its audio into the log, its words to the state machine.

Between the last byte of an utterance and the append of its `end` lies nothing but decoding. Raises
`ClientError` for whatever a client is answered by `error`.
"""

from __future__ import annotations

import logging
import time
from typing import Protocol

from edge.configuration import Configuration
from edge.dialogue import Dialogue
from edge.director import Director
from edge.intake import Intake
from edge.keeper import Keeping
from edge.outlet import Outlet
from edge.protocols import messages
from edge.protocols.native import (
    AudioChunk,
    Bye,
    ClientMessage,
    Configure,
    EndOfUtterance,
    Pacing,
    Ping,
    Playback,
    Status,
    Text,
    UserInterrupt,
)
from edge.services import Services
from edge.utterance import Utterance
from shared.audio import INPUT_RATE
from shared.errors import AudioError, ClientError
from shared.wire import Chunk, Open, Payload, UtteranceEnd

log = logging.getLogger(__name__)

ACK_EACH_S = 0.5


class Host(Keeping, Protocol):
    """The session as its uplink sees it."""

    def follow(self) -> None:
        """A turn begins: the logs of answers are to be followed."""
        ...

    def leave(self) -> None:
        """The client says goodbye."""
        ...


class Uplink:
    """The client's side of one conversation."""

    def __init__(
        self,
        services: Services,
        host: Host,
        dialogue: Dialogue,
        director: Director,
        outlet: Outlet,
        *,
        input_samples: int = 0,
    ) -> None:
        self._room = services.room
        self._host = host
        self._dialogue = dialogue
        self._director = director
        self._outlet = outlet
        self._intake = Intake(services.settings.max_utterance_s, input_samples)
        self._utterance = Utterance(services, host, dialogue, director)
        self._acked_at = 0.0
        self._may_repeat_end = False

    async def handle(self, message: ClientMessage, read_at: float) -> None:
        """Do what a message asks for. `read_at`: when it was read, on the monotonic clock in seconds."""
        match message:
            case AudioChunk():
                await self._audio(message, read_at)
            case EndOfUtterance():
                await self._end_of_utterance(read_at)
            case Text():
                await self._text(message, read_at)
            case Configure():
                await self._configure(message)
            case UserInterrupt():
                self._interrupt(message)
            case Playback():
                self._director.downlink.player.report(message.turn, message.played_ms)
            case Ping():
                await self._outlet.send(messages.pong())
            case Status():
                await self._status()
            case Bye():
                self._host.leave()
            case _:
                raise ClientError("wrong_state", "resume must be the first message of a socket")

    async def resume(self, *, utterance_open: bool) -> None:
        """Take up the input where the log has it. Raises `LogError` and `StoreError`."""
        # Its end may have been written without the client's having heard so.
        self._may_repeat_end = True
        if utterance_open:
            self._intake.resume(self._dialogue.configuration, await self._utterance.resume())

    async def confirm(self) -> None:
        """Make sure that Redis still has the utterance that is being answered."""
        await self._utterance.confirm()

    # ---- audio

    async def _audio(self, message: AudioChunk, read_at: float) -> None:
        if self._dialogue.conversation.hearing:
            payloads: list[Payload] | None = self._decoded(message, begins=False)
        elif message.audio:
            payloads = await self._begun(message)
        else:
            return self._nothing_to_end()
        if payloads is None:
            return
        turn = self._dialogue.conversation.turn
        reason = None
        if self._intake.full or message.end_of_utterance is not False:
            reason = "max_length" if self._intake.full else "client"
            self._end(read_at, payloads, reason)
        if not await self._utterance.append(payloads):
            return
        if payloads and isinstance(payloads[0], Open):
            await self._outlet.send(messages.speech_started(turn, _ms(self._start(payloads)), "client"))
        if reason is not None:
            await self._ended(turn, reason)
        elif read_at - self._acked_at >= ACK_EACH_S:
            await self._acknowledge(turn)

    async def _begun(self, message: AudioChunk) -> list[Payload] | None:
        """An utterance with its first slice; `None` if nothing is in it that does not stand in the log."""
        conversation, before = self._dialogue.conversation, self._intake.position
        configuration = self._dialogue.configuration.for_utterance(message)
        if message.voice:
            configuration = configuration.in_its_language(self._room.speaks)
        self._check_room(configuration)
        self._intake.start(configuration)
        payloads = self._decoded(message, begins=True)
        if not payloads and message.offset_samples is not None and message.offset_samples < before:
            await self._acknowledge(conversation.turn)
            return None
        if not payloads and message.end_of_utterance is not False:
            raise ClientError("bad_audio", "an utterance of no samples")
        self._begin(configuration, typed=False)
        self._dialogue.notes(conversation.turn).chunk_id = message.chunk_id
        return [configuration.opening(chunk_id=message.chunk_id), *payloads]

    def _decoded(self, message: AudioChunk, *, begins: bool) -> list[Payload]:
        payloads: list[Payload] = []
        try:
            if message.audio:
                payloads += self._intake.take(message.audio, message.offset_samples, begins=begins)
            if self._intake.full or message.end_of_utterance is not False:
                payloads += self._intake.finish()
        except AudioError as error:
            raise ClientError("bad_audio", str(error)) from None
        return payloads

    async def _end_of_utterance(self, read_at: float) -> None:
        if not self._dialogue.conversation.hearing:
            return self._nothing_to_end()
        turn = self._dialogue.conversation.turn
        payloads: list[Payload] = []
        try:
            payloads += self._intake.finish()
        except AudioError as error:
            # The utterance ends all the same: what was understood of it stands in the log.
            log.debug("at the end of the utterance: %s", error)
        self._end(read_at, payloads, "client")
        if await self._utterance.append(payloads):
            await self._ended(turn, "client")

    def _nothing_to_end(self) -> None:
        """There is no utterance to end: an error, unless the client cannot know that."""
        if not self._may_repeat_end:
            raise ClientError("wrong_state", "there is no open utterance to end")
        self._may_repeat_end = False

    def _end(self, read_at: float, payloads: list[Payload], reason: str) -> None:
        """The utterance is whole as of now; `payloads`, its last entries, are still to be written."""
        self._dialogue.conversation.end_utterance()
        self._start_watch(read_at)
        payloads.append(UtteranceEnd(reason, self._intake.position))
        self._may_repeat_end = reason == "max_length"

    async def _ended(self, turn: int, reason: str) -> None:
        await self._outlet.send(messages.speech_stopped(turn, _ms(self._intake.position), reason))
        await self._acknowledge(turn)

    async def _acknowledge(self, turn: int) -> None:
        self._acked_at = time.monotonic()
        await self._outlet.send(messages.audio_ack(turn, self._intake.position))

    def _start(self, payloads: list[Payload]) -> int:
        chunks = (payload.offset_samples for payload in payloads if isinstance(payload, Chunk))
        return next(chunks, self._intake.position)

    # ---- turns

    async def _text(self, message: Text, read_at: float) -> None:
        configuration = self._dialogue.configuration
        self._check_room(configuration)
        self._begin(configuration, typed=True)
        self._start_watch(read_at)
        end = UtteranceEnd("client", self._intake.position)
        await self._utterance.append([configuration.opening(text=message.text), end])

    def _check_room(self, configuration: Configuration) -> None:
        """Raises `ClientError` if no turn can begin now. Nothing was written, and nothing was interrupted."""
        self._dialogue.conversation.check_room(interrupt=configuration.interrupt)
        self._room.admit()
        self._room.check(configuration.voice, configuration.language)

    def _begin(self, configuration: Configuration, *, typed: bool) -> None:
        conversation = self._dialogue.conversation
        effects = conversation.begin(typed=typed, interrupt=configuration.interrupt)
        notes = self._dialogue.notes(conversation.turn)
        voice = self._room.voice(configuration.voice, configuration.language)
        notes.voice = voice.name if voice else configuration.voice
        notes.output_format = configuration.output_format
        self._director.downlink.player.playout.paced = configuration.pacing is Pacing.REALTIME
        if not self._director.established:
            self._director.establish()
        self._host.follow()
        self._utterance.begin()
        self._may_repeat_end = False
        self._director.carry_out(effects)

    def _start_watch(self, read_at: float) -> None:
        notes = self._dialogue.notes(self._dialogue.conversation.turn)
        notes.stopwatch.utterance_end = notes.moved_at = read_at

    # ---- the rest

    async def _configure(self, message: Configure) -> None:
        changed = self._dialogue.configuration.changed(message)
        if message.voice and message.language is None:
            changed = changed.in_its_language(self._room.speaks)
        self._room.check(changed.voice, changed.language)
        self._dialogue.configuration = changed
        self._director.establish()
        voice = self._room.voice(changed.voice, changed.language)
        effective = changed.dump()
        if voice is not None:
            effective |= {"voice": voice.name, "language": changed.language or voice.language}
        await self._outlet.send(messages.configured(effective))

    def _interrupt(self, message: UserInterrupt) -> None:
        conversation = self._dialogue.conversation
        turn = conversation.answered or conversation.awaited
        if turn is not None and message.played_ms is not None:
            self._director.downlink.player.report(turn, message.played_ms)
        self._director.carry_out(conversation.interrupt())

    async def _status(self) -> None:
        conversation = self._dialogue.conversation
        unplayed = self._director.downlink.player.playout.frames
        await self._outlet.send(
            messages.status(self._dialogue.id, conversation.turn, conversation.state.value, unplayed)
        )


def _ms(samples: int) -> float:
    return samples * 1000 / INPUT_RATE
