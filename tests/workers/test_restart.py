"""Redis dies and forgets its last seconds, a claim and the answer begun among them: its writer goes first."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from deploy.embedded import RedisServer, start_server
from shared import log
from shared.batch import Batch
from shared.errors import StoreError
from shared.keys import GROUP, Role, log_key, work_key
from shared.reader import Reader
from shared.settings import Settings
from shared.store import Store
from shared.wire import Address, Log, ReplyEnd, Token
from tests.conftest import eventually
from tests.workers.conftest import QUICK, Desk, Process, ask, no_job
from tests.workers.replies import Replies
from workers import attempt
from workers.stage import Stage
from workers.turn import Turn, entries_of

WORDS = 200


async def _count(turn: Turn) -> None:
    said = sum(isinstance(entry.payload, Token) for entry in turn.writer.entries)
    for number in range(said, WORDS):
        await turn.writer.append(Token(f"{number} ", (number,)))
        await asyncio.sleep(0.02)
    await turn.writer.append(ReplyEnd("stop", WORDS, 0))


async def _waits(store: Store, worker: bytes) -> bool:
    consumers = await store.call("XINFO", "CONSUMERS", work_key(Role.REPLY), GROUP)
    return worker in [consumer[1] for consumer in consumers]


@asynccontextmanager
async def _worker(url: str, name: str, handler: Replies, **env: str) -> AsyncIterator[None]:
    store = Store(url)
    stage = Stage(Settings.from_env({**QUICK, **env}), store, handler, name)
    task = asyncio.create_task(stage.run())
    try:
        yield
    finally:
        stage.drain()
        await task
        await store.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that may be killed."""
    server = start_server(tmp_path)
    yield server
    server.stop()


async def test_an_answer_whose_claim_was_forgotten_with_its_beginning_is_one_story(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "shared.log")
    monkeypatch.setattr(log, "_BACKOFF_S", (1.8, 1.8))  # none is quicker than who would claim
    store = Store(server.url)
    desk, reader = Desk(store), Reader(store)
    following = asyncio.create_task(reader.run())
    cursor = reader.follow(log_key(desk.conversation, Log.TEXT), Address(1, -1))
    await store.load()
    await desk.ask(1, None, Role.REPLY)
    (file,) = (tmp_path / "appendonlydir").glob("*.incr.aof")
    offered_bytes = file.stat().st_size
    first, second = Replies(_count), Replies(_count)
    heard = []
    # The first has no room left: the offer, which is there again, is for the second.
    async with _worker(server.url, "first", first, MAX_ATTACHED="1"):
        async for entry in entries_of(cursor, 1):
            heard.append(entry.payload)
            if len(heard) == 10:
                async with _worker(server.url, "second", second):
                    await eventually(lambda: _waits(store, b"second"), "the second waits for work")
                    server.kill()
                    os.truncate(file, offered_bytes)
                    await eventually(lambda: "asking again" in caplog.text, "the writer has to wait")
                    server.restart()
                    await eventually(lambda: bool(second.turns), "the second has it")
    assert [entry.text for entry in heard if isinstance(entry, Token)] == [f"{n} " for n in range(WORDS)]
    following.cancel()
    await store.close()


async def test_an_answer_in_one_piece_whose_end_was_forgotten_is_not_made_anew(
    server: RedisServer, tmp_path: Path, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "KEEP_S", 3600.0)
    store, batch = Store(server.url), Batch(server.url)
    desk = Desk(store)

    async def begun() -> bool:
        return len(await desk.read(Log.TEXT, 1)) > 2

    async def done() -> bool:
        with suppress(StoreError):
            return await no_job(store, desk)
        return False

    async with process(url=server.url):
        await ask(desk, batch, 1)
        await eventually(begun, "the reply has begun")
        (file,) = (tmp_path / "appendonlydir").glob("*.incr.aof")
        begun_bytes = file.stat().st_size
        await eventually(lambda: desk.ended(Log.SPEECH, 1), "the answer")
        made = await desk.read(Log.TEXT, 1)
        server.kill()
        os.truncate(file, begun_bytes)
        server.restart()
        await eventually(done, "the job, which is there again, is done")
        assert await desk.read(Log.TEXT, 1) == made
    batch.close()
    await store.close()
