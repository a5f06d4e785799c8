"""The jobs process while Redis refuses, loses or goes away: it waits, and goes on with the engines it has."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import redis
from rq import SimpleWorker

from shared.batch import Batch, connect
from shared.keys import BATCH, batch_key, log_key, worker_key
from shared.store import Store
from shared.wire import Address, Log
from tests.conftest import eventually
from tests.proxy import Proxy
from tests.shared.support import forget_from
from tests.workers.conftest import NAME, Desk, Process, ask, no_job
from workers import attempt
from workers.llm import engines as llm_engines
from workers.orders import Order

ON_THE_WAY = f"{batch_key()}:intermediate"
JOB = "0123456789abcdef-1"
WAITING = "waiting for redis"


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The engines that were loaded for replies."""
    names: list[str] = []
    load = llm_engines.load

    def counted(name: str, *args: Any) -> Any:
        names.append(name)
        return load(name, *args)

    monkeypatch.setattr(llm_engines, "load", counted)
    return names


@contextmanager
def no_memory(url: str) -> Iterator[None]:
    """Redis is at its `maxmemory`."""
    with connect(url) as client:
        client.config_set("maxmemory", 1)
        try:
            yield
        finally:
            client.config_set("maxmemory", 0)


async def answered(desk: Desk, batch: Batch, turn: int) -> None:
    """Ask as an edge does, again and again, until the turn is answered."""

    async def done() -> bool:
        await asyncio.to_thread(batch.enqueue, desk.conversation, turn)
        return await desk.ended(Log.SPEECH, turn)

    await eventually(done, f"the speech of turn {turn}")


