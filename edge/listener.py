"""Utterances that are found by voice activity: from the input of one conversation to its turns.

    slice ─> tape, until it is known what becomes of it
        └──> ear ─> how likely each window holds a voice ─> endpointing ─> onset:     hold the answer back
                                                                           dropped:   let it go on
                                                                           started:   begin a turn
                                                                           paused:    write that, and wait
                                                                           ended:     end it

Writes an utterance as it is judged, and nothing of its pauses until the user goes on: what lies on the tape
does not stand in the log. Counts samples; how fast they arrive makes no difference. Does not know what a
voice is, nor when it is silent for long enough: that is said by the detector and by `edge.endpointing`.
"""

from __future__ import annotations

import asyncio
import logging
import time

from edge.detection import WINDOW_SAMPLES, Ear, Heard
from edge.dialogue import Dialogue
from edge.director import Director
from edge.endpointing import Dropped, Ended, Endpointing, Event, Onset, Paused, ServerVad, Started
from edge.intake import Intake
from edge.outlet import Outlet
from edge.player import Player
from edge.protocols import messages
from edge.protocols.messages import Message
from edge.protocols.native import AudioChunk
from edge.tape import Tape
from edge.turns import Turns
from shared.audio import INPUT_RATE, SAMPLE_BYTES
from shared.errors import AudioError, ClientError, EngineError
from shared.wire import Pause, Payload

log = logging.getLogger(__name__)

AT_ONCE_BYTES = 32 * WINDOW_SAMPLES * SAMPLE_BYTES
"""What the detector is given at a time, about a second: the first words of a long slice are known first."""

HEARD_WITHIN_S = 2.0
"""How long the detector may take: a call of it that hangs shall not hold up what else the client says."""

DEAF_SAMPLES = INPUT_RATE
"""How much input is passed over after the detector failed, so that a client is not told with every slice."""


