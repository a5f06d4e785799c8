"""`python -m workers.jobs`: one jobs process. It takes batch turns from rq's queue, one at a time.

    main thread: rq ─ job ─> waits, beats, drains
    event loop in a thread: Store, Reader ─> Answering ─> text, speech

Its death costs a turn nothing but time: its next life enqueues again what it held, and so does the edge that
waits, if there is none. An error of Redis is to rq a death, and here a pause: the engines stay.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import redis
import uvloop

from shared import heap, logs
from shared.batch import Batch, connect
from shared.errors import ParleyError, StoreError
from shared.keys import JOBS, Role, job_id
from shared.reader import Reader
from shared.settings import Settings, load, redis_url
from shared.store import Store
from shared.work import Announcement, Heartbeat, bury
from workers.answering import Answering, Engines, Lost
from workers.llm.engines import SpeechLM
from workers.orders import Order, Orders
from workers.process import OFFLINE, REDIS_WAIT_S
from workers.stage import WAITING_LINE_S, WRITERS_FIRST_S
from workers.tts.engines import Synthesizer

log = logging.getLogger(__name__)

T = TypeVar("T")

LOOK_S = 0.1
"""How often it is looked, while a job runs or nothing is taken, whether the process drains."""

AGAIN_S = 0.5
"""The pause before Redis is tried again that did not answer, or refused."""

KEEP_S = 10.0
"""How often rq is told, while a job runs, that it does."""

STOP_S = 2.0
"""How long what runs on the event loop may take to let go at the end."""


class _Held:
    """A turn that is this process's as long as rq says so."""

    def __init__(self, store: Store, worker: str, conversation: str, number: int) -> None:
        self.conversation, self.number = conversation, number
        self._store = store
        self._worker = worker

    async def stands(self) -> bool:
        """Whether no other process has taken the job. Raises `StoreError`."""
        key = Order.key_for(job_id(self.conversation, self.number))
        worker = await self._store.call("HGET", key, "worker_name")
        return worker in (None, b"", self._worker.encode())

    async def bury(self, role: Role, reason: str) -> None:
        """Leave a dead letter. Raises `StoreError`."""
        await bury(self._store, role, self.conversation, self.number, reason)