async def test_at_maxmemory_it_waits_and_recovers_by_itself(
    store: Store,
    desk: Desk,
    batch: Batch,
    process: Process,
    loads: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with process():
        await ask(desk, batch, 1)
        await answered(desk, batch, 1)
        with no_memory(store.url):
            await eventually(lambda: WAITING in caplog.text, "it waits")

            async def silent() -> bool:
                return not await store.call("EXISTS", worker_key(NAME))

            await eventually(silent, "nobody sends it any more")
        await ask(desk, batch, 2)
        await answered(desk, batch, 2)
    assert loads == ["scripted"]


async def test_a_turn_that_finds_no_memory_is_gone_on_with(
    store: Store,
    desk: Desk,
    batch: Batch,
    process: Process,
    loads: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with process(SCRIPT_INTER_TOKEN_MS="50"):
        await ask(desk, batch, 1)

        async def talking() -> bool:
            return len(await desk.read(Log.TEXT, 1)) > 2

        await eventually(talking, "a reply")
        with no_memory(store.url):
            await eventually(lambda: WAITING in caplog.text, "it waits")
        await answered(desk, batch, 1)
    assert loads == ["scripted"]


async def test_what_rq_could_not_note_of_a_turn_costs_neither_the_process_nor_the_job(
    store: Store,
    desk: Desk,
    batch: Batch,
    process: Process,
    loads: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    errors = [redis.ConnectionError("cut off"), redis.ReadOnlyError("READONLY")]
    heartbeat = Order.heartbeat

    def cut_off(self: Order, *args: Any, **named: Any) -> None:
        # After the turn, and again when rq notes that this failed.
        if self.ended_at is not None and errors:
            raise errors.pop()
        heartbeat(self, *args, **named)

    monkeypatch.setattr(Order, "heartbeat", cut_off)
    async with process():
        for turn in (1, 2):
            await ask(desk, batch, turn)
            await eventually(partial(desk.ended, Log.SPEECH, turn), f"the speech of turn {turn}")
            await eventually(partial(no_job, store, desk, turn), "the job is forgotten")
    assert (errors, loads) == ([], ["scripted"])


async def test_a_failure_that_rq_only_logs_costs_no_job(
    store: Store, desk: Desk, batch: Batch, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the connection is cut while rq notes a failure: to edges the job stays in good hands."""
    errors = [redis.ConnectionError("cut off")]
    succeed = SimpleWorker.handle_job_success

    def cut_off(self: SimpleWorker, *args: Any, **named: Any) -> None:
        if errors:
            raise errors.pop()
        succeed(self, *args, **named)

    monkeypatch.setattr(SimpleWorker, "handle_job_success", cut_off)
    monkeypatch.setattr(SimpleWorker, "handle_job_failure", lambda *_, **__: None)
    async with process():
        await ask(desk, batch, 1)
        await eventually(partial(no_job, store, desk, 1), "the job is forgotten")
    assert errors == []


async def test_it_drains_while_redis_is_away(
    store: Store, desk: Desk, batch: Batch, process: Process, caplog: pytest.LogCaptureFixture
) -> None:
    async with Proxy(store.url) as proxy:
        async with process(url=proxy.url):
            await ask(desk, batch, 1)
            await answered(desk, batch, 1)
            proxy.refusing = True
            proxy.cut()
            await eventually(lambda: WAITING in caplog.text, "it waits")
        await eventually(lambda: not proxy.connected, "it has hung up")


async def test_a_job_whose_way_is_cut_off_is_done_all_the_same(
    store: Store, desk: Desk, batch: Batch, process: Process
) -> None:

    async def blocked() -> bool:
        return b"cmd=blmove" in await store.call("CLIENT", "LIST")

    async with Proxy(store.url) as proxy:
        # Its heartbeats are rare: the reply that is lost is the one that brings the job.
        async with process(url=proxy.url, LEASE_S="60"):
            await eventually(blocked, "it waits for a job")
            proxy.lose_replies()
            await ask(desk, batch, 1)
            await eventually(lambda: not proxy.losing, "the reply is lost")
            await eventually(lambda: desk.ended(Log.SPEECH, 1), "the speech")
        await eventually(lambda: not proxy.connected, "it has hung up")


POISON: dict[str, tuple[str | bytes | int, ...]] = {
    "no text, on its way": ("RPUSH", ON_THE_WAY, b"\xff\xfe"),
    "no text": ("RPUSH", batch_key(), b"\xff\xfe"),
    "no turn": ("RPUSH", batch_key(), "no turn"),
    "no execution": ("ZADD", f"rq:wip:{BATCH}", 1, "a:b:c"),
    "no hash, on its way": ("RPUSH", ON_THE_WAY, JOB),
    "no hash": ("RPUSH", batch_key(), JOB),
    "no list of rq": ("SET", f"rq:finished:{BATCH}", "no list"),
}


@pytest.mark.parametrize("spoil", POISON.values(), ids=POISON)
async def test_what_cannot_be_read_keeps_it_from_nothing(
    spoil: tuple[str | bytes | int, ...], store: Store, desk: Desk, batch: Batch, process: Process
) -> None:
    await store.call("SET", Order.key_for(JOB), "no hash")
    await store.call(*spoil)
    async with process():
        await ask(desk, batch, 1)
        await eventually(lambda: desk.ended(Log.SPEECH, 1), "the turn behind it")
        await eventually(lambda: no_job(store, desk), "the job is forgotten")
        lists = [await store.call("LRANGE", each, 0, -1) for each in (batch_key(), ON_THE_WAY)]
    assert lists == [[], []]


async def test_what_redis_forgets_of_an_answer_in_one_piece_is_written_again(
    store: Store, desk: Desk, batch: Batch, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "KEEP_S", 3600.0)
    monkeypatch.setattr(attempt, "CONFIRM_S", 0.05)
    async with process():
        await ask(desk, batch, 1)
        await answered(desk, batch, 1)
        await eventually(lambda: no_job(store, desk), "the job is forgotten")
        for log in (Log.TEXT, Log.SPEECH):
            written = await desk.read(log, 1)
            await forget_from(store, log_key(desk.conversation, log), Address(1, 2))
            await eventually(partial(desk.ended, log, 1), f"the {log} again")
            again = await desk.read(log, 1)
            assert [e.payload for e in again] == [e.payload for e in written]


async def test_what_redis_forgets_of_an_answer_that_is_being_made_is_written_again(
    store: Store, desk: Desk, batch: Batch, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "CONFIRM_S", 0.05)

    async def talks() -> bool:
        return len(await desk.read(Log.TEXT, 1)) > 1

    async with process(SCRIPT_INTER_TOKEN_MS="60000", STALL_S="60", DRAIN_S="1"):
        await ask(desk, batch, 1)
        await eventually(talks, "the first token")
        await forget_from(store, log_key(desk.conversation, Log.TEXT), Address(1, 0))
        await eventually(talks, "the first token again")
