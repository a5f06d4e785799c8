"""The jobs process on a real rq and a real Redis: what it does, what it refuses, and what its death costs."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import zlib
from functools import partial
from typing import Any

import pytest
from rq import Callback, Queue, Retry
from rq.serializers import JSONSerializer
from rq.webhook import Webhook

from shared.batch import FUNCTION, Batch, connect
from shared.errors import EngineError
from shared.keys import BATCH, DEAD, JOBS, batch_key, job_id, log_key, worker_key
from shared.log import close_turn
from shared.settings import DEFAULT_SCRIPT, Settings
from shared.store import Store
from shared.wire import (
    Closed,
    Frame,
    Log,
    Open,
    ReplyEnd,
    Semantic,
    SpeechEnd,
    Take,
    Token,
    new_tag,
)
from tests.conftest import eventually
from tests.workers.conftest import NAME, SCRIPTED, Desk, Process, ask, no_job
from workers.answering import LOAD_FAILED
from workers.jobs import Jobs
from workers.llm import engines as llm_engines
from workers.orders import Order
from workers.tts import engines as tts_engines
from workers.tts.engines.scripted import expected
from workers.tts.handler import SpeechHandler
from workers.turn import Turn


async def bounded(store: Store) -> list[str]:
    """The keys of rq without a TTL."""
    names = [name.decode() for name in await store.call("KEYS", "rq:*")]
    return sorted([name for name in names if await store.call("PTTL", name) < 0])


def speech_of(entries: list[Any]) -> bytes:
    return b"".join(entry.payload.pcm for entry in entries if isinstance(entry.payload, Frame))


async def test_a_turn_is_answered_in_both_logs_and_its_job_forgotten(
    store: Store, desk: Desk, batch: Batch, process: Process
) -> None:
    async with process():
        await ask(desk, batch, 1)
        await eventually(lambda: desk.ended(Log.SPEECH, 1), "the speech")
        await eventually(lambda: no_job(store, desk), "the job is forgotten")
        text, speech = await desk.read(Log.TEXT, 1), await desk.read(Log.SPEECH, 1)
        # Nothing but rq's own lists of names, which it prunes, may live without a TTL.
        assert await bounded(store) == ["rq:queues", "rq:workers", f"rq:workers:{BATCH}"]
    words = [entry.payload.text for entry in text if isinstance(entry.payload, Token)]
    assert tuple(words) == DEFAULT_SCRIPT
    chunks = [entry.payload.text for entry in text if isinstance(entry.payload, Semantic)]
    assert speech_of(speech) == b"".join(
        expected(desk.conversation, 1, number, chunk, 60.0) for number, chunk in enumerate(chunks)
    )
    assert await bounded(store) == ["rq:queues"]


async def test_the_engines_are_loaded_once_and_not_before_they_are_needed(
    store: Store, desk: Desk, batch: Batch, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    for engines in (llm_engines, tts_engines):
        load = engines.load

        def counted(name: str, settings: Settings, load: Any = load, of: str = engines.__name__) -> Any:
            loads.append(of)
            return load(name, settings)

        monkeypatch.setattr(engines, "load", counted)

    async def announced(engine: str) -> bool:
        raw = await store.call("GET", worker_key(NAME))
        said = json.loads(raw) if raw else {}
        return bool(said) and (said["role"], said["engine"]) == (JOBS, engine)

    async with process(LLM_ENGINE="scripted"):
        await eventually(partial(announced, "scripted, scripted"), "the announcement")
        assert loads == []
        for turn in (1, 2, 3):
            await ask(desk, batch, turn)
            await eventually(partial(desk.ended, Log.SPEECH, turn), f"the speech of turn {turn}")
    assert loads == ["workers.llm.engines", "workers.tts.engines"]
    assert await store.call("EXISTS", worker_key(NAME)) == 0


FOREIGN: tuple[tuple[str, tuple[object, ...], dict[str, object]], ...] = (
    ("os.system", ("true",), {}),
    ("workers.jobs.main", (), {}),
    ("tests.workers.test_jobs.never", ("0123456789abcdef", 1), {}),
    (FUNCTION, ("0123456789abcdef",), {}),
    (FUNCTION, ("0123456789abcdef", "1"), {}),
    (FUNCTION, ("0123456789abcdef", 99), {}),
    (FUNCTION, ("}:text{12345678", 1), {}),
    (FUNCTION, ("0123456789abcdef", 8), {"also": "this"}),
)


async def test_what_is_no_turn_is_refused_and_nothing_is_called(
    store: Store, desk: Desk, batch: Batch, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[object] = []
    monkeypatch.setattr("rq.job.import_attribute", called.append)
    monkeypatch.setattr("os.system", called.append)
    with connect(store.url) as connection, socket.create_server(("127.0.0.1", 0)) as hook:
        hook.setblocking(False)
        webhook = Webhook(f"http://127.0.0.1:{hook.getsockname()[1]}/", "failed")
        queue = Queue(BATCH, connection=connection, serializer=JSONSerializer)
        foreign = [
            queue.enqueue_call(
                function,
                args=args,
                kwargs=kwargs,
                job_id=f"0123456789abcdef-{number}",
                on_success=Callback("os.abort"),
                on_failure=Callback("os.abort"),
                retry=Retry(max=5),
                webhooks=[webhook],
            )
            for number, (function, args, kwargs) in enumerate(FOREIGN, start=1)
        ]
        async with process():
            await ask(desk, batch, 1)
            await eventually(lambda: desk.ended(Log.SPEECH, 1), "the turn behind them")
        assert [job.get_status() for job in foreign] == ["failed"] * len(FOREIGN)
        with pytest.raises(BlockingIOError):
            hook.accept()
    assert called == []
    for job in foreign:
        assert 0 < await store.call("TTL", job.key) <= 600
    assert await store.call("KEYS", "conv:*0123456789abcdef*") == []


async def test_jobs_that_cannot_be_read_keep_nobody_from_anything(
    store: Store, desk: Desk, batch: Batch, process: Process
) -> None:
    pieces = (b"no json", b"{}", b'"x"', b"\x80\x04N.", b"[1, 2, 3, 4]", b"null")
    for number, data in enumerate(pieces, start=1):
        job = f"0123456789abcdef-{number}"
        packed = zlib.compress(data) if number % 2 else data
        await store.call("HSET", Order.key_for(job), "data", packed, "status", "queued", "origin", BATCH)
        await store.call("RPUSH", batch_key(), job)
    for job, field in (("a-1", "status"), ("b-1", "created_at"), ("c c", "data")):
        await store.call("HSET", Order.key_for(job), "data", b"[]", field, "nonsense")
        await store.call("RPUSH", batch_key(), job)
    async with process():
        await ask(desk, batch, 1)
        await eventually(lambda: desk.ended(Log.SPEECH, 1), "the turn behind them")


async def test_a_job_is_of_this_queue_whatever_it_says(
    store: Store, desk: Desk, batch: Batch, process: Process
) -> None:
    job = "0123456789abcdef-1"
    forged = ("status", "queued", "origin", "elsewhere", "data", b'["os.system", null, [], {}]')
    await store.call("HSET", Order.key_for(job), *forged)
    await store.call("RPUSH", batch_key(), job)
    async with process():
        await ask(desk, batch, 1)
        await eventually(lambda: desk.ended(Log.SPEECH, 1), "the turn behind it")
    assert await store.call("KEYS", "rq:*:elsewhere") == []
    assert await store.call("ZSCORE", f"rq:failed:{BATCH}", job) is not None


async def test_a_failure_closes_the_turn_for_the_client_and_leaves_a_dead_letter(
    store: Store, desk: Desk, batch: Batch, process: Process
) -> None:
    async with process():
        await ask(desk, batch, 1, Open(voice="nobody", batch=True))
        await eventually(lambda: desk.ended(Log.SPEECH, 1), "the turn is closed")
        await eventually(lambda: no_job(store, desk), "the job is forgotten")
    closed = (await desk.read(Log.SPEECH, 1))[-1].payload
    assert isinstance(closed, Closed)
    assert (closed.reason, closed.code, closed.retryable) == ("failed", "engine_failed", False)
    assert closed.message is not None and "nobody" in closed.message
    ((_, fields),) = await store.call("XRANGE", DEAD, "-", "+")
    assert desk.conversation.encode() in fields


async def test_an_engine_that_cannot_be_loaded_fails_this_turn_and_is_tried_again_at_the_next(
    desk: Desk, batch: Batch, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = tts_engines.load

    def fail(name: str, settings: Settings) -> Any:
        monkeypatch.setattr(tts_engines, "load", load)
        raise EngineError("no weights of Kokoro here", retryable=False)

    monkeypatch.setattr(tts_engines, "load", fail)
    async with process():
        await ask(desk, batch, 1)
        for log in (Log.TEXT, Log.SPEECH):
            await eventually(partial(desk.ended, log, 1), "the turn is closed")
            closed = (await desk.read(log, 1))[-1].payload
            assert isinstance(closed, Closed) and closed.code == "engine_failed"
            assert closed.message == LOAD_FAILED + "no weights of Kokoro here"
        await ask(desk, batch, 2)
        await eventually(lambda: desk.ended(Log.SPEECH, 2), "the speech")
    assert isinstance((await desk.read(Log.SPEECH, 2))[-1].payload, SpeechEnd)


async def left_by_the_dead(store: Store, desk: Desk, batch: Batch, words: int) -> None:
    """What stands in Redis when a process of this name was killed in the middle of a reply."""
    await ask(desk, batch, 1)
    job = job_id(desk.conversation, 1)
    await store.call("LREM", batch_key(), 0, job)
    await store.call("HSET", Order.key_for(job), "status", "started", "worker_name", NAME)
    await store.call("PERSIST", Order.key_for(job))
    await store.call("ZADD", f"rq:wip:{BATCH}", 9_999_999_999, f"{job}:abc")
    await store.call("HSET", f"rq:worker:{NAME}", "birth", "2026-01-01T00:00:00.000000Z")
    dead = desk.writer(Log.TEXT, 1, "dead")
    await dead.take("claim", NAME)
    for number, word in enumerate(DEFAULT_SCRIPT[:words]):
        await dead.append(Token(word, (number,)))


async def test_what_a_dead_process_left_is_gone_on_with_by_its_next_life(
    store: Store, desk: Desk, batch: Batch, process: Process
) -> None:
    await left_by_the_dead(store, desk, batch, words=5)
    async with process():
        await eventually(lambda: desk.ended(Log.SPEECH, 1), "the speech")
        await eventually(lambda: no_job(store, desk), "the job is forgotten")
    text = await desk.read(Log.TEXT, 1)
    assert tuple(e.payload.text for e in text if isinstance(e.payload, Token)) == DEFAULT_SCRIPT
    takes = [entry.payload.cause for entry in text if isinstance(entry.payload, Take)]
    assert takes == ["claim", "retry"]
    speech = await desk.read(Log.SPEECH, 1)
    assert [e.payload.cause for e in speech if isinstance(e.payload, Take)] == ["claim"]
    assert await store.call("ZCARD", f"rq:wip:{BATCH}") == 0


async def test_a_turn_whose_processes_die_again_and_again_is_closed_as_failed(
    store: Store, desk: Desk, batch: Batch, process: Process
) -> None:
    await left_by_the_dead(store, desk, batch, words=0)
    for _ in range(2):
        await desk.writer(Log.TEXT, 1, new_tag()).take("retry", NAME)
    async with process():
        await eventually(lambda: desk.ended(Log.SPEECH, 1), "the turn is closed")
    closed = (await desk.read(Log.TEXT, 1))[-1].payload
    assert isinstance(closed, Closed) and closed.message == "3 attempts failed"


async def test_an_attempt_whose_engine_hangs_is_given_up_and_made_again(
    desk: Desk, batch: Batch, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = SpeechHandler.run
    hung: list[Turn] = []

    async def hang_once(self: SpeechHandler, turn: Turn) -> None:
        if not hung:
            hung.append(turn)
            turn.step()
            await asyncio.Event().wait()
        await run(self, turn)

    monkeypatch.setattr(SpeechHandler, "run", hang_once)
    async with process():
        await ask(desk, batch, 1)
        await eventually(lambda: desk.ended(Log.SPEECH, 1), "the speech")
    takes = [e.payload.cause for e in await desk.read(Log.SPEECH, 1) if isinstance(e.payload, Take)]
    assert takes == ["claim", "retry"]


async def test_a_drain_finishes_what_runs(store: Store, desk: Desk, batch: Batch, process: Process) -> None:
    async with process() as jobs:
        await ask(desk, batch, 1)

        async def begun() -> bool:
            return bool(await desk.read(Log.TEXT, 1))

        await eventually(begun, "the job runs")
        jobs.drain()
    assert isinstance((await desk.read(Log.TEXT, 1))[-1].payload, ReplyEnd)
    assert await desk.ended(Log.SPEECH, 1) and await no_job(store, desk)


async def test_what_a_drain_leaves_no_time_for_is_put_back_and_gone_on_with(
    store: Store, desk: Desk, batch: Batch, process: Process
) -> None:
    async with process(DRAIN_S="0", SCRIPT_INTER_TOKEN_MS="200"):
        await ask(desk, batch, 1)

        async def talking() -> bool:
            return len(await desk.read(Log.TEXT, 1)) > 2

        await eventually(talking, "a reply")
        assert await bounded(store) == ["rq:queues", "rq:wip:batch", "rq:workers", f"rq:workers:{BATCH}"]
    assert await store.call("LRANGE", batch_key(), 0, -1) == [job_id(desk.conversation, 1).encode()]
    assert 0 < await store.call("TTL", Order.key_for(job_id(desk.conversation, 1))) <= 600
    async with process(name="test.jobs.2"):
        await eventually(lambda: desk.ended(Log.SPEECH, 1), "the speech")
    text = await desk.read(Log.TEXT, 1)
    assert [e.payload.cause for e in text if isinstance(e.payload, Take)] == ["claim", "handback"]
    assert tuple(e.payload.text for e in text if isinstance(e.payload, Token)) == DEFAULT_SCRIPT


async def test_a_turn_that_was_closed_ends_its_job(
    store: Store, desk: Desk, batch: Batch, process: Process
) -> None:
    async with process(SCRIPT_INTER_TOKEN_MS="200"):
        await ask(desk, batch, 1)

        async def talking() -> bool:
            return len(await desk.read(Log.TEXT, 1)) > 2

        await eventually(talking, "a reply")
        keys = [log_key(desk.conversation, log) for log in (Log.TEXT, Log.SPEECH)]
        await close_turn(store, keys, 1, desk.tag, Closed("barge_in"), ttl_s=60)
        await eventually(lambda: no_job(store, desk), "the job is forgotten")
    assert await store.call("EXISTS", DEAD) == 0


async def test_a_job_whose_conversation_is_gone_holds_nobody_up(
    store: Store, desk: Desk, batch: Batch, process: Process
) -> None:
    gone = Desk(store)
    # It would wait for that long, and longer than this test, for somebody to speak.
    async with process(RESUME_WINDOW_S="3600"):
        await asyncio.to_thread(batch.enqueue, gone.conversation, 1)
        await ask(desk, batch, 1)
        await eventually(lambda: desk.ended(Log.SPEECH, 1), "the turn behind it")
        assert await no_job(store, gone)
    assert await store.call("KEYS", f"conv:{{{gone.conversation}}}:*") == []


async def test_a_job_that_another_process_has_now_is_left_to_it(
    store: Store, desk: Desk, batch: Batch, process: Process
) -> None:
    """As when Redis was away for so long that an edge took this process for dead."""
    key = Order.key_for(job_id(desk.conversation, 1))
    async with process(SCRIPT_INTER_TOKEN_MS="100"):
        await ask(desk, batch, 1)

        async def talking() -> bool:
            return len(await desk.read(Log.TEXT, 1)) > 2

        await eventually(talking, "a reply")
        await store.call("HSET", key, "worker_name", "another")
        other = desk.writer(Log.TEXT, 1, "another")
        await other.take("retry", "another")

        async def let_go() -> bool:
            return not await store.call("ZCARD", f"rq:wip:{BATCH}")

        await eventually(let_go, "this process lets it go")
        assert await store.call("HGET", key, "worker_name") == b"another"
    assert not await desk.ended(Log.TEXT, 1)
    takes = [e.payload.worker for e in await desk.read(Log.TEXT, 1) if isinstance(e.payload, Take)]
    assert takes == [NAME, "another"]


async def test_a_job_that_a_living_process_has_is_not_done_twice(
    store: Store, desk: Desk, batch: Batch, process: Process
) -> None:
    await ask(desk, batch, 1)
    job = job_id(desk.conversation, 1)
    await store.call("HSET", Order.key_for(job), "status", "started", "worker_name", "another")
    await store.call("SET", worker_key("another"), "{}")
    async with process():

        async def passed_over() -> bool:
            lists = (batch_key(), f"{batch_key()}:intermediate")
            return [await store.call("LLEN", each) for each in lists] == [0, 0]

        await eventually(passed_over, "the job is passed over")
        assert await store.call("HGET", Order.key_for(job), "worker_name") == b"another"
    assert await desk.read(Log.TEXT, 1) == []


async def test_it_waits_for_redis(store: Store, batch: Batch) -> None:
    settings = Settings.from_env(SCRIPTED)
    jobs = Jobs(settings, "redis://127.0.0.1:1", NAME)
    thread = threading.Thread(target=jobs.run)
    thread.start()
    assert thread.is_alive()
    jobs.drain()
    await asyncio.to_thread(thread.join)
