"""A batch turn from its audio to the end of its speech, by one process, with engines of its own.

    audio ─> the LLM worker's part ─> text ─> the TTS worker's part ─> speech

The same handlers as in the workers, one after the other, over the same logs. The engines are loaded at first
use. Knows nothing of rq: who asks for a turn says how it is held.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TypeVar

from shared import heap
from shared.errors import EngineError, SettingsError, StoreError
from shared.keys import log_key
from shared.reader import Reader
from shared.settings import Settings
from shared.store import Store
from shared.wire import Address, Log
from workers.attempt import Attempts, Hold, Part
from workers.llm import engines as llm_engines
from workers.llm.engines import SpeechLM
from workers.llm.handler import ReplyHandler
from workers.tts import engines as tts_engines
from workers.tts.engines import Synthesizer
from workers.tts.handler import SpeechHandler
from workers.turn import Turn

log = logging.getLogger(__name__)

T = TypeVar("T")

IDLE_S = 120.0
"""How long an attempt may wait for something else than its engine: no edge waits for longer."""

BUSY_S = 10.0
"""How long the turn before may keep this one from beginning."""

LET_GO_S = 1.0
"""How long an attempt that is given up may take to let go; what it still writes, the log refuses."""

LOAD_FAILED = "an engine for answers in one piece cannot be loaded: "


class Lost(Exception):
    """Raised when the turn is another process's now."""


class Engines:
    """Both engines, each loaded once, when it is first needed. `told` is called with both, once they are."""

    def __init__(self, settings: Settings, told: Callable[[SpeechLM, Synthesizer], None]) -> None:
        self._settings = settings
        self._told = told
        self._llm: tuple[SpeechLM, str] | None = None
        self._tts: tuple[Synthesizer, str] | None = None
        self._loading: asyncio.Task[dict[Log, Part]] | None = None

    async def parts(self) -> dict[Log, Part]:
        """The handlers, by the log that each writes. Raises `EngineError` `final`: ask again, load again."""
        loading = self._loading
        if loading is None or (loading.done() and (loading.cancelled() or loading.exception())):
            loading = self._loading = asyncio.create_task(self._load(), name="engines")
        # Whoever gives up waiting does not stop it: the next attempt waits for the same.
        return await asyncio.shield(loading)

    async def _load(self) -> dict[Log, Part]:
        # Both at once: a voice that is missing should be known before a reply is made for it.
        settings = self._settings
        if self._llm is None:
            self._llm = await asyncio.to_thread(_loaded, llm_engines.load, settings.llm_engine, settings)
        if self._tts is None:
            self._tts = await asyncio.to_thread(_loaded, tts_engines.load, settings.tts_engine, settings)
        log.info("loaded: llm: %s; tts: %s", self._llm[1], self._tts[1])
        heap.settle()
        self._told(self._llm[0], self._tts[0])
        reply = ReplyHandler(*self._llm, settings.history_tokens, think_ahead=False)
        return {reply.output: reply, SpeechHandler.output: SpeechHandler(*self._tts)}


class _Late:
    """A handler that there is once its engine is loaded."""

    def __init__(self, kind: type[ReplyHandler] | type[SpeechHandler], engines: Engines) -> None:
        self.role = kind.role
        self.output = kind.output
        self.others = kind.others
        self._engines = engines

    async def run(self, turn: Turn) -> None:
        """Load what is not loaded, then do the turn."""
        parts = await self._engines.parts()
        turn.step(computing=False)
        await parts[self.output].run(turn)


class Answering:
    """Answers turns, each as a whole. `reader` must be running; `worker` is this process's name."""

    def __init__(
        self, settings: Settings, store: Store, reader: Reader, engines: Engines, worker: str
    ) -> None:
        self._settings = settings
        self._store = store
        self._reader = reader
        self._worker = worker
        self._parts = (_Late(ReplyHandler, engines), _Late(SpeechHandler, engines))
        self._kept: set[asyncio.Task[bool]] = set()

    async def answer(self, hold: Hold, cause: str) -> None:
        """Do what is left of the turn, until it is final everywhere: whole, closed or failed.

        `cause`: what the first attempt is to the log. Raises `Lost`, and `StoreError` when Redis is gone.
        """
        if not await self._asked(hold):
            return log.info("nobody asks any more: the conversation is gone")
        for part in self._parts:
            attempts = Attempts(self._settings, self._store, self._reader, part, hold, self._worker)
            confirming = asyncio.create_task(attempts.confirm(), name="confirm")
            try:
                await self._carry_out(attempts, cause)
            finally:
                confirming.cancel()
            if attempts.ended:
                self._keep(attempts)
            if attempts.lost:
                raise Lost(f"turn {hold.number} of {hold.conversation} went to another process")
            if attempts.taken:
                cause = "claim"  # The part that failed before has been tried again; the next begins anew.

    def _keep(self, attempts: Attempts) -> None:
        """Keep what was written while Redis may forget it; nobody waits for that."""
        keeping = asyncio.create_task(attempts.keep(asyncio.Event()), name="keep")
        self._kept.add(keeping)
        keeping.add_done_callback(self._kept.discard)

    async def _asked(self, hold: Hold) -> bool:
        """Whether the turn was opened, and that is still remembered: else its utterance never comes."""
        first = str(Address(hold.number, 0))
        return bool(await self._store.call("XRANGE", log_key(hold.conversation, Log.AUDIO), first, first))

    async def _carry_out(self, attempts: Attempts, first: str) -> None:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + BUSY_S
        cause: str | None = first
        while cause is not None:
            if not attempts.taken and loop.time() > give_up_at:
                raise StoreError("the turn before is not final")
            attempt = asyncio.create_task(attempts.make(cause), name="attempt")
            try:
                while not attempt.done() and not self._hangs(attempts):
                    await asyncio.wait({attempt}, timeout=self._settings.stall_s / 4)
            finally:
                if not attempt.done():
                    attempt.cancel()
                    await asyncio.wait({attempt}, timeout=LET_GO_S)
            if attempt.done() and not attempt.cancelled():
                cause = attempt.result()
            else:
                log.warning("nothing moves: the attempt is given up")
                cause = "retry"

    def _hangs(self, attempts: Attempts) -> bool:
        turn = attempts.turn
        return attempts.stalled or (turn is not None and turn.silent_s > IDLE_S)


def _loaded(load: Callable[[str, Settings], T], name: str, settings: Settings) -> T:
    try:
        return load(name, settings)
    except (EngineError, SettingsError) as error:
        retryable = isinstance(error, EngineError) and error.retryable
        raise EngineError(f"{LOAD_FAILED}{error}", retryable=retryable, final=True) from error
    except Exception as error:
        # Whatever a model library raises: this turn cannot be answered, the next may be.
        log.exception("an engine cannot be loaded")
        raise EngineError(f"{LOAD_FAILED}{type(error).__name__}", retryable=True, final=True) from error
