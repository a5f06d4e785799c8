"""The edge's part in the tests of workers, which opens turns, and the workers, which run in this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from shared.batch import Batch
from shared.hold import new_conversation
from shared.keys import GROUP, MAX_TURN_BYTES, Role, index_key, job_id, log_key, session_key, work_key
from shared.log import LogWriter, read_log
from shared.settings import Settings
from shared.store import Store
from shared.wire import Address, Chunk, Entry, Log, Open, UtteranceEnd, new_tag
from shared.work import offer
from tests.conftest import WITHIN_S
from workers import attempt
from workers.handler import Handler
from workers.jobs import Jobs
from workers.orders import Order
from workers.stage import Stage

QUICK = {
    "LEASE_S": "0.4",
    "STALL_S": "0.5",
    "DRAIN_S": "5",
    "SCRIPT_FIRST_TOKEN_MS": "20",
    "SCRIPT_INTER_TOKEN_MS": "5",
    "SCRIPT_TTS_MS": "5",
}

SCRIPTED = {**QUICK, "LLM_ENGINE": "scripted", "TTS_ENGINE": "scripted"}

NAME = "test.jobs.1"
"""The name of the jobs process."""

Running = Callable[..., AbstractAsyncContextManager[Stage]]
Process = Callable[..., AbstractAsyncContextManager[Jobs]]


class Desk:
    """One conversation as its edge session has it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.conversation = new_conversation()
        self.tag = new_tag()

    def writer(self, log: Log, turn: int, tag: str | None = None) -> LogWriter:
        """A writer of one turn of one log; without a tag, the session's own."""
        key = log_key(self.conversation, log)
        return LogWriter(
            self.store, key, turn, tag or self.tag, max_turn_bytes=MAX_TURN_BYTES[log], ttl_s=120
        )

    async def hold(self) -> None:
        """Hold the session's lease."""
        await self.store.call("SET", session_key(self.conversation), self.tag, "PX", 60_000)

    async def ask(self, turn: int, settings: Open | None = None, *roles: Role) -> None:
        """A turn of a tenth of a second of silence, offered to both roles or to those given."""
        await self.hold()
        chunk = Chunk(0, bytes(3200))
        await self.writer(Log.AUDIO, turn).append(settings or Open(), chunk, UtteranceEnd("client", 1600))
        await offer(self.store, roles or tuple(Role), self.conversation, turn)

    async def read(self, log: Log, turn: int) -> list[Entry]:
        """What stands in a log for one turn."""
        return await read_log(self.store, log_key(self.conversation, log), Address(turn, 0), turn)

    async def ended(self, log: Log, turn: int) -> bool:
        """Whether the turn is final in that log."""
        entries = await self.read(log, turn)
        return bool(entries) and entries[-1].final


async def nothing_is_pending(store: Store) -> bool:
    """Whether all work of the LLM workers is done."""
    stream = work_key(Role.REPLY)
    length = await store.call("XLEN", stream)
    fields = await store.call("HLEN", index_key(Role.REPLY))
    pending = await store.call("XPENDING", stream, GROUP)
    return (length, fields, pending[0]) == (0, 0, 0)


@pytest.fixture(autouse=True)
def soon_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that do not keep what they have written: most tests wait until a turn is done."""
    monkeypatch.setattr(attempt, "KEEP_S", 0.0)


@pytest.fixture
def desk(store: Store) -> Desk:
    """A conversation."""
    return Desk(store)


@pytest.fixture
def settings() -> Settings:
    """Quick scripted engines and a short lease."""
    return Settings.from_env(QUICK)


@pytest.fixture
async def running(store: Store) -> AsyncIterator[Running]:
    """Runs a stage over a handler, with other settings if need be, and drains it at the end of the block."""

    @asynccontextmanager
    async def run(handler: Handler, name: str = "test", **env: str) -> AsyncIterator[Stage]:
        stage = Stage(Settings.from_env({**QUICK, **env}), store, handler, name)
        task = asyncio.create_task(stage.run())
        try:
            yield stage
        finally:
            stage.drain()
            await task

    yield run


@pytest.fixture
def batch(redis_url: str) -> Iterator[Batch]:
    """The queue of batch turns as an edge has it."""
    batch = Batch(redis_url)
    yield batch
    batch.close()


@pytest.fixture
async def process(redis_url: str) -> AsyncIterator[Process]:
    """Runs a jobs process in a thread, and drains it at the end of the block."""

    @asynccontextmanager
    async def run(name: str = NAME, url: str = redis_url, **env: str) -> AsyncIterator[Jobs]:
        jobs = Jobs(Settings.from_env({**SCRIPTED, **env}), url, name)
        thread = threading.Thread(target=jobs.run, daemon=True)
        thread.start()
        try:
            yield jobs
        finally:
            jobs.drain()
            await asyncio.to_thread(thread.join, WITHIN_S)
        assert not thread.is_alive()

    yield run


async def ask(desk: Desk, batch: Batch, turn: int, settings: Open | None = None) -> None:
    """A batch turn as an edge asks for it."""
    await desk.hold()
    utterance = (Chunk(0, bytes(3200)), UtteranceEnd("client", 1600))
    await desk.writer(Log.AUDIO, turn).append(settings or Open(batch=True), *utterance)
    await asyncio.to_thread(batch.enqueue, desk.conversation, turn)


async def no_job(store: Store, desk: Desk, turn: int = 1) -> bool:
    """Whether nothing is left of a batch turn's job."""
    return not await store.call("EXISTS", Order.key_for(job_id(desk.conversation, turn)))