class Listener:
    """One conversation's input while the server finds the ends of utterances in it."""

    def __init__(
        self,
        ear: Ear,
        dialogue: Dialogue,
        director: Director,
        turns: Turns,
        intake: Intake,
        outlet: Outlet,
    ) -> None:
        self._ear = ear
        self._dialogue = dialogue
        self._director = director
        self._turns = turns
        self._intake = intake
        self._outlet = outlet
        self._holds: object = None
        """The settings under which this listens: the newest, unless an utterance stands from before."""
        self._endpointing = Endpointing(ServerVad(), intake.position)
        self._padding_samples = 0
        self._tape = Tape(intake.position)
        self._turn: int | None = None
        """Whose utterance stands. With none, an utterance that the endpointing knows of is passed over."""
        self._deaf_before = 0
        self._payloads: list[Payload] = []
        self._tell: list[Message] = []
        """What is to be written, and then to be told: of one turn, and never kept while it is listened."""

    @property
    def standing(self) -> bool:
        """Whether an utterance that was found here is open."""
        conversation = self._dialogue.conversation
        return self._turn is not None and conversation.hearing and conversation.turn == self._turn

    @property
    def settled(self) -> int:
        """Up to where the input needs not be sent again: it stands in the log, or will be in no utterance."""
        # A tape that ends elsewhere is from before the client said an end itself.
        return self._tape.start if self._tape.end == self._intake.position else self._intake.position

    def resume(self, *, paused: bool) -> None:
        """An utterance that was found by voice activity stands open at the end of the input, in the log."""
        self._listen_anew(self._dialogue.configuration.vad or ServerVad())
        self._endpointing.resume(paused=paused)
        self._turn = self._dialogue.conversation.turn

    async def take(self, message: AudioChunk, read_at: float) -> None:
        """A slice of the input, which never ends."""
        self._notice_loss()
        self._keep_to_configuration()
        if message.audio:
            await self._listen(self._decoded(message), message)
        if message.end_of_utterance:
            await self.end(read_at)
        elif self._turns.ack_is_due(read_at):
            await self._turns.acknowledge(self._tape.start)

    async def end(self, read_at: float) -> None:
        """The client says that the utterance is whole, or that what sounded like one is none."""
        self._notice_loss()
        if not self._endpointing.maybe and not self._endpointing.speaking:
            return  # The client cannot know that.
        if self.standing and not self._endpointing.paused:
            self._take_rest()
            self._write_upto(self._tape.end)
        if self.standing:
            self._end("client", self._intake.position, read_at)
        self._drop()
        await self._flush()

    # ---- what comes in

    def _keep_to_configuration(self) -> None:
        """Listen under the settings that hold now, unless an utterance stands from before."""
        vad = self._dialogue.configuration.vad
        # Input that did not come this way was an utterance of which the client said where it ends.
        goes_on = self._holds == self._settings(vad) and self._tape.end == self._intake.position
        if vad is not None and not self.standing and not goes_on:
            self._listen_anew(vad)

    def _listen_anew(self, vad: ServerVad) -> None:
        self._holds = self._settings(vad)
        self._padding_samples = int(vad.prefix_padding_ms * INPUT_RATE / 1000)
        self._drop()
        self._intake.start(self._dialogue.configuration)
        self._ear.forget()
        self._tape.restart(self._intake.position)
        self._endpointing = Endpointing(vad, self._intake.position)

    def _settings(self, vad: ServerVad | None) -> object:
        configuration = self._dialogue.configuration
        return vad, configuration.input_format, configuration.input_sample_rate

    def _decoded(self, message: AudioChunk) -> bytes:
        try:
            slice_ = self._intake.take(message.audio, message.offset_samples, may_jump=not self.standing)
        except AudioError as error:
            raise ClientError("bad_audio", str(error)) from None
        if slice_.place != self._tape.end:
            self._pass_over(slice_.place)
        return slice_.pcm

    async def _listen(self, pcm: bytes, message: AudioChunk) -> None:
        for start in range(0, len(pcm), AT_ONCE_BYTES):
            if self._is_deaf():
                return self._pass_over(self._intake.position)
            piece = pcm[start : start + AT_ONCE_BYTES]
            self._tape.add(piece)
            given_at = time.monotonic()
            try:
                async with asyncio.timeout(HEARD_WITHIN_S):
                    heard = await self._ear.hear(piece)
            except TimeoutError:
                return await self._fail(EngineError("the detector does not answer"), given_at)
            except EngineError as error:
                return await self._fail(error, given_at)
            self._notice_loss()
            for window in heard:
                await self._heed(window, message)
            if self.standing and not self._endpointing.paused:
                self._write_upto(self._endpointing.place)
            await self._flush(message)
            self._tape.forget(self._kept_from())

    def _is_deaf(self) -> bool:
        """Whether what comes now is not to be judged. An utterance that stands goes on in any case."""
        if self.standing:
            return False
        echoes = not self._dialogue.configuration.echo_cancelled and self._player.audible()
        return echoes or self._tape.end < self._deaf_before

    def _pass_over(self, place: int) -> None:
        """Take up the input at `place` as if there had been none before; no utterance stands."""
        self._ear.forget()
        for event in self._endpointing.skip(place - self._endpointing.place):
            self._follow(event, None)
        self._tape.restart(place)

    def _take_rest(self) -> None:
        """Let the utterance have what was not judged yet, now that it ends there."""
        try:
            self._tape.add(self._intake.finish().pcm)
        except AudioError as error:
            # It ends all the same: what was understood of it stands in the log.
            log.debug("at the end of the utterance: %s", error)
        self._ear.forget()
        self._endpointing.skip(self._tape.end - self._endpointing.place)

    def _kept_from(self) -> int:
        """The first place that may still become part of an utterance, or of the one that stands."""
        if self.standing:
            return self._tape.start
        if self._endpointing.speaking:
            return self._endpointing.place
        first = self._endpointing.onset if self._endpointing.maybe else self._endpointing.place
        return first - self._padding_samples

    # ---- what follows from it

    async def _heed(self, window: Heard, message: AudioChunk) -> None:
        for event in self._endpointing.feed(window):
            self._follow(event, message)
            if isinstance(event, Dropped):
                await self._player.let_out()  # The next sound may begin in this very slice.
        endpointing, measure = self._endpointing, self._turns.measure
        if self.standing:
            unwritten = endpointing.place - self._tape.start
            if not endpointing.paused and unwritten >= measure.left_samples:
                self._write_upto(endpointing.place)
        elif endpointing.maybe or endpointing.speaking:
            if endpointing.place - endpointing.onset >= measure.max_samples:
                self._drop()
        if self._payloads and self._payloads[-1].final:
            await self._flush(message)

    def _follow(self, event: Event, message: AudioChunk | None) -> None:
        match event:
            case Onset() if self._dialogue.configuration.vad is None:
                self._drop()  # Nobody listens for another utterance than the one that stood.
            case Onset() if self._dialogue.configuration.interrupt:
                self._player.halt()
            case Dropped():
                self._player.go_on()
            case Started(place=place) if message is not None:
                self._begin(place, message)
            case Paused(place=place) if self.standing:
                self._write_upto(place)
                if self.standing:
                    self._payloads.append(Pause(self._tape.start))
            case Ended() if self.standing:
                self._end("silence", self._endpointing.voice_upto, time.monotonic())

    def _begin(self, place: int, message: AudioChunk) -> None:
        try:
            configuration = self._turns.for_utterance(message)
            self._turns.check_room(configuration, batch=message.batch)
        except ClientError as error:
            self._player.go_on()
            self._tell.append(messages.error(error, chunk_id=message.chunk_id))
            return
        opening = self._turns.begin(
            configuration, chunk_id=message.chunk_id, batch=message.batch, by_voice=True
        )
        self._turn = self._dialogue.conversation.turn
        self._payloads.append(opening)
        self._tell.append(self._turns.started(place, "server_vad"))
        self._tape.forget(place - self._padding_samples)
        self._write_upto(self._endpointing.place)

    def _write_upto(self, place: int) -> None:
        """Take what the utterance has up to `place` from the tape; it ends there if it is at its longest."""
        measure = self._turns.measure
        upto = min(place, self._tape.start + measure.left_samples)
        self._payloads += measure.entries(self._tape.between(self._tape.start, upto))
        self._tape.forget(upto)
        if measure.full:
            self._end("max_length", self._tape.start, time.monotonic())

    def _end(self, reason: str, place: int, at_s: float) -> None:
        self._tell.append(self._turns.stopped(place, reason))
        self._payloads.append(self._turns.end(at_s, reason, self._tape.start))
        self._turn = None
        self._endpointing.end()

    async def _flush(self, message: AudioChunk | None = None) -> None:
        """Write what is to be written, then tell what is to be told."""
        payloads, tell = self._payloads, self._tell
        self._payloads, self._tell = [], []
        ends = bool(payloads) and payloads[-1].final
        try:
            if not await self._turns.append(payloads):
                tell, ends = [], False
        except ClientError as error:
            # It has never been: what is left of it is passed over.
            self._turn, ends = None, False
            tell = [messages.error(error, chunk_id=message.chunk_id if message else None)]
        for each in tell:
            await self._outlet.send(each)
        if ends:
            await self._turns.acknowledge(self._tape.start)
        self._notice_loss()

    def _notice_loss(self) -> None:
        """The turn may have been ended by somebody else; what comes then may begin another."""
        if self._turn is not None and not self.standing:
            self._drop()

    def _drop(self) -> None:
        """What was found, or seemed to be, is of no interest any more."""
        self._turn = None
        self._endpointing.end()
        self._player.go_on()

    async def _fail(self, error: EngineError, given_at: float) -> None:
        """What was given to the detector is lost, and with it the utterance that stands."""
        log.warning("voice activity is not detected: %s", error)
        failure = ClientError("engine_failed", "voice activity detection failed; go on", retryable=True)
        turn, stood = self._turn, self.standing
        self._drop()
        self._pass_over(self._intake.position)
        # What has come in meanwhile as well, or this would fall behind by each failure.
        waited_samples = int((time.monotonic() - given_at) * INPUT_RATE)
        self._deaf_before = self._intake.position + waited_samples + DEAF_SAMPLES
        if turn is not None and stood:
            self._director.fail(turn, failure, unwritten=True)
        else:
            await self._outlet.send(messages.error(failure))

    @property
    def _player(self) -> Player:
        return self._director.downlink.player
