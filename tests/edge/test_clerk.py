from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from edge.clerk import Clerk
from shared.errors import StoreError, TurnClosed, TurnTaken


class Office:
    """A clerk, and what became of its jobs."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.taken = 0
        self.clerk = Clerk(self._take)

    def _take(self) -> None:
        self.taken += 1

    def add(self, name: str, *, error: Exception | None = None) -> asyncio.Future[None]:
        async def job() -> None:
            await asyncio.sleep(0)
            if error:
                raise error
            self.done.append(name)

        return self.clerk.add(name, job)


@pytest.fixture
async def clerk() -> AsyncIterator[Office]:
    office = Office()
    running = asyncio.create_task(office.clerk.run())
    yield office
    running.cancel()
    await asyncio.wait([running])


async def test_jobs_are_carried_out_in_order(clerk: Office) -> None:
    for name in ("one", "two", "three"):
        clerk.add(name)
    await clerk.clerk.finish()
    assert clerk.done == ["one", "two", "three"]


async def test_who_added_a_job_may_wait_for_it(clerk: Office) -> None:
    await clerk.add("one")
    assert clerk.done == ["one"]


@pytest.mark.parametrize("error", [StoreError("away"), TurnClosed("over"), ZeroDivisionError("oh")])
async def test_a_job_that_fails_does_not_hold_up_the_next(clerk: Office, error: Exception) -> None:
    await clerk.add("one", error=error)
    await clerk.add("two")
    assert clerk.done == ["two"]
    assert clerk.taken == 0


async def test_what_the_rest_relies_on_is_tried_until_it_is_done(
    clerk: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.clerk.AGAIN_S", 0.01)
    failures = [StoreError("away"), StoreError("still away")]

    async def close() -> None:
        if failures:
            raise failures.pop()
        clerk.done.append("closing")

    closing = clerk.clerk.add("closing", close, insist=True)
    await clerk.add("offer")
    assert closing.done()
    assert clerk.done == ["closing", "offer"]


async def test_a_job_that_finds_the_conversation_taken_says_so(clerk: Office) -> None:
    await clerk.add("one", error=TurnTaken("by another"))
    assert clerk.taken == 1


async def test_nothing_is_carried_out_behind_a_job_that_found_the_conversation_taken(clerk: Office) -> None:
    clerk.add("closing", error=TurnTaken("by another"))
    await clerk.add("offer")
    assert (clerk.done, clerk.taken) == ([], 1)