class Jobs:
    """The jobs process. `name` is stable over its restarts."""

    def __init__(self, settings: Settings, url: str, name: str) -> None:
        self._settings = settings
        self._url = url
        self._name = name
        self._drain_until: float | None = None
        self._run: str | None = None
        self._said_at = -math.inf
        self._orders: Orders | None = None
        self._running: str | None = None
        self._loop: asyncio.AbstractEventLoop
        self._answering: Answering
        self._store: Store
        self._heartbeat: Heartbeat

    def drain(self) -> None:
        """Take no more jobs; finish what runs within `DRAIN_S`, else put it back. As a signal handler may."""
        if self._drain_until is None:
            self._drain_until = time.monotonic() + self._settings.drain_s
        if self._orders is not None:
            self._orders.drain()

    def run(self) -> None:
        """Work until `drain`. Blocks."""
        if not self._reach_redis():
            return
        with _loop_in_a_thread() as self._loop, connect(self._url) as connection:
            self._submit(self._set_up()).result()
            self._heartbeat.start()
            log.info("ready: %s", self._heartbeat.announcement.reason)
            try:
                while self._reach_redis():
                    self._let_writers_go_first(connection)
                    self._take_orders(connection)
            finally:
                self._heartbeat.stop()

    def _reach_redis(self) -> bool:
        """Wait for Redis, and enqueue again what was left by the last process of this name; false on drain.

        Nothing of this one's is at work meanwhile: what stands there in its name, it has lost as well.
        """
        while self._drain_until is None:
            batch = Batch(self._url)
            try:
                left = batch.put_back(self._name)
            except StoreError as error:
                self._wait_for_redis(error)
                continue
            finally:
                batch.close()
            if left:
                log.info("enqueued again what was left: %d", left)
            return True
        return False

    def _let_writers_go_first(self, connection: redis.Redis) -> None:
        """What Redis forgot of a turn and its job, its writer writes again: meanwhile nobody does it anew."""
        try:
            before, self._run = self._run, str(connection.info("server")["run_id"])
        except redis.RedisError as error:
            return self._wait_for_redis(error)
        if before not in (None, self._run):
            log.warning("redis was restarted: nothing is taken for %g s", WRITERS_FIRST_S)
            until = time.monotonic() + WRITERS_FIRST_S
            while self._drain_until is None and time.monotonic() < until:
                time.sleep(LOOK_S)

    def _take_orders(self, connection: redis.Redis) -> None:
        """Do what is asked for, until `drain` or an error of Redis. The engines outlive it."""
        try:
            orders = self._orders = Orders(connection, self._name, self._answer)
            if self._drain_until is not None:
                orders.drain()
            orders.take()
        except redis.RedisError as error:
            self._wait_for_redis(error)

    def _wait_for_redis(self, error: Exception) -> None:
        if time.monotonic() - self._said_at > WAITING_LINE_S:
            log.warning("waiting for redis: %s", error)
            self._said_at = time.monotonic()
        time.sleep(AGAIN_S)

    async def _set_up(self) -> None:
        self._store = Store(self._url)
        reader = Reader(self._store)
        self._following = asyncio.create_task(self._follow(reader), name="reader")
        settings = self._settings
        engines = Engines(settings, self._tell_engines)
        self._answering = Answering(settings, self._store, reader, engines, self._name)
        names = (settings.llm_engine, settings.tts_engine)
        reason = f"batch turns; LLM_ENGINE={names[0]} and TTS_ENGINE={names[1]} are loaded at the first"
        self._heartbeat = Heartbeat(
            self._url,
            Announcement(self._name, JOBS, ", ".join(names), reason, slots=1),
            lease_s=settings.lease_s,
            held=lambda: [self._running] if self._running else [],
            lost=lambda _: None,
            counts=lambda: {"computing": int(self._running is not None)},
        )

    async def _follow(self, reader: Reader) -> None:
        try:
            await reader.run()
        finally:
            await self._store.close()

    def _tell_engines(self, llm: SpeechLM, tts: Synthesizer) -> None:
        announcement = self._heartbeat.announcement
        self._heartbeat.announcement = replace(
            announcement, engine=f"{llm.name}, {tts.name}", reason="batch turns; both engines are loaded"
        )

    # One job

    def _answer(self, order: Order) -> None:
        conversation, number = order.turn
        with logs.bind(conversation=conversation, turn=number):
            self._running = order.id
            try:
                self._wait(order, self._submit(self._bound(order, conversation, number)))
            except Lost as error:
                log.warning("%s", error)
                order.lost = True
            finally:
                self._running = None

    async def _bound(self, order: Order, conversation: str, number: int) -> None:
        # Contexts do not cross threads by themselves.
        with logs.bind(conversation=conversation, turn=number):
            hold = _Held(self._store, self._name, conversation, number)
            await self._answering.answer(hold, order.cause)

    def _wait(self, order: Order, answered: Future[None]) -> None:
        """Wait for the turn to be done. Raises what it raised, and `PutBack` when there is no more time."""
        assert self._orders is not None
        kept_at = time.monotonic()
        while not wait([answered], timeout=LOOK_S).done:
            now = time.monotonic()
            if self._drain_until is not None and now >= self._drain_until:
                answered.cancel()
                order.put_back()
            if now - kept_at > KEEP_S:
                self._orders.keep(order)
                kept_at = now
        answered.result()

    # The event loop

    def _submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)


@contextmanager
def _loop_in_a_thread() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs in a thread of its own; at the end its tasks are cancelled."""
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="loop", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        # An engine that holds the loop up shall not hold up the end of the process.
        wait([asyncio.run_coroutine_threadsafe(_cancel_all(), loop)], timeout=STOP_S + 1)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(STOP_S)
        if not thread.is_alive():
            loop.close()


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=STOP_S)


def main() -> int:
    """Run a jobs process until SIGTERM or SIGINT; its exit status."""
    settings = load()
    logs.configure(settings.log_level, JOBS)
    os.environ.update(OFFLINE)
    try:
        url = redis_url(settings, REDIS_WAIT_S)
        jobs = Jobs(settings, url, settings.worker_name or f"{socket.gethostname()}.{JOBS}.{os.getpid()}")
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: jobs.drain())
        heap.settle()
        jobs.run()
        return 0
    except ParleyError as error:
        log.error("%s", error)
        return 1


if __name__ == "__main__":
    sys.exit(main())
