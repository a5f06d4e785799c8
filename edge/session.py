"""One WebSocket and the conversation that it holds, from `connection` to the close.

    socket ─> receive ─> decode ─> uplink ─> audio log, state machine ─> director ─> offers, closings
    socket <─ outlet <─ downlink <─ text log, speech log

Owns the tasks of a session and their end. A lost socket ends the session, not the conversation: whoever shows
its token, here or at another edge, resumes it. All but the outlet is made at the first message that needs it:
until then a session is little more than its socket.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import Message as Event
from starlette.websockets import WebSocket

from edge.clerk import Clerk
from edge.configuration import Configuration
from edge.conversation import Close, Conversation, State
from edge.dialogue import Dialogue
from edge.director import Director
from edge.downlink import NOWHERE, Downlink
from edge.greeting import server_config
from edge.outlet import Outlet, SocketGone
from edge.protocols import messages
from edge.protocols.encoding import Encoding
from edge.protocols.native import AudioChunk, Bye, ClientMessage, Ping, Resume, Status, decode
from edge.room import overloaded
from edge.services import Services
from edge.survey import Survey, survey
from edge.transcript import Transcript
from edge.uplink import Uplink
from shared.errors import ClientError, EntryGarbled, LogError, StoreError
from shared.hold import Hold, new_conversation, new_token
from shared.keys import is_conversation
from shared.logs import bind
from shared.wire import Address, Log

log = logging.getLogger(__name__)

FINISH_WITHIN_S = 2.0
"""How long the end of a session waits for what is still to be written."""

NORMAL = 1000
POLICY_VIOLATION = 1008
INTERNAL_ERROR = 1011
RESTARTS = 1012
TRY_AGAIN_LATER = 1013
TAKEN_OVER = 4001

SILENT = ClientError("deadline", "no resume came in time; connect again", retryable=True)

FROM_THE_START = {Log.TEXT: 1, Log.SPEECH: 1}


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a session ends. `code`: what the socket is closed with, `None` for one that is gone."""

    reason: str
    code: int | None = None


GOODBYE = Ending("goodbye", NORMAL)
GONE = Ending("the socket is gone")
SUPERSEDED = Ending("resumed on another socket", TAKEN_OVER)
DRAINED = Ending("the edge stops", RESTARTS)
NO_RESUME = Ending("it came to resume, and did not", POLICY_VIOLATION)
NO_ROOM = Ending("a conversation that there is no room for", TRY_AGAIN_LATER)
BROKEN = Ending("an error of this server", INTERNAL_ERROR)


class _Over(Exception):
    """Raised inside the task group to end it."""


