"""How windows of many conversations come into few calls, with a model that does what a test tells it."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator

import numpy as np
import pytest

from edge.detection import WINDOW_SAMPLES, Heard
from edge.detection.silero import CONTEXT_SAMPLES, MAX_BATCH, Floats, Silero, SileroEar
from shared.errors import EngineError
from tests.conftest import WITHIN_S, eventually

WINDOW_BYTES = 2 * WINDOW_SAMPLES


class Gate:
    """A model whose calls wait until they are let through.

    A window of samples that are all `n` is "likely" by `n`; its state counts the windows before it.
    """

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.states: list[list[int]] = []
        self.contexts: list[list[int]] = []
        self.fails: set[int] = set()
        self._open = threading.Event()
        self._passes = threading.Semaphore(0)

    def __call__(self, windows: Floats, state: Floats) -> tuple[Floats, Floats]:
        assert windows.dtype == state.dtype == np.float32
        levels = np.round(windows * 32768).astype(int)
        assert (levels[:, CONTEXT_SAMPLES:] == levels[:, -1:]).all()
        number = len(self.calls)
        self.calls.append(levels[:, -1].tolist())
        self.states.append(state[1, :, -1].astype(int).tolist())
        self.contexts.append(levels[:, 0].tolist())
        if not self._open.is_set():
            assert self._passes.acquire(timeout=WITHIN_S)
        if number in self.fails:
            raise RuntimeError("out of memory")
        return windows[:, -1] * 32768, state + 1

    def let_one(self) -> None:
        self._passes.release()

    def open(self) -> None:
        self._open.set()
        self._passes.release()


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def silero(gate: Gate) -> Iterator[Silero]:
    silero = Silero(gate)
    yield silero
    gate.open()
    silero.close()


def levels(*values: int) -> bytes:
    """A window for each value, all of its samples at it."""
    return b"".join(np.full(WINDOW_SAMPLES, value, "<i2").tobytes() for value in values)


def heard(*values: int) -> list[Heard]:
    return [Heard(float(value)) for value in values]


async def calls(gate: Gate, count: int) -> None:
    await eventually(lambda: len(gate.calls) >= count, f"{count} calls of the model")


async def blocked(silero: Silero, gate: Gate) -> asyncio.Task[list[Heard]]:
    """A call that runs, so that everything else collects."""
    before = len(gate.calls)
    task = asyncio.create_task(silero.ear().hear(levels(1)))
    await calls(gate, before + 1)
    return task


async def asked(ear: SileroEar, pcm: bytes) -> asyncio.Task[list[Heard]]:
    task = asyncio.create_task(ear.hear(pcm))
    await asyncio.sleep(0)
    return task


# ---- one conversation


async def test_less_than_a_window_asks_nobody(silero: Silero, gate: Gate) -> None:
    ear = silero.ear()
    assert await ear.hear(b"") == []
    assert await ear.hear(levels(7)[:-1]) == []
    assert gate.calls == []
    gate.open()
    assert await ear.hear(levels(7)[-1:]) == heard(7)


async def test_each_window_comes_with_the_samples_and_the_state_before_it(silero: Silero, gate: Gate) -> None:
    gate.open()
    ear = silero.ear()
    assert await ear.hear(levels(5, 6)) == heard(5, 6)
    assert await ear.hear(levels(7)) == heard(7)
    assert (gate.contexts, gate.states) == ([[0], [5], [6]], [[0], [1], [2]])


async def test_who_forgot_has_no_samples_and_no_state_before(silero: Silero, gate: Gate) -> None:
    gate.open()
    ear = silero.ear()
    await ear.hear(levels(5, 6) + b"\1\2\3")
    ear.forget()
    assert await ear.hear(levels(7)) == heard(7)
    assert (gate.contexts[-1], gate.states[-1]) == ([0], [0])


async def test_loud_input_is_within_one(gate: Gate) -> None:
    least: list[float] = []

    def model(windows: Floats, state: Floats) -> tuple[Floats, Floats]:
        least.append(float(windows.min()))
        return windows[:, -1], state

    silero = Silero(model)
    assert await silero.ear().hear(levels(-32768)) == [Heard(-1.0)]
    assert least == [-1.0]
    silero.close()


# ---- many


async def test_what_arrives_while_a_call_runs_is_in_the_next(silero: Silero, gate: Gate) -> None:
    first = await blocked(silero, gate)
    others = [await asked(silero.ear(), levels(value)) for value in range(2, 12)]
    gate.open()
    assert await asyncio.gather(first, *others) == [heard(value) for value in range(1, 12)]
    assert gate.calls == [[1], [*range(2, 12)]]


async def test_a_call_takes_no_more_than_its_most(silero: Silero, gate: Gate) -> None:
    await blocked(silero, gate)
    others = [await asked(silero.ear(), levels(2)) for _ in range(2 * MAX_BATCH + 1)]
    gate.open()
    await asyncio.gather(*others)
    assert [len(call) for call in gate.calls] == [1, MAX_BATCH, MAX_BATCH, 1]


async def test_who_has_many_windows_holds_up_nobody(silero: Silero, gate: Gate) -> None:
    file = await asked(silero.ear(), levels(*[1] * 100))
    await calls(gate, 1)
    live = [await asked(silero.ear(), levels(value)) for value in (2, 3)]
    gate.let_one()
    await calls(gate, 2)
    gate.let_one()
    assert await asyncio.gather(*live) == [heard(2), heard(3)]
    assert not file.done()
    assert gate.calls[1] == [2, 3, 1]
    gate.open()
    assert await file == heard(*[1] * 100)
    assert all(call.count(1) == 1 for call in gate.calls)


async def test_more_files_than_a_call_takes_go_on_in_turn(silero: Silero, gate: Gate) -> None:
    await blocked(silero, gate)
    files = [await asked(silero.ear(), levels(*[value] * 3)) for value in range(100, 100 + MAX_BATCH + 8)]
    gate.open()
    await asyncio.gather(*files)
    windows = [value for call in gate.calls[1:] for value in call]
    assert windows == [*range(100, 100 + MAX_BATCH + 8)] * 3
    assert len(gate.calls) == 1 + -(-3 * (MAX_BATCH + 8) // MAX_BATCH)


async def test_who_comes_while_files_are_judged_waits_for_one_call(silero: Silero, gate: Gate) -> None:
    await blocked(silero, gate)
    files = [await asked(silero.ear(), levels(*[9] * 50)) for _ in range(MAX_BATCH)]
    gate.let_one()
    await calls(gate, 2)
    live = await asked(silero.ear(), levels(2))
    gate.let_one()
    await calls(gate, 3)
    assert gate.calls[2] == [2, *[9] * (MAX_BATCH - 1)]
    gate.open()
    assert await live == heard(2)
    await asyncio.gather(*files)


# ---- who goes away


async def test_who_stops_waiting_is_not_judged(silero: Silero, gate: Gate) -> None:
    await blocked(silero, gate)
    gone, stays = [await asked(silero.ear(), levels(value, value)) for value in (2, 3)]
    gone.cancel()
    await asyncio.wait([gone])
    gate.open()
    assert await stays == heard(3, 3)
    assert gate.calls == [[1], [3], [3]]


@pytest.mark.parametrize("more", [[], [5]], ids=["by its last window", "before its last window"])
async def test_who_stops_waiting_during_the_call_takes_nothing_from_the_others(
    silero: Silero, gate: Gate, more: list[int]
) -> None:
    await blocked(silero, gate)
    gone, stays = [await asked(silero.ear(), levels(value, *more)) for value in (2, 3)]
    gate.let_one()
    await calls(gate, 2)
    gone.cancel()
    await asyncio.wait([gone])
    gate.open()
    assert await stays == heard(3, *more)
    assert gate.calls == [[1], [2, 3], *([value] for value in more)]


async def test_who_stopped_waiting_hears_as_for_the_first_time(silero: Silero, gate: Gate) -> None:
    ear = silero.ear()
    gone = await asked(ear, levels(5, 6) + b"\1\2\3")
    await calls(gate, 1)
    gone.cancel()
    await asyncio.wait([gone])
    gate.open()
    assert await ear.hear(levels(7)) == heard(7)
    assert (gate.contexts[-1], gate.states[-1]) == ([0], [0])


async def test_nothing_stays_of_an_ear_that_is_dropped(silero: Silero, gate: Gate) -> None:
    await blocked(silero, gate)
    ears = [silero.ear() for _ in range(3)]
    kept = [weakref.ref(kept) for ear in ears for kept in (ear, ear.state)]
    cancelled, waiting = await asked(ears[0], levels(2)), await asked(ears[1], levels(3))
    cancelled.cancel()
    await asyncio.wait([cancelled])
    gate.open()
    await waiting
    ears.clear()
    del cancelled, waiting

    def all_gone() -> bool:
        gc.collect()
        return all(ref() is None for ref in kept)

    await eventually(all_gone, "the ears and what they remembered to be gone")


async def test_who_waits_on_a_loop_that_is_gone_breaks_nothing(gate: Gate) -> None:
    silero = Silero(gate)

    def elsewhere() -> None:
        loop = asyncio.new_event_loop()
        task = loop.create_task(silero.ear().hear(levels(2)))
        loop.run_until_complete(calls(gate, 1))
        task.cancel()
        loop.run_until_complete(asyncio.wait([task]))
        loop.close()

    await asyncio.to_thread(elsewhere)
    gate.open()
    assert await silero.ear().hear(levels(3)) == heard(3)
    silero.close()


# ---- what fails


async def test_who_was_in_a_call_that_failed_is_told_and_nobody_else(silero: Silero, gate: Gate) -> None:
    gate.fails = {1}
    first = await blocked(silero, gate)
    both = [await asked(silero.ear(), levels(value)) for value in (2, 3)]
    gate.let_one()
    await calls(gate, 2)
    later = await asked(silero.ear(), levels(4))
    gate.open()
    failed = await asyncio.gather(*both, return_exceptions=True)
    for error in failed:
        assert isinstance(error, EngineError) and error.retryable
        assert "out of memory" in str(error) and isinstance(error.__cause__, RuntimeError)
    assert failed[0] is not failed[1]
    assert await first == heard(1)
    assert await later == heard(4)


async def test_an_ear_hears_again_after_a_call_that_failed(silero: Silero, gate: Gate) -> None:
    gate.fails = {1}
    gate.open()
    ear = silero.ear()
    with pytest.raises(EngineError, match="out of memory"):
        await ear.hear(levels(5, 6, 7))
    assert await ear.hear(levels(8)) == heard(8)
    assert (gate.calls, gate.states) == ([[5], [6], [8]], [[0], [1], [0]])


# ---- the end


async def test_closing_waits_for_the_call_that_runs_and_fails_who_is_in_line(
    silero: Silero, gate: Gate
) -> None:
    first = await blocked(silero, gate)
    file = await asked(silero.ear(), levels(2, 2))
    closing = asyncio.create_task(asyncio.to_thread(silero.close))
    await eventually(lambda: silero.closed, "the detector to be closing")
    assert not first.done() and not closing.done()
    gate.open()
    await closing
    assert await first == heard(1)
    with pytest.raises(EngineError, match="has ended"):
        await file
    with pytest.raises(EngineError, match="has ended"):
        await silero.ear().hear(levels(3))
    assert gate.calls == [[1]]


async def test_closing_twice_is_closing_once(gate: Gate) -> None:
    silero = Silero(gate)
    silero.close()
    silero.close()
    assert silero.closed
