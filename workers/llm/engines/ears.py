"""Listening to many at once with a few recognisers.

Owns who listens with which of them, and the order of hearing one utterance: voice, mean, words, while it is
spoken. Knows nothing of turns or of what is done with the words.

    audio ─> Onset (nothing before a voice) ─> 3 s for the mean ─> a recogniser, in a thread ─> words
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing
from typing import Any

from workers.llm.engines.recogniser import SAMPLE_BYTES, SECOND_BYTES, Onset, Recogniser

SLICE_BYTES = SECOND_BYTES // 4
"""Decoded in one go, in about 0.1 s: so soon is the thread free of a hearing that was given up."""

MEAN_BYTES = 3 * SECOND_BYTES
"""Of a speaker not heard before, for the mean: from two seconds it is worse, and costs words."""

STALL_S = 1.0
"""Live audio has no gap. After one, what was said so far is made words of, and the recogniser is free."""

MAX_MEANS = 1000


class Ears:
    """At most `count` recognisers, shared by all who speak; by default one for each core, 2 to 8.

    The first is loaded at once, which blocks, the others when so many speak at once. Raises `EngineError`.
    """

    def __init__(self, count: int | None = None, load: Callable[[], Recogniser] = Recogniser) -> None:
        count = count or min(8, max(2, os.cpu_count() or 1))
        self._load = load
        self._free = [load()]
        self._room = asyncio.Semaphore(count)
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="ears")
        self._means: OrderedDict[str, bytes] = OrderedDict()
        self._returning: set[asyncio.Task[None]] = set()

    async def listen(self, speaker: str, audio: AsyncIterator[bytes]) -> list[str]:
        """The words of an utterance, soon after its last audio (PCM16 mono 16 kHz); none without a voice.

        `audio` is read only as fast as it is understood, so that its end is not read before it is due. When
        every recogniser is taken, this waits for one. The mean of a speaker who was understood is used again:
        the next utterance is decoded from its first word on. Cancelling frees thread and recogniser within
        0.2 s.
        """
        words: list[str] = []
        hearing = _Hearing(self, self._means.get(speaker))
        try:
            async with aclosing(_with_stalls(audio)) as pieces:
                async for piece in pieces:
                    if piece is None:
                        words += await hearing.finish()
                    else:
                        await hearing.feed(piece)
            words += await hearing.finish()
        finally:
            hearing.close()
        if words and hearing.mean is not None:
            self._learn(speaker, hearing.mean)
        return words

    def _learn(self, speaker: str, mean: bytes) -> None:
        self._means[speaker] = mean
        self._means.move_to_end(speaker)
        if len(self._means) > MAX_MEANS:
            self._means.popitem(last=False)

    async def borrow(self) -> Recogniser:
        """A recogniser that nobody else has. To be given back."""
        await self._room.acquire()
        if self._free:
            return self._free.pop()
        try:
            return await asyncio.wrap_future(self.submit(self._load))
        except BaseException:
            self._room.release()
            raise

    def give_back(self, recogniser: Recogniser, busy: Future[Any] | None) -> None:
        """Let the next one have it: now, or as soon as the work that it is `busy` with is done."""
        if busy is None or busy.cancel() or busy.done():
            self._free.append(recogniser)
            self._room.release()
            return
        task = asyncio.create_task(self._give_back_after(recogniser, busy))
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)

    async def _give_back_after(self, recogniser: Recogniser, busy: Future[Any]) -> None:
        await asyncio.wait([asyncio.wrap_future(busy)])
        self.give_back(recogniser, None)

    def close(self) -> None:
        """Wait for what the threads are doing, and end them."""
        self._threads.shutdown()

    def submit(self, work: Callable[..., Any], *arguments: object) -> Future[Any]:
        """Do it in a thread. There is one for each recogniser, so nothing waits."""
        return self._threads.submit(work, *arguments)


class _Hearing:
    """One utterance, heard as it comes. Holds a recogniser only while there is something to decode."""

    def __init__(self, ears: Ears, mean: bytes | None) -> None:
        self.mean = mean
        """Of enough speech to be used again, or `None`."""
        self._ears = ears
        self._onset = Onset()
        self._waiting = bytearray()
        self._recogniser: Recogniser | None = None
        self._work: Future[Any] | None = None

    async def feed(self, pcm: bytes) -> None:
        """Hear the next piece."""
        for begin in range(0, len(pcm), SLICE_BYTES):
            self._waiting += self._onset.feed(pcm[begin : begin + SLICE_BYTES])
            ready = self._recogniser or self.mean or len(self._waiting) >= MEAN_BYTES
            if ready and self._waiting:
                await self._decode()
            else:
                await asyncio.sleep(0)

    async def finish(self) -> list[str]:
        """The words since the last `finish`, or since the beginning."""
        if self._recogniser is None and not self._waiting:
            return []
        recogniser = await self._decode()
        words: list[str] = await self._run(recogniser.finish)
        self._onset = Onset()
        self.close()
        return words

    def close(self) -> None:
        """Hold no recogniser any more. What was not made words of is lost."""
        recogniser, self._recogniser = self._recogniser, None
        if recogniser is not None:
            self._ears.give_back(recogniser, self._work)

    async def _decode(self) -> Recogniser:
        if self._recogniser is None:
            self._recogniser = await self._ears.borrow()
            await self._run(self._recogniser.begin, self.mean or await self._first_mean(self._recogniser))
        while len(self._waiting) >= SAMPLE_BYTES:
            length = min(SLICE_BYTES, len(self._waiting)) // SAMPLE_BYTES * SAMPLE_BYTES
            pcm = bytes(self._waiting[:length])
            del self._waiting[:length]
            await self._run(self._recogniser.hear, pcm)
        return self._recogniser

    async def _first_mean(self, recogniser: Recogniser) -> bytes:
        first = bytes(self._waiting[:MEAN_BYTES])
        mean: bytes = await self._run(recogniser.mean_of, first)
        if len(first) == MEAN_BYTES:
            self.mean = mean
        return mean

    async def _run(self, work: Callable[..., Any], *arguments: object) -> Any:
        self._work = self._ears.submit(work, *arguments)
        return await asyncio.wrap_future(self._work)


async def _with_stalls(audio: AsyncIterator[bytes]) -> AsyncGenerator[bytes | None, None]:
    """The pieces as they come, and `None` once where none came for `STALL_S`."""
    while True:
        coming = asyncio.ensure_future(_next_or_none(audio))
        try:
            arrived, _ = await asyncio.wait({coming}, timeout=STALL_S)
            if not arrived:
                yield None
            piece = await coming
        finally:
            if not coming.done():
                coming.cancel()
                await asyncio.wait({coming})
        if piece is None:
            return
        yield piece


async def _next_or_none(audio: AsyncIterator[bytes]) -> bytes | None:
    return await anext(audio, None)