class Session:
    """One accepted WebSocket. `run` it once.

    `admit` is given where it came to resume, and is asked before it begins a conversation after all.
    """

    def __init__(
        self,
        services: Services,
        socket: WebSocket,
        encoding: Encoding,
        admit: Callable[[], None] | None = None,
    ) -> None:
        self.hold: Hold = services.keeper.hold(new_conversation())
        self._services = services
        self._socket = socket
        self._encoding = encoding
        self._admit = admit
        self._outlet = Outlet(socket.send, encoding)
        self._ending: Ending | None = None
        self._over = asyncio.get_running_loop().create_future()
        self._tasks: asyncio.TaskGroup
        self._heard_from = False
        self._resumes_until = asyncio.get_running_loop().time() + services.settings.handshake_s
        self._unsettled = False
        self._leaves = False
        self._token = new_token()
        self._assembled = False
        """Whether there is what follows."""
        self._dialogue: Dialogue
        self._clerk: Clerk
        self._writing: asyncio.Task[None]
        self._director: Director
        self._downlink: Downlink
        self._uplink: Uplink
        self._late: asyncio.Event
        bind(conversation=self.hold.conversation)

    async def run(self) -> None:
        """Serve the client until it or this edge goes."""
        ending = DRAINED
        try:
            ending = await self._serve()
        finally:
            await self._close(ending)

    # ---- what others tell the session

    def lost(self) -> None:
        """Another session has the conversation now: this one ends."""
        self._end(SUPERSEDED)

    def forgotten(self) -> None:
        """Redis has lost the meta hash."""
        self._director.establish()

    def restarted(self) -> None:
        """Redis may have forgotten its last seconds."""
        self._director.heal(self._uplink.confirm)

    def stop(self) -> None:
        """The edge stops now."""
        self._end(DRAINED)

    async def go_away(self, deadline_ms: float) -> None:
        """The edge will stop: tell the client, and end as soon as nothing is being said."""
        self._leaves = True
        try:
            await self._outlet.send(messages.going_away(deadline_ms))
        except SocketGone:
            self._end(GONE)
        self.look()

    def look(self) -> None:
        """See, about each second, whether it is time to go, or something takes too long."""
        if self._leaves and (not self._assembled or self._dialogue.conversation.state is State.LISTENING):
            self._end(DRAINED)
        elif self._assembled and self._director.restless:
            self._late.set()

    def follow(self) -> None:
        """A turn begins: see to it that its answer is told."""
        if not self._downlink.started:
            self._downlink.start(self._tasks, FROM_THE_START)

    # ---- the session's tasks

    async def _serve(self) -> Ending:
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                tasks.create_task(self._receive(), name="receive")
                await self._over
                raise _Over
        except* _Over:
            pass
        except* SocketGone:
            self._end(GONE)
        except* Exception as errors:
            # The boundary: whatever a client may have caused ends its own session and nothing else.
            log.error("the session broke", exc_info=errors)
            self._end(BROKEN)
        return self._ending or GONE

    async def _receive(self) -> None:
        config = server_config(self._services)
        await self._outlet.send(messages.connection(self.hold.conversation, self._token, config))
        while True:
            try:
                event = await self._event()
            except TimeoutError:
                await self._outlet.send(messages.error(SILENT))
                return self._end(NO_RESUME)
            read_at = time.monotonic()
            if event["type"] == "websocket.disconnect":
                return self._end(GOODBYE if event.get("code") == NORMAL else GONE)
            data = event.get("text")
            await self._take(event["bytes"] if data is None else data, read_at)

    async def _event(self) -> Event:
        """What comes next. Raises `TimeoutError` where that had to be a `resume`, and time is up."""
        if self._heard_from or self._admit is None:
            return await self._socket.receive()
        # Others may wait for its place, which was given to it for that alone.
        async with asyncio.timeout_at(self._resumes_until):
            return await self._socket.receive()

    async def _take(self, data: str | bytes, read_at: float) -> None:
        message: ClientMessage | None = None
        try:
            message = decode(data, self._encoding, self._services.settings.max_message_bytes)
            await self._handle(message, read_at)
        except ClientError as error:
            chunk_id = message.chunk_id if isinstance(message, AudioChunk) else None
            await self._outlet.send(messages.error(error, chunk_id=chunk_id))

    async def _handle(self, message: ClientMessage, read_at: float) -> None:
        if isinstance(message, Resume) and not self._heard_from:
            await self._resume(message)
            return
        if not self._heard_from and not await self._begins():
            return
        self._heard_from = True
        if self._unsettled:
            # By this message the client proves that it has the new token.
            self._unsettled = False
            self._clerk.add("the old resume token", self.hold.settle)
        match message:
            case Ping():
                await self._outlet.send(messages.pong())
            case Status():
                await self._tell_status()
            case Bye():
                self._end(GOODBYE)
            case _:
                if not self._assembled:
                    self._assemble(Dialogue(self.hold.conversation, self._token))
                await self._uplink.handle(message, read_at)

    async def _begins(self) -> bool:
        """Whether a new conversation may begin here; if not, the client is told and the session ends."""
        try:
            if self._admit is not None:
                self._admit()
        except ClientError as error:
            await self._outlet.send(messages.error(error))
            self._end(NO_ROOM)
            return False
        return True

    async def _tell_status(self) -> None:
        turn, state, unplayed = 0, State.LISTENING, 0
        if self._assembled:
            conversation = self._dialogue.conversation
            turn, state = conversation.turn, conversation.state
            unplayed = self._downlink.player.playout.frames
        await self._outlet.send(messages.status(self.hold.conversation, turn, state.value, unplayed))

    async def _tick(self) -> None:
        while True:
            await self._late.wait()
            self._late.clear()
            await self._director.tick(self._uplink.confirm)

    # ---- resuming

    async def _resume(self, message: Resume) -> None:
        known = is_conversation(message.conversation_id)
        # An id that cannot exist is looked up like any other, so that nothing tells the two apart.
        hold = self._services.keeper.hold(message.conversation_id if known else new_conversation())
        token = new_token()
        held = {Log.TEXT: message.after_text, Log.SPEECH: message.after_speech}
        has = {log_: address for log_, address in held.items() if address is not None}
        if Log.SPEECH in has:
            # Of batch turns a client has no other address; and what it has heard, it has read.
            has.setdefault(Log.TEXT, Address(has[Log.SPEECH].turn, -1))
        try:
            resumed = await hold.resume(message.resume_token, token)
            if resumed is None:
                raise ClientError("not_found", "no conversation is known by this id and token")
            await self._services.keeper.tell(resumed.edge, hold)
            found = await survey(self._services.store, hold.conversation, has, resumed.turn)
            await self._take_over(hold, token, Configuration.load(resumed.settings), found, has)
        except EntryGarbled as error:
            log.warning("a conversation cannot be resumed: %s", error)
            raise ClientError("not_found", "the conversation cannot be read any more") from None
        except StoreError as error:
            log.warning("a conversation cannot be resumed: %s", error)
            raise overloaded("the conversation cannot be read at the moment") from None

    async def _take_over(
        self, hold: Hold, token: str, configuration: Configuration, found: Survey, has: dict[Log, Address]
    ) -> None:
        self.hold = hold
        conversation = Conversation.restored(found.living, found.last_turn, found.replayed)
        dialogue = Dialogue(hold.conversation, token, configuration, conversation)
        cut = found.cut
        if configuration.interrupt:
            cut |= {turn for turn, _ in found.living[:-1]}
        transcript = Transcript(has, cut, found.told, found.follow[Log.SPEECH])
        self._assemble(dialogue, transcript, input_samples=found.input_samples)
        self._annotate(dialogue, found)
        self._director.established = True
        self._services.keeper.add(self)
        try:
            await self._uplink.resume(utterance_open=conversation.hearing)
        except LogError as error:
            log.info("the open utterance cannot go on: %s", error)
            self._director.carry_out(conversation.broken(conversation.turn, "abandoned", unwritten=True))
        self._heard_from = self._unsettled = True
        by_voice = [turn for turn, opening in found.openings.items() if opening.by_voice]
        await self._outlet.send(
            messages.resumed(hold.conversation, token, found.last_turn, found.input_samples, by_voice)
        )
        log.info("resumed at turn %d", found.last_turn)
        self._downlink.start(self._tasks, found.follow, found.tails.get(Log.TEXT, NOWHERE))
        self._tasks.create_task(self._finish_what_was_begun(found), name="catch-up")

    def _annotate(self, dialogue: Dialogue, found: Survey) -> None:
        dialogue.retold = found.openings.keys()
        for turn, opening in found.openings.items():
            notes = dialogue.notes(turn)
            voice = self._services.room.voice(opening.voice, opening.language)
            notes.chunk_id, notes.voice = opening.chunk_id, voice.name if voice else opening.voice
            notes.output_format = dialogue.configuration.output_format
            notes.batch = opening.batch
        for entry in found.limits:
            dialogue.retention.note(entry.address.turn, entry.payload)
        for turn in (*found.replayed, *(turn for turn, _ in found.living)):
            notes = dialogue.notes(turn)
            notes.offered = True
            notes.opened.set()

    async def _finish_what_was_begun(self, found: Survey) -> None:
        """Do what a predecessor may have left half done, once it is known what the client has of it."""
        await self._downlink.caught_up(found.tails)
        effects = self._dialogue.conversation.resumed(interrupt=self._dialogue.configuration.interrupt)
        # The client was told, or is by now, that these began: so it waits for their ends.
        effects += [Close(turn, "abandoned") for turn in found.unwritten]
        self._director.carry_out(effects)

    # ---- parts and ends

    def _assemble(
        self, dialogue: Dialogue, transcript: Transcript | None = None, *, input_samples: int = 0
    ) -> None:
        bind(conversation=dialogue.id)
        self._dialogue = dialogue
        self._clerk = Clerk(self.lost)
        self._director = Director(self._services, self, dialogue, self._clerk)
        self._downlink = Downlink(
            dialogue,
            self._outlet,
            self._services.reader,
            self._director.carry_out,
            lead_ms=self._services.settings.playout_lead_ms,
            turn_ended=self._services.room.turn_ended,
            transcript=transcript,
        )
        self._director.downlink = self._downlink
        self._uplink = Uplink(
            self._services, self, dialogue, self._director, self._outlet, input_samples=input_samples
        )
        self._late = asyncio.Event()
        self._tasks.create_task(self._tick(), name="tick")
        # Outside of the task group: the clerk has things to finish when the session is over.
        self._writing = asyncio.create_task(self._clerk.run(), name="clerk")
        self._assembled = True

    def _end(self, ending: Ending) -> None:
        if self._ending is None:
            self._ending = ending
            if not self._over.done():
                self._over.set_result(None)

    async def _close(self, ending: Ending) -> None:
        """Close the socket, write what is still to be written, and give the conversation up."""
        log.debug("the session ends: %s", ending.reason)
        if ending.code is not None:
            await self._outlet.close(ending.code, ending.reason)
        self._services.keeper.remove(self)
        if not self._assembled:
            return
        if self._director.established and ending is not SUPERSEDED:
            await self._give_up(ended=ending is GOODBYE)
        self._writing.cancel()

    async def _give_up(self, *, ended: bool) -> None:
        self._forget_unwritten_turn()
        if ended:
            self._director.carry_out(self._dialogue.conversation.leave())
        self._clerk.add("the lease", lambda: self.hold.release(ended=ended))
        try:
            await asyncio.wait_for(self._clerk.finish(), FINISH_WITHIN_S)
        except TimeoutError:
            log.warning("the session ended before all was written; its lease will lapse")

    def _forget_unwritten_turn(self) -> None:
        """A turn whose beginning is not known to stand in the log must not be offered."""
        conversation = self._dialogue.conversation
        opened = self._dialogue.notes(conversation.turn).opened
        if conversation.lives(conversation.turn) and not opened.is_set():
            conversation.withdraw()
            opened.set()
