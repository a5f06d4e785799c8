"""What it costs to judge a window of 32 ms: Silero's batches beside one call for each window.

A conversation has a window every 32 ms, in real time: spread over them, or all in the same moment. CPU time
of the event loop's thread and of the one that calls the model; what it costs the loop to wake and to give a
window to nobody stands beside them. And how long a window waits for its answer.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager

import numpy as np

from edge.detection import WINDOW_SAMPLES, Heard
from edge.detection.silero import CONTEXT_SAMPLES, STATE_SIZE, Floats, Silero, load
from shared.audio import INPUT_RATE
from tests.bench.table import Summary, show, summary
from tests.sounds import recording

CONVERSATIONS = (1, 8, 32, 100)
WINDOW_S = WINDOW_SAMPLES / INPUT_RATE
WINDOW_BYTES = 2 * WINDOW_SAMPLES
SETTLED = 10
"""Windows of each conversation before it is measured."""
MEASURED_S = 0.25
"""CPU time is read each time so much has passed."""

Hear = Callable[[bytes], Awaitable[object]]
Judge = Callable[[], Hear]
"""Makes what hears one conversation."""


async def run(turns: int) -> dict[str, Summary]:
    """2 s for 200 turns, at least 1, for each number of conversations; in microseconds a window."""
    seconds = max(turns / 100, 4 * MEASURED_S)
    figures: dict[str, Summary] = {}
    for together, how in ((False, "spread over 32 ms"), (True, "in the same moment")):
        for count in CONVERSATIONS:
            rows: dict[str, Summary] = {}
            with nobody() as judge:
                rows["on the loop: nobody judges"], _, _ = await _measure(judge, count, seconds, together)
            for name, judging in (("one call each", one_call_each), ("batched", batched)):
                with judging() as judge:
                    on, off, waited = await _measure(judge, count, seconds, together)
                rows |= {f"on the loop: {name}": on, f"off the loop: {name}": off, f"answer: {name}": waited}
            show(f"a window, {count} conversations, {how}", "us", dict(sorted(rows.items())))
            figures |= {f"{count} {how}, {name}": row for name, row in rows.items()}
    return figures


@contextmanager
def nobody() -> Iterator[Judge]:
    async def hear(pcm: bytes) -> None:
        return

    yield lambda: hear


@contextmanager
def batched() -> Iterator[Judge]:
    silero = Silero()
    yield lambda: silero.ear().hear
    silero.close()


@contextmanager
def one_call_each() -> Iterator[Judge]:
    """The plain way: a call of the model for each window, in the default shape of such code."""
    model = load()
    with ThreadPoolExecutor(1) as thread:

        def ear() -> Hear:
            state = np.zeros((2, 1, STATE_SIZE), np.float32)
            context = np.zeros((1, CONTEXT_SAMPLES), np.float32)

            def judge(pcm: bytes) -> list[Heard]:
                nonlocal state, context
                window: Floats = np.frombuffer(pcm, "<i2").astype(np.float32)[None] / np.float32(32768)
                voice, state = model(np.concatenate((context, window), axis=1), state)
                context = window[:, -CONTEXT_SAMPLES:]
                return [Heard(float(voice[0]))]

            async def hear(pcm: bytes) -> list[Heard]:
                return await asyncio.get_running_loop().run_in_executor(thread, judge, pcm)

            return hear

        yield ear


async def _measure(
    judge: Judge, count: int, seconds: float, together: bool
) -> tuple[Summary, Summary, Summary]:
    """On the loop, off the loop and until the answer, in microseconds a window."""
    ears = [judge() for _ in range(count)]
    for _ in range(SETTLED):
        await asyncio.gather(*(ear(bytes(WINDOW_BYTES)) for ear in ears))
    answers: list[float] = []
    start = time.perf_counter() + WINDOW_S
    phases = [0.0 if together else number / count * WINDOW_S for number in range(count)]
    async with _cpu_times(answers) as (on, off):
        await asyncio.gather(
            *(
                _converse(ear, start + phase, seconds, answers)
                for ear, phase in zip(ears, phases, strict=True)
            )
        )
    return summary(on), summary(off), summary([answer * 1e6 for answer in answers])


async def _converse(hear: Hear, start: float, seconds: float, answers: list[float]) -> None:
    pcm = recording()
    windows = [pcm[at : at + WINDOW_BYTES] for at in range(0, len(pcm) - WINDOW_BYTES, WINDOW_BYTES)]
    for number, window in zip(range(int(seconds / WINDOW_S)), itertools.cycle(windows), strict=False):
        due = start + number * WINDOW_S
        await asyncio.sleep(due - time.perf_counter())
        asked = time.perf_counter()
        await hear(window)
        answers.append(time.perf_counter() - asked)


@asynccontextmanager
async def _cpu_times(answers: list[float]) -> AsyncIterator[tuple[list[float], list[float]]]:
    """CPU time of this thread and of all others, in microseconds for each answer, read now and then."""
    on: list[float] = []
    off: list[float] = []

    def read() -> tuple[int, float, float]:
        loop = time.thread_time()
        return len(answers), loop, time.process_time() - loop

    async def watch() -> None:
        before = read()
        while True:
            await asyncio.sleep(MEASURED_S)
            after = read()
            if windows := after[0] - before[0]:
                on.append((after[1] - before[1]) / windows * 1e6)
                off.append((after[2] - before[2]) / windows * 1e6)
            before = after

    watching = asyncio.create_task(watch())
    yield on, off
    watching.cancel()
    await asyncio.wait([watching])
