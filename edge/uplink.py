"""What a client's messages do: its audio to whoever finds the turns in it, its words to the state machine.

    audio_chunk ─ the client says where utterances end ─> dictation ─┬─> turns
                └ the server finds that ───────────────> listener ──┘

Raises `ClientError` for whatever a client is answered by `error`.
"""

from __future__ import annotations

from edge.dialogue import Dialogue
from edge.dictation import Dictation
from edge.director import Director
from edge.intake import Intake
from edge.listener import Listener
from edge.outlet import Outlet
from edge.protocols import messages
from edge.protocols.native import (
    AudioChunk,
    ClientMessage,
    Configure,
    EndOfUtterance,
    Playback,
    Text,
    UserInterrupt,
)
from edge.services import Services
from edge.turns import Host, Turns
from shared.errors import ClientError
from shared.wire import UtteranceEnd


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
        self._dialogue = dialogue
        self._director = director
        self._outlet = outlet
        self._intake = Intake(input_samples)
        self._turns = Turns(services, host, dialogue, director, outlet)
        self._dictation = Dictation(dialogue, self._turns, self._intake, outlet)
        ear = services.detector.ear()
        self._listener = Listener(ear, dialogue, director, self._turns, self._intake, outlet)

    async def handle(self, message: ClientMessage, read_at: float) -> None:
        """Do what a message asks for. `read_at`: when it was read, on the monotonic clock in seconds."""
        match message:
            case AudioChunk():
                await self._way().take(message, read_at)
            case EndOfUtterance():
                await self._way().end(read_at)
            case Text():
                await self._text(message, read_at)
            case Configure():
                await self._configure(message)
            case UserInterrupt():
                self._interrupt(message)
            case Playback():
                self._director.downlink.player.report(message.turn, message.played_ms)
            case _:
                raise ClientError("wrong_state", "resume must be the first message of a socket")

    async def resume(self, *, utterance_open: bool) -> None:
        """Take up the input where the log has it. Raises `LogError` and `StoreError`."""
        found = await self._turns.resume(utterance_open=utterance_open)
        if found is not None and found.by_voice:
            self._listener.resume(paused=found.paused)
        elif found is not None:
            self._dictation.resume()

    async def confirm(self) -> None:
        """Make sure that Redis still has the utterance that is being answered."""
        await self._turns.confirm()

    def _way(self) -> Dictation | Listener:
        """Who finds the turns in the input: what is open goes on as it began."""
        if self._listener.standing:
            return self._listener
        listens = self._dialogue.configuration.vad is not None and not self._dialogue.conversation.hearing
        return self._listener if listens else self._dictation

    async def _text(self, message: Text, read_at: float) -> None:
        configuration = self._dialogue.configuration
        if self._listener.standing:
            await self._listener.end(read_at)  # Its client may not know yet that anybody is heard.
        self._turns.check_room(configuration)
        opening = self._turns.begin(configuration, text=message.text)
        self._turns.start_watch(read_at)
        await self._turns.append([opening, UtteranceEnd("client", self._way().settled)])

    async def _configure(self, message: Configure) -> None:
        changed = self._dialogue.configuration.changed(message)
        if message.voice and message.language is None:
            changed = changed.in_its_language(self._room.speaks)
        self._room.check(changed.voice, changed.language)
        self._dialogue.configuration = changed
        self._director.downlink.player.go_on()
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
