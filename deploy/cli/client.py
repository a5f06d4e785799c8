"""A client of Parley's WebSocket protocol that does not mind losing its socket.

    say ─> outbox, stream ─> link ─> edge              edge ─> link ─> inbox ─> the iterator

It connects, and whenever the socket is lost, or the edge says that it goes away, it connects again, to the
next of its URLs, resumes the conversation, says again what the server has not, and drops what it holds. Its
user sees one stream: each message that has an address exactly once, in the order of its log, and one end of
each turn, after which nothing more comes of its answer. What has no address (`audio_ack`, `speech_stopped` …)
may be lost with a socket.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from deploy.cli.dialer import Dialer, backoff, pause_after
from deploy.cli.inbox import Inbox
from deploy.cli.link import (
    LEAVING,
    NORMAL,
    OPEN_WITHIN_S,
    REPLACED,
    CannotConnect,
    Link,
    LinkLost,
    Message,
    refusal,
)
from deploy.cli.outbox import Outbox
from deploy.cli.stream import Stream
from edge.protocols.encoding import Encoding
from shared.audio import INPUT_RATE
from shared.errors import ParleyError

log = logging.getLogger(__name__)

PATIENCE_S = 60.0
"""How long a lost conversation is looked for, unless the server says how long it waits for its client."""

WAITING_MESSAGES = 1024
"""What is held for a slow consumer; beyond it the socket is not read, and the server notices."""

Hook = Callable[[Message, float], None]
"""Is called with every message as it comes off a socket, and that monotonic time in seconds."""


class ConversationLost(ParleyError):
    """Raised when the conversation cannot go on here: ended, taken over elsewhere, or out of reach."""


class ParleyClient:
    """One conversation. An async context manager, and an async iterator of the server's messages.

    `urls` are edges, tried in turn. Whatever is said while there is no socket is kept until there is one. On
    leaving the block the conversation is ended.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        encoding: Encoding = Encoding.MSGPACK,
        key: str | None = None,
        on_receive: Hook | None = None,
        patience_s: float | None = None,
    ) -> None:
        self.conversation_id = ""
        self.resume_token = ""
        self.server_config: Mapping[str, Any] = {}
        self.resumes = 0
        """How often the conversation was resumed."""
        self._dialer = Dialer([urls] if isinstance(urls, str) else urls, encoding, key)
        self._on_receive = on_receive
        self._patience_s = patience_s
        self._outbox = Outbox()
        self._stream = Stream()
        self._sending = asyncio.Lock()
        self._inbox = Inbox()
        self._link: Link | None = None
        self._successor: asyncio.Task[Link] | None = None
        self._messages: asyncio.Queue[Message | Exception | None] = asyncio.Queue(WAITING_MESSAGES)
        self._running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Connect. Raises `CannotConnect` at once: patience is for conversations that have begun."""
        link = await self._dialer.once()
        self._noted(link.greeting)
        self._adopt(link)
        self._link = link
        self._running = asyncio.create_task(self._run(link), name="client")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the conversation, if there is a socket to say so on. What was received can still be read."""
        running, self._running = self._running, None
        if running is None:
            return
        link, successor = self._link, self._successor
        self._link = None
        running.cancel()
        await asyncio.wait([running])
        if successor is not None and not successor.cancel() and successor.exception() is None:
            successor.result().cut()
        if link is not None:
            await link.bid_farewell()
        if not self._messages.full():
            self._messages.put_nowait(None)

    def cut(self) -> None:
        """Drop the socket, as a bad network does: the client finds that out, and resumes."""
        if self._link is not None:
            self._link.cut()

    # ---- what the user says

    async def configure(self, **settings: object) -> None:
        """Settings from the next turn on, named as in the protocol. Answered by `configured`.

        Raises `ValueError` for an `input_format` that this client cannot count: only `f32le` and `pcm16`.
        """
        self._outbox.configure(settings)
        await self._flush()

    async def send_audio(self, data: bytes, *, ends: bool = False, **fields: object) -> None:
        """A slice of the utterance, in the configured format; with `ends` the utterance is whole."""
        self._outbox.place = max(self._outbox.place, self._stream.place)
        self._outbox.audio(data, ends=ends, fields=fields)
        await self._flush()

    async def stream(self, data: bytes) -> None:
        """More of an endless input, for `turn_detection` `server_vad`: the server finds the turns in it."""
        self._stream.feed(data, self._outbox.configured_format, self._outbox.place)
        await self._flush()

    async def end_utterance(self) -> None:
        """The utterance is whole: the answer is due."""
        (self._stream if self._stream.place > self._outbox.place else self._outbox).end()
        await self._flush()

    async def send_text(self, text: str) -> None:
        """A typed turn."""
        self._outbox.text(text)
        await self._flush()

    async def interrupt(self, played_ms: float | None = None) -> None:
        """Stop the answer."""
        self._outbox.interrupt(played_ms)
        await self._flush()

    async def report_playback(self, turn: int, played_ms: float) -> None:
        """What the listener has heard of a turn. Lost with a socket: the next report says more."""
        if self._link is not None:
            await self._link.try_to_send({"type": "playback", "turn": turn, "played_ms": played_ms})

    @property
    def url(self) -> str | None:
        """The edge on which the conversation is held now."""
        return self._link.url if self._link else None

    @property
    def unproven(self) -> int:
        """How many messages the server has not been seen to have, without what was streamed."""
        return len(self._outbox)

    @property
    def lost_ms(self) -> float:
        """How much of what was streamed was dropped, because no server took it for too long."""
        return self._stream.lost_samples * 1000 / INPUT_RATE

    # ---- what the server says

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        """The next message. Raises `ConversationLost` when no more can come."""
        if self._running is None and self._messages.empty():
            raise StopAsyncIteration
        message = await self._messages.get()
        if isinstance(message, dict):
            return message
        self._messages.put_nowait(message)  # for whoever asks again
        if message is None:
            raise StopAsyncIteration
        raise message

    async def until(self, *kinds: str) -> Message:
        """The next message of one of these types; those before it are passed over."""
        async for message in self:
            if message["type"] in kinds:
                return message
        raise ConversationLost("the conversation was closed")

    async def _take(self, message: Message) -> None:
        """Hand a message on, unless it came before, or is an answer to nothing that the user said."""
        if message["type"] == "pong" or not self._inbox.hear(message):
            return
        if self._stream.hear(message) and self._outbox.hear(message):
            await self._messages.put(message)

    # ---- one socket after the other

    async def _run(self, link: Link) -> None:
        try:
            while True:
                await self._read(link)
                self._link = None
                link = await self._go_on()
        except ConversationLost as error:
            await self._finish(error)
        except CannotConnect as error:
            await self._finish(ConversationLost(str(error)))
        except Exception as error:
            # The boundary: whoever waits for the next message shall learn why none comes.
            await self._finish(error)

    async def _finish(self, error: Exception) -> None:
        self._link = None
        await self._messages.put(error)

    async def _read(self, link: Link) -> None:
        """Take messages until the link is lost, or given up for its successor."""
        try:
            while (message := await self._next(link)) is not None:
                if message["type"] == "going_away" and self._successor is None:
                    # Speech goes on over this link until the other stands.
                    dialing = self._dialer.insist(self._give_up_at)
                    self._successor = asyncio.create_task(dialing, name="successor")
                await self._take(message)
            await link.close(LEAVING)
        except LinkLost as error:
            log.debug("%s", error)
            if error.code == NORMAL:
                raise ConversationLost("the server has ended the conversation") from None
            if error.code == REPLACED:
                raise ConversationLost("the conversation was resumed somewhere else") from None

    async def _next(self, link: Link) -> Message | None:
        """The next message of the link; `None` once its successor stands. Raises `LinkLost`."""
        if self._successor is None:
            return self._noted(await link.receive())
        receiving = asyncio.ensure_future(link.receive())
        try:
            await asyncio.wait({receiving, self._successor}, return_when=asyncio.FIRST_COMPLETED)
            return self._noted(receiving.result()) if receiving.done() else None
        finally:
            receiving.cancel()

    async def _go_on(self) -> Link:
        """A link on which the conversation goes on. Raises `ConversationLost` and `CannotConnect`."""
        give_up_at = self._give_up_at
        for pause_s in backoff():
            successor, self._successor = self._successor, None
            link = await (successor or self._dialer.insist(give_up_at))
            self._noted(link.greeting)
            try:
                async with asyncio.timeout(OPEN_WITHIN_S):
                    answer = await self._resume(link)
                self._link = link
                break
            except (TimeoutError, LinkLost, CannotConnect) as error:
                log.debug("no resume on %s: %r", link.url, error)
                if isinstance(error, CannotConnect):
                    pause_s = pause_after(error, pause_s)
                    if not error.retryable:
                        raise
                if time.monotonic() + pause_s > give_up_at:
                    raise ConversationLost(f"{link.url} lets nobody resume: {error or 'no answer'}") from None
            finally:
                if self._link is not link:
                    link.cut()
            await asyncio.sleep(pause_s)
        await self._messages.put(answer)
        await self._flush()
        return link

    async def _resume(self, link: Link) -> Message:
        """Ask for the conversation on a new link; the answer. Nothing else can be sent on it before."""
        await link.send(
            {
                "type": "resume",
                "conversation_id": self.conversation_id,
                "resume_token": self.resume_token,
                "after": self._inbox.after,
            }
        )
        answer = self._noted(await link.receive())
        if answer["type"] == "resumed":
            self.resume_token = answer["resume_token"]
            self.resumes += 1
            self._outbox.rewind(answer["turn"], answer["input_samples"])
            self._stream.rewind(answer["input_samples"])
        elif answer.get("code") != "not_found":
            raise refusal(link.url, answer)
        elif self._outbox.turn == 0:
            # Nothing of it stands anywhere: a conversation without a turn is begun again under another name.
            answer = link.greeting
            self._adopt(link)
            self._outbox.restart()
            self._stream.restart()
        else:
            raise ConversationLost(f"{link.url} does not know the conversation any more")
        # The first message proves that the new token came here: the old one is void from then on.
        await link.send({"type": "ping"})
        return answer

    @property
    def _give_up_at(self) -> float:
        patience_s = self._patience_s
        if patience_s is None:
            patience_s = float(self.server_config.get("limits", {}).get("resume_window_s", PATIENCE_S))
        return time.monotonic() + patience_s

    def _adopt(self, link: Link) -> None:
        self.conversation_id = link.greeting["conversation_id"]
        self.resume_token = link.greeting["resume_token"]
        self.server_config = link.greeting["server_config"]

    def _noted(self, message: Message) -> Message:
        if self._on_receive is not None:
            self._on_receive(message, time.monotonic())
        return message

    async def _flush(self) -> None:
        """Send what is due, if there is a socket; what is lost with it is sent again on the next."""
        async with self._sending:
            while self._link is not None:
                message = self._outbox.next() or self._stream.next()
                if message is None or not await self._link.try_to_send(message):
                    return
