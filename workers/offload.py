"""A blocking generator, run in a thread, read as an async iterator.

Owns the hand-over between the thread and the event loop: exceptions are carried, the generator never runs
more than `depth` items ahead, and closing the iterator ends the generator. Knows nothing of what the items
are.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from concurrent.futures import Executor
from contextvars import copy_context
from typing import Generic, TypeVar

T = TypeVar("T")

log = logging.getLogger(__name__)


async def offload(
    make: Callable[[], Iterable[T]], executor: Executor, *, depth: int = 8
) -> AsyncGenerator[T, None]:
    """Yield the items of `make()`, which is called, advanced and closed in one thread of `executor`.

    At most `depth` items are made ahead of the reader; then the thread waits, so an executor needs a thread
    for each iterator that is read at once (the others wait for one). What the generator raises is raised
    here with its own traceback. Closing the iterator does not wait: the generator is closed, in its thread,
    when it has made its next item, and one that had not begun never begins. Read it under
    `contextlib.aclosing`, so that a reader that is cancelled closes it at once. Log context (`contextvars`)
    goes with the generator.
    """
    pipe = _Pipe[T](asyncio.get_running_loop(), depth)
    work = executor.submit(copy_context().run, pipe.fill, make)
    try:
        while True:
            items, ended, error = await pipe.drain()
            for item in items:
                yield item
                pipe.room.release()
            if error is not None:
                raise error
            if ended:
                return
    finally:
        error = None  # breaks the cycle of an exception and the frame that it passed through
        work.cancel()
        pipe.stop()


class _Pipe(Generic[T]):
    """What the thread and the loop share. `room` counts the items that may still be made ahead."""

    def __init__(self, loop: asyncio.AbstractEventLoop, depth: int) -> None:
        self.room = threading.Semaphore(depth)
        self._loop = loop
        self._arrived = asyncio.Event()
        self._items: list[T] = []
        self._ended = False
        self._error: BaseException | None = None
        self._stopped = False

    async def drain(self) -> tuple[list[T], bool, BaseException | None]:
        """All that arrived since the last call, at least something: items, the end, an error after them."""
        await self._arrived.wait()
        self._arrived.clear()
        items, self._items = self._items, []
        error, self._error = self._error, None
        return items, self._ended, error

    def stop(self) -> None:
        """Let the thread end at its next item, or now if it waits for room."""
        self._stopped = True
        self.room.release()

    def fill(self, make: Callable[[], Iterable[T]]) -> None:
        """The thread's part: make items until there are no more, or nobody wants them."""
        error: BaseException | None = None
        try:
            iterator = iter(make())
            try:
                self._pump(iterator)
            finally:
                close = getattr(iterator, "close", None)
                if close is not None:
                    close()
        except BaseException as raised:  # whatever it is, a reader that is not told would wait for ever
            error = raised
        self._tell(self._end, error)

    def _pump(self, iterator: Iterator[T]) -> None:
        while not self._stopped:
            self.room.acquire()
            if self._stopped:
                return
            try:
                item = next(iterator)
            except StopIteration:
                return
            if not self._tell(self._put, item):
                return

    def _tell(self, what: Callable[..., None], argument: object) -> bool:
        try:
            self._loop.call_soon_threadsafe(what, argument)
        except RuntimeError:  # the loop is closed: its readers are gone
            log.warning("a generator outlived the event loop that read it")
            return False
        return True

    def _put(self, item: T) -> None:
        self._items.append(item)
        self._arrived.set()

    def _end(self, error: BaseException | None) -> None:
        if error is not None and self._stopped:
            log.warning("a generator failed while it was being closed", exc_info=error)
        self._ended, self._error = True, error
        self._arrived.set()
