from __future__ import annotations

import pytest

from edge.backlog import MOST_MARKS, Backlog, Waiting
from shared.keys import Role, work_key
from shared.store import Store
from shared.work import WorkQueue, offer

CONVERSATION = "0123456789abcdef"


def test_a_turn_waits_from_when_it_was_first_seen() -> None:
    waiting = Waiting()
    assert waiting.observe(100.0, (5, 0), (5, 0)) == 0.0
    assert waiting.observe(103.0, (5, 0), (5, 0)) == 3.0


def test_a_turn_behind_others_waits_as_long_although_those_are_claimed_one_by_one() -> None:
    waiting = Waiting()
    for second in range(10):
        waited_s = waiting.observe(second, (second, 0), (second + 4, 0))
    assert waited_s == 4.0


def test_nothing_waits_once_all_is_claimed() -> None:
    waiting = Waiting()
    waiting.observe(0.0, (5, 0), (5, 0))
    assert waiting.observe(9.0, None, (5, 0)) == 0.0
    assert waiting.observe(10.0, (6, 0), (6, 0)) == 0.0


def test_a_stream_that_begins_anew_with_older_ids_waits_from_then_on() -> None:
    waiting = Waiting()
    waiting.observe(0.0, (5, 0), (9, 0))
    assert waiting.observe(7.0, (3, 0), (3, 0)) == 0.0
    assert waiting.observe(8.0, (3, 0), (4, 0)) == 1.0


def test_what_is_remembered_is_bounded_and_the_oldest_is_kept() -> None:
    waiting = Waiting()
    for second in range(2 * MOST_MARKS):
        waited_s = waiting.observe(second, (0, 0), (second, 0))
    assert waited_s == 2 * MOST_MARKS - 1
    assert len(waiting._marks) == MOST_MARKS


async def test_turns_count_until_they_are_done_and_wait_until_they_are_claimed(store: Store) -> None:
    backlog = Backlog(store, Role.REPLY)
    await backlog.look()
    assert (backlog.turns, backlog.waited_s) == (0, 0.0)
    await offer(store, Role, CONVERSATION, 1)
    await backlog.look()
    await backlog.look()
    assert backlog.turns == 1
    assert backlog.waited_s > 0.0
    queue = WorkQueue(store, Role.REPLY, "reply.1", lease_s=2.0)
    claims = await queue.wait(1) or await queue.wait(1)
    await backlog.look()
    assert (backlog.turns, backlog.waited_s) == (1, 0.0)
    assert await queue.done(claims[0])
    await queue.close()
    await backlog.look()
    assert backlog.turns == 0


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_clock_of_the_server_that_is_off_makes_no_turn_wait(store: Store, hours: int) -> None:
    now_ms = int((await store.call("TIME"))[0]) * 1000
    entry = f"{now_ms + hours * 3_600_000}-0"
    await store.call("XADD", work_key(Role.REPLY), entry, "conversation", CONVERSATION, "turn", 1)
    backlog = Backlog(store, Role.REPLY)
    await backlog.look()
    assert backlog.waited_s == 0.0
    await backlog.look()
    assert backlog.waited_s > 0.0
