"""An engine whose answer says what it heard, to the byte, and a worker that does one turn with it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator

from shared.errors import EngineError
from shared.keys import Role
from shared.reader import Reader
from shared.settings import Settings
from shared.store import Store
from shared.wire import Token
from tests.workers.conftest import QUICK, Desk
from workers.attempt import Attempts
from workers.llm.engines import ReplyRequest, whole_reply
from workers.llm.handler import ReplyHandler
from workers.llm.history import Exchange

WORDS = 6

LETTERS = str.maketrans("0123456789", "ghijklmnop")
"""A full stop behind a digit may be a number's."""


def answer_to(pcm: bytes) -> list[str]:
    """The tokens of the answer to an utterance: no other has the same."""
    digest = hashlib.sha256(pcm).hexdigest().translate(LETTERS)
    words = [f" {digest[place * 8 : place * 8 + 8]}" for place in range(WORDS)]
    return [*words[:2], ".", *words[2:], "."]


class Hearing:
    """Counts what is asked of it, fails where it is told to, and waits for `go` before its first token."""

    name = "hearing"

    def __init__(self) -> None:
        self.spare = True
        self.slots: int | None = None
        self.go = asyncio.Event()
        self.go.set()
        self.begun = 0
        """Streams that were begun."""
        self.open = 0
        """Streams that are not closed."""
        self.heard: list[bytes] = []
        """What was heard to its end, or to what seemed so."""
        self.listening = bytearray()
        """What the stream that was begun last has heard so far."""
        self.said = 0
        """Tokens, in all streams."""
        self.failures: dict[int, int] = {}
        """Streams that fail, and before which of their tokens; -1: while they listen."""

    async def process_chunked_streaming(
        self, request: ReplyRequest, audio: AsyncIterator[bytes]
    ) -> AsyncGenerator[Token, None]:
        """The answer to what was heard."""
        fails_at = self.failures.get(self.begun)
        self.begun += 1
        self.open += 1
        self.listening = heard = bytearray()
        try:
            async for pcm in audio:
                heard += pcm
                if fails_at == -1:
                    raise EngineError("deaf", retryable=True)
            self.heard.append(bytes(heard))
            await self.go.wait()
            texts = answer_to(bytes(heard))
            for place in range(len(request.spoken), len(texts)):
                if fails_at == place:
                    raise EngineError("out of breath", retryable=True)
                self.said += 1
                yield Token(texts[place], (place,))
                await asyncio.sleep(0)
        finally:
            try:
                await asyncio.sleep(0)  # to close takes its time, and may be cancelled
            finally:
                self.open -= 1

    async def process_realtime_chunk(self, request: ReplyRequest, audio: bytes) -> str:
        """The whole answer."""
        return await whole_reply(self, request, audio)

    def cost(self, exchange: Exchange) -> int:
        """Nothing."""
        return 0


class Worker:
    """One worker's attempts at the first turn of a conversation, as its stage makes them."""

    def __init__(
        self, store: Store, reader: Reader, desk: Desk, engine: Hearing, *, think_ahead: bool = True
    ) -> None:
        self.conversation, self.number = desk.conversation, 1
        self.engine = engine
        self.handler = ReplyHandler(engine, "", think_ahead=think_ahead)
        self.owner = True
        """Whether the claim is its own."""
        self.attempts = Attempts(Settings.from_env(QUICK), store, reader, self.handler, self, "worker")
        self.made = 0
        """Attempts."""
        self.left = False
        self._task: asyncio.Task[None] | None = None

    def begin(self, cause: str = "claim") -> None:
        """Take the turn up."""
        self._task = asyncio.create_task(self._work(cause))

    async def leave(self) -> None:
        """Drop the turn, as a worker does that drains or has lost it."""
        assert self._task is not None
        self.left = True
        self._task.cancel()
        await asyncio.wait([self._task])

    async def done(self) -> None:
        """Wait until nothing more is to be done."""
        assert self._task is not None
        await self._task

    @property
    def counts(self) -> tuple[int, int]:
        """Answers that were begun at a pause, and those that were thrown away."""
        counts = self.handler.counts()
        return counts["started_ahead"], counts["wasted_starts"]

    async def stands(self) -> bool:
        """Whether the claim is still its own."""
        return self.owner

    async def bury(self, role: Role, reason: str) -> None:
        """No turn of these tests fails for good."""
        raise AssertionError(reason)

    async def _work(self, cause: str | None) -> None:
        while cause is not None:
            self.made += 1
            cause = await self.attempts.make(cause)
