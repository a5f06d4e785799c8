"""A batch turn has one job, whoever asks for it and however often; one that nobody does is enqueued again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.batch import FUNCTION, Batch, turn_of
from shared.errors import StoreError, StoreFull
from shared.keys import BATCH, JOB_TTL_S, batch_key, job_id, worker_key
from tests.conftest import eventually
from tests.raw import Command, Raw
from tests.shared.support import disk_full

ID = "0123456789abcdef"
JOB = job_id(ID, 3)
KEY = f"rq:job:{JOB}"
ON_THE_WAY = f"{batch_key()}:intermediate"


@pytest.fixture
def batch(raw: Raw) -> Iterator[Batch]:
    """The queue, on each kind of server."""
    batch = Batch(raw.url)
    yield batch
    batch.close()


def waiting(raw: Raw) -> list[bytes]:
    found: list[bytes] = raw.ask("LRANGE", batch_key(), 0, -1)
    return found


def started(raw: Raw, worker: str) -> None:
    """The job is in the hands of a worker."""
    raw.ask("LREM", batch_key(), 0, JOB)
    raw.ask("HSET", KEY, "status", "started", "worker_name", worker)
    raw.ask("PERSIST", KEY)
    raw.ask("ZADD", f"rq:wip:{BATCH}", 9_999_999_999, f"{JOB}:abc")


def cause(raw: Raw) -> bytes:
    meta: bytes = raw.ask("HGET", KEY, "meta")
    return meta


def test_a_turn_is_enqueued_once_with_a_time_to_live(raw: Raw, batch: Batch) -> None:
    assert batch.enqueue(ID, 3)
    assert not batch.enqueue(ID, 3)
    assert waiting(raw) == [JOB.encode()]
    assert 0 < raw.ask("TTL", KEY) <= JOB_TTL_S
    assert cause(raw) == b'{"cause": "claim"}'
    assert batch.enqueue(ID, 4)
    assert waiting(raw) == [JOB.encode(), job_id(ID, 4).encode()]


async def test_many_that_ask_at_once_ask_once(raw: Raw, batch: Batch) -> None:
    others = [Batch(raw.url) for _ in range(8)]
    asked = await asyncio.gather(*(asyncio.to_thread(each.enqueue, ID, 3) for each in others))
    assert sum(asked) == 1
    assert waiting(raw) == [JOB.encode()]
    for each in others:
        each.close()


def test_what_a_living_process_works_on_is_left_alone(raw: Raw, batch: Batch) -> None:
    batch.enqueue(ID, 3)
    started(raw, "alive")
    raw.ask("SET", worker_key("alive"), "{}")
    assert not batch.enqueue(ID, 3)
    assert waiting(raw) == []
    assert raw.ask("HGET", KEY, "status") == b"started"


def test_what_a_dead_process_worked_on_is_enqueued_again_as_a_repeat(raw: Raw, batch: Batch) -> None:
    batch.enqueue(ID, 3)
    started(raw, "dead")
    assert batch.enqueue(ID, 3)
    assert waiting(raw) == [JOB.encode()]
    assert cause(raw) == b'{"cause": "retry"}'
    assert raw.ask("ZCARD", f"rq:wip:{BATCH}") == 0
    assert 0 < raw.ask("TTL", KEY) <= JOB_TTL_S


def test_what_was_given_up_or_lost_is_enqueued_again(raw: Raw, batch: Batch) -> None:
    batch.enqueue(ID, 3)
    raw.ask("LREM", batch_key(), 0, JOB)
    raw.ask("HSET", KEY, "status", "failed")
    raw.ask("ZADD", f"rq:failed:{BATCH}", 9_999_999_999, JOB)
    assert batch.enqueue(ID, 3)
    assert raw.ask("ZCARD", f"rq:failed:{BATCH}") == 0
    raw.ask("DEL", batch_key())  # as when Redis forgot the list
    assert batch.enqueue(ID, 3)
    assert waiting(raw) == [JOB.encode()]


def test_what_is_on_its_way_to_a_process_is_left_alone_but_by_that_ones_next_life(
    raw: Raw, batch: Batch
) -> None:
    batch.enqueue(ID, 3)
    raw.ask("LMOVE", batch_key(), ON_THE_WAY, "LEFT", "RIGHT")
    assert not batch.enqueue(ID, 3)
    assert batch.put_back("w") == 1
    assert waiting(raw) == [JOB.encode()]
    assert raw.ask("LLEN", ON_THE_WAY) == 0


async def test_what_does_not_arrive_is_enqueued_again(raw: Raw, batch: Batch) -> None:
    """As when the reply that brings it is lost, or its process dies just then and never comes back."""
    batch.enqueue(ID, 3)
    raw.ask("LMOVE", batch_key(), ON_THE_WAY, "LEFT", "RIGHT")
    await eventually(lambda: batch.enqueue(ID, 3), "it is enqueued again")
    assert waiting(raw) == [JOB.encode()]
    assert raw.ask("LLEN", ON_THE_WAY) == 0


def test_a_process_puts_back_what_its_last_life_held_and_nothing_else(raw: Raw, batch: Batch) -> None:
    batch.enqueue(ID, 3)
    started(raw, "me")
    raw.ask("SET", worker_key("me"), "{}")  # what the dead one said of itself may not have lapsed yet
    raw.ask("ZADD", f"rq:wip:{BATCH}", 9_999_999_999, "somebody-elses:abc")
    raw.ask("RPUSH", ON_THE_WAY, job_id(ID, 9))  # of which nothing is known any more
    assert batch.put_back("another") == 0
    assert batch.put_back("me") == 1
    assert waiting(raw) == [JOB.encode()]
    assert batch.put_back("me") == 0


def test_what_names_no_turn_is_dropped_and_keeps_no_other_from_being_put_back(raw: Raw, batch: Batch) -> None:
    batch.enqueue(ID, 3)
    started(raw, "me")
    for foreign in (b"\xff\xfe", b"no turn", b"a:b:c"):
        raw.ask("RPUSH", ON_THE_WAY, foreign)
        raw.ask("ZADD", f"rq:wip:{BATCH}", 9_999_999_999, foreign)
    assert batch.put_back("me") == 1
    assert waiting(raw) == [JOB.encode()]
    assert raw.ask("LLEN", ON_THE_WAY) == 0
    assert raw.ask("ZCARD", f"rq:wip:{BATCH}") == 0


@pytest.mark.parametrize(
    "spoil",
    [
        ("SET", KEY, "no hash"),
        ("HSET", KEY, "status", b"\xff", "worker_name", b"\xff"),
        ("HSET", KEY, "status", "started", "worker_name", b"\xff"),
        ("ZADD", f"rq:wip:{BATCH}", 9_999_999_999, b"a:b:\xff"),
    ],
    ids=["no hash", "no status", "no worker", "no execution"],
)
def test_a_job_that_cannot_be_read_is_replaced(raw: Raw, batch: Batch, spoil: Command) -> None:
    batch.enqueue(ID, 3)
    started(raw, "dead")
    raw.ask(*spoil)
    assert batch.enqueue(ID, 3)
    assert waiting(raw) == [JOB.encode()]


def test_what_is_left_of_a_job_that_cannot_be_read_is_dropped(raw: Raw, batch: Batch) -> None:
    raw.ask("SET", KEY, "no hash")
    raw.ask("RPUSH", ON_THE_WAY, JOB)
    assert batch.put_back("me") == 0
    assert (raw.ask("EXISTS", KEY), raw.ask("LLEN", ON_THE_WAY)) == (0, 0)


def test_a_job_names_its_turn() -> None:
    assert turn_of(JOB) == (ID, 3)
    for name in ("", ID, f"{ID}-0", f"{ID}-x", f"{ID}-3\n", f"{ID.upper()}-3", f"{ID}-{10**15}", f"x{JOB}"):
        assert turn_of(name) is None
    assert FUNCTION == "workers.jobs.answer"


def test_a_turn_that_does_not_exist_is_a_mistake(batch: Batch) -> None:
    with pytest.raises(ValueError, match="not a turn"):
        batch.enqueue("}:text{", 1)


def test_errors_are_those_of_the_store(raw: Raw, batch: Batch) -> None:
    with pytest.raises(StoreError):
        Batch("redis://127.0.0.1:1").enqueue(ID, 1)
    raw.ask("CONFIG", "SET", "maxmemory", 1)
    try:
        with pytest.raises(StoreFull):
            batch.enqueue(ID, 1)
    finally:
        raw.ask("CONFIG", "SET", "maxmemory", 0)


def test_a_disk_that_takes_no_more_is_no_room(tmp_path: Path) -> None:
    with disk_full(tmp_path / "redis") as url:
        batch = Batch(url)
        with pytest.raises(StoreFull, match="disk"):
            batch.enqueue(ID, 1)
        batch.close()
