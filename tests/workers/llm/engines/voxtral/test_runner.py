"""The thread that computes, step by step under the test's hand."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from queue import SimpleQueue
from typing import Any

import pytest

from shared.errors import EngineError
from tests.conftest import WITHIN_S, eventually
from tests.workers.llm.engines.voxtral.tiny import GREEDY
from workers.llm.engines.voxtral.batch import Batch
from workers.llm.engines.voxtral.decoder import Decoder
from workers.llm.engines.voxtral.pieces import Ids
from workers.llm.engines.voxtral.rows import Event
from workers.llm.engines.voxtral.runner import Runner, Turn

PROMPT = [Ids((1, 3, 100, 101, 4))]
OTHER_PROMPT = [Ids((1, 3, 102, 4))]


class SteppedBatch(Batch):
    """A batch that steps only when it is let, and counts."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__(decoder)
        self.steps = 0
        self.threads: set[str] = set()
        self.waiting = threading.Event()
        self.let: SimpleQueue[Exception | None] = SimpleQueue()

    def step(self) -> list[Event]:
        if not self.idle:
            self.waiting.set()
            error = self.let.get(timeout=WITHIN_S)
            self.waiting.clear()
            if error is not None:
                raise error
            self.steps += 1
        self.threads.add(threading.current_thread().name)
        return super().step()


@pytest.fixture
def batch(model: Any) -> SteppedBatch:
    return SteppedBatch(Decoder(model, slots=2, context=512))


@pytest.fixture
def runner(batch: SteppedBatch) -> Iterator[Runner]:
    runner = Runner(lambda: batch)
    yield runner
    for _ in range(100):
        batch.let.put(None)
    runner.close()


@pytest.fixture
async def turn(runner: Runner) -> AsyncIterator[Turn]:
    """One that owes many tokens."""
    turn = runner.open(GREEDY, 200, None)
    turn.feed(PROMPT)
    turn.start(0)
    yield turn
    turn.drop()


async def next_token(turn: Turn, batch: SteppedBatch) -> int | None:
    """Let the batch step until there is one."""
    token = asyncio.ensure_future(turn.token())
    while not token.done():
        batch.let.put(None)
        await asyncio.wait([token], timeout=0.05)
    return await token


async def test_a_turn_that_is_dropped_takes_part_in_no_step_after_the_one_that_runs(
    batch: SteppedBatch, turn: Turn
) -> None:
    await next_token(turn, batch)
    await eventually(batch.waiting.is_set, "the next step has begun")
    while not batch.let.empty():
        batch.let.get()
    before = batch.steps
    turn.drop()
    batch.let.put(None)
    await eventually(lambda: batch.steps == before + 1, "the step that ran is over")
    await eventually(lambda: batch.idle, "nothing is left to do")
    assert batch.steps == before + 1


async def test_all_that_is_computed_is_computed_in_one_thread_of_its_own(
    batch: SteppedBatch, turn: Turn
) -> None:
    await next_token(turn, batch)
    assert batch.threads == {"voxtral"}


async def test_a_step_that_breaks_fails_who_is_there_and_not_who_comes(
    runner: Runner, batch: SteppedBatch, turn: Turn
) -> None:
    await eventually(batch.waiting.is_set, "the first step has begun")
    batch.let.put(RuntimeError("a bug"))
    with pytest.raises(EngineError, match="Voxtral failed: a bug") as failure:
        await turn.token()
    assert failure.value.retryable
    other = runner.open(GREEDY, 2, None)
    other.feed(OTHER_PROMPT)
    other.start(0)
    assert await next_token(other, batch) is not None
    other.drop()


async def test_a_turn_that_has_failed_says_so_when_it_is_fed(runner: Runner, batch: SteppedBatch) -> None:
    turn = runner.open(GREEDY, 20, None)
    turn.feed([Ids((100,) * 600)])
    batch.let.put(None)

    def refused() -> bool:
        try:
            turn.feed(PROMPT)
        except EngineError as error:
            return "VOXTRAL_CONTEXT" in str(error)
        return False

    await eventually(refused, "the turn has failed")
    turn.drop()


async def test_turns_of_a_loop_that_is_gone_hold_nothing_up(
    runner: Runner, batch: SteppedBatch, turn: Turn
) -> None:
    opened: SimpleQueue[Turn] = SimpleQueue()

    async def leave() -> None:
        gone = runner.open(GREEDY, 200, None)
        gone.feed(OTHER_PROMPT)
        gone.start(0)
        opened.put(gone)

    await asyncio.to_thread(asyncio.run, leave())
    gone = opened.get()
    for _ in range(5):
        await next_token(turn, batch)
    assert gone.row is None


async def test_closing_fails_the_turns_that_wait_and_those_that_come(model: Any) -> None:
    runner = Runner(lambda: Batch(Decoder(model, slots=1, context=512)))
    turn = runner.open(GREEDY, 20, None)
    turn.feed(PROMPT)
    runner.close()
    with pytest.raises(EngineError, match="closed"):
        await turn.token()
    with pytest.raises(EngineError, match="closed"):
        runner.open(GREEDY, 20, None)
    runner.close()


def test_what_fails_while_the_batch_is_made_is_raised_where_it_was_asked_for() -> None:
    def fail() -> Batch:
        raise EngineError("no room")

    with pytest.raises(EngineError, match="no room"):
        Runner(fail)
