"""A blocking generator in a thread, read from the event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import aclosing
from contextvars import ContextVar

import pytest

from workers.offload import offload

PATIENCE_S = 10.0


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    # Leaving the block joins every thread: a generator that was not ended would hang the test.
    with ThreadPoolExecutor(max_workers=2, thread_name_prefix="offload-test") as pool:
        yield pool


class Source:
    """A generator that says how many items it made, whether it was closed, and in which threads it ran."""

    def __init__(self, count: int | None = None) -> None:
        self.made = 0
        self.closed = threading.Event()
        self.threads: set[str] = set()
        self._count = count
        self._more = threading.Condition()

    def __call__(self) -> Iterator[int]:
        self._note()
        try:
            while self._count is None or self.made < self._count:
                with self._more:
                    self.made += 1
                    self._more.notify_all()
                yield self.made - 1
        finally:
            self._note()
            self.closed.set()

    def wait_for(self, made: int) -> bool:
        with self._more:
            return self._more.wait_for(lambda: self.made >= made, PATIENCE_S)

    def _note(self) -> None:
        self.threads.add(threading.current_thread().name)


async def test_items_arrive_in_order_and_the_iterator_ends_with_the_generator(executor: Executor) -> None:
    source = Source(count=1000)
    assert [item async for item in offload(source, executor)] == list(range(1000))
    assert source.closed.is_set()


async def test_a_generator_without_items_ends_at_once(executor: Executor) -> None:
    assert [item async for item in offload(lambda: list[int](), executor)] == []


async def test_anything_iterable_will_do(executor: Executor) -> None:
    assert [item async for item in offload(lambda: ["a", "b"], executor)] == ["a", "b"]


async def test_the_generator_is_made_run_and_closed_in_one_thread_of_the_executor(executor: Executor) -> None:
    source = Source(count=20)
    async with aclosing(offload(source, executor)) as items:
        assert [item async for item in items] == list(range(20))
    (thread,) = source.threads
    assert thread.startswith("offload-test")


async def test_an_exception_comes_after_the_items_before_it_with_its_traceback(
    executor: Executor,
) -> None:
    def failing() -> Iterator[int]:
        yield 0
        yield 1
        raise LookupError("no third item")

    seen = []
    with pytest.raises(LookupError, match="no third item") as caught:
        async for item in offload(failing, executor):
            seen.append(item)
    assert seen == [0, 1]
    assert "failing" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]


async def test_an_exception_while_the_generator_is_made_is_carried(executor: Executor) -> None:
    def unmakeable() -> Iterator[int]:
        raise LookupError("not today")

    with pytest.raises(LookupError, match="not today"):
        await anext(offload(unmakeable, executor))


async def test_an_exit_asked_for_in_the_thread_reaches_the_reader(executor: Executor) -> None:
    def leaving() -> Iterator[int]:
        yield 0
        raise SystemExit(3)

    items = offload(leaving, executor)
    assert await anext(items) == 0
    with pytest.raises(SystemExit):
        await anext(items)


async def test_the_generator_runs_at_most_depth_items_ahead(executor: Executor) -> None:
    source = Source()
    async with aclosing(offload(source, executor, depth=3)) as items:
        assert await anext(items) == 0
        # The item in the reader's hands keeps its place until the reader asks for the next.
        for taken in range(1, 50):
            assert await asyncio.to_thread(source.wait_for, taken + 2)
            assert source.made == taken + 2
            assert await anext(items) == taken


async def test_closing_lets_a_generator_that_waits_for_room_end(executor: Executor) -> None:
    source = Source()
    items = offload(source, executor, depth=2)
    await anext(items)
    assert await asyncio.to_thread(source.wait_for, 2)
    await items.aclose()
    assert await asyncio.to_thread(source.closed.wait, PATIENCE_S)
    assert source.made == 2


async def test_closing_does_not_wait_and_a_busy_generator_ends_at_its_next_item(
    executor: Executor,
) -> None:
    first_taken, go_on = threading.Event(), threading.Event()
    made: list[int] = []
    closed = threading.Event()

    def busy() -> Iterator[int]:
        try:
            for item in range(100):
                made.append(item)
                yield item
                first_taken.set()
                go_on.wait(PATIENCE_S)
        finally:
            closed.set()

    items = offload(busy, executor)
    assert await anext(items) == 0
    assert await asyncio.to_thread(first_taken.wait, PATIENCE_S)
    await items.aclose()
    assert not closed.is_set()
    go_on.set()
    assert await asyncio.to_thread(closed.wait, PATIENCE_S)
    assert made == [0, 1]


async def test_cancelling_the_reader_closes_the_generator(executor: Executor) -> None:
    source, go_on = Source(), threading.Event()

    def slow() -> Iterator[int]:
        for item in source():
            yield item
            go_on.wait(PATIENCE_S)

    async def read() -> None:
        async with aclosing(offload(slow, executor)) as items:
            async for _ in items:
                pass

    reader = asyncio.create_task(read())
    assert await asyncio.to_thread(source.wait_for, 1)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    go_on.set()
    assert await asyncio.to_thread(source.closed.wait, PATIENCE_S)


async def test_a_generator_still_waiting_for_a_thread_is_never_made_once_closed() -> None:
    release, made = threading.Event(), threading.Event()

    def make() -> list[int]:
        made.set()
        return []

    with ThreadPoolExecutor(max_workers=1) as single:
        occupied = single.submit(release.wait, PATIENCE_S)
        waiting = asyncio.create_task(anext(offload(make, single)))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        release.set()
        assert await asyncio.wrap_future(occupied)
    assert not made.is_set()


async def test_more_iterators_than_threads_are_read_one_after_another() -> None:
    async def read() -> list[int]:
        return [item async for item in offload(Source(count=30), single)]

    with ThreadPoolExecutor(max_workers=1) as single:
        assert await asyncio.gather(*(read() for _ in range(20))) == [list(range(30))] * 20


async def test_a_generator_that_fails_while_it_is_closed_is_logged(
    executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    logged = asyncio.Event()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logged.set()

    def clumsy() -> Iterator[int]:
        try:
            while True:
                yield 0
        finally:
            raise LookupError("while closing")

    handler = Handler()
    logging.getLogger("workers.offload").addHandler(handler)
    try:
        items = offload(clumsy, executor)
        await anext(items)
        await items.aclose()
        async with asyncio.timeout(PATIENCE_S):
            await logged.wait()
    finally:
        logging.getLogger("workers.offload").removeHandler(handler)
    assert "failed while it was being closed" in caplog.text


async def test_log_context_goes_with_the_generator(executor: Executor) -> None:
    conversation: ContextVar[str] = ContextVar("conversation")
    conversation.set("abc")

    def asking() -> Iterator[str]:
        yield conversation.get()

    assert [item async for item in offload(asking, executor)] == ["abc"]


def test_a_generator_that_outlives_its_loop_ends_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    source, go_on = Source(), threading.Event()

    def slow() -> Iterator[int]:
        for item in source():
            yield item
            go_on.wait(PATIENCE_S)

    with ThreadPoolExecutor(max_workers=1) as single:
        loop = asyncio.new_event_loop()
        items = offload(slow, single)
        assert loop.run_until_complete(anext(items)) == 0
        loop.run_until_complete(items.aclose())
        loop.close()
        go_on.set()
    assert source.closed.is_set()
    assert "outlived the event loop" in caplog.text
