"""Batch turns as jobs of rq: how one is enqueued, and when it is enqueued again.

A job is a hint, as an offer is: what has become of its turn stands in the logs, so a job may run twice and
nothing comes of that. Hence the one rule: a job that waits, or that a living process has or is about to have,
is left alone; any other is replaced by a new one. rq is synchronous: whoever has an event loop calls this in
a thread.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import redis
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.retry import Retry
from rq import Queue
from rq.exceptions import DuplicateJobError
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry, StartedJobRegistry
from rq.serializers import JSONSerializer

from shared.connection import MISCONF, NO_DISK, NO_MEMORY
from shared.errors import StoreError, StoreFull
from shared.keys import BATCH, JOB_TTL_S, is_conversation, job_id, worker_key
from shared.store import TIMEOUT_S, Reply

FUNCTION = "workers.jobs.answer"
"""The one function that a job may ask for. Its arguments: the conversation's id and the turn."""

NO_TIMEOUT = -1
"""rq sets no alarm: what takes too long is for the stages' own rules to say."""

ARRIVES_S = 2.0
"""How long a job may be on its way from the queue to a process; a living one has it within milliseconds."""

MOST_ON_THE_WAY = 1000
"""Of so many jobs it is known since when they are on their way; then it is forgotten of all."""

_JOB = re.compile(r"([0-9a-f]{16})-([1-9][0-9]{0,14})")


def connect(url: str) -> redis.Redis:
    """A client for rq, which repeats nothing by itself."""
    return redis.Redis.from_url(
        url,
        protocol=2,
        socket_timeout=TIMEOUT_S,
        socket_connect_timeout=TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
    )


def turn_of(job: str) -> tuple[str, int] | None:
    """The conversation and the turn that a job of this name is for; `None` if it is none of ours."""
    found = _JOB.fullmatch(job)
    return (found[1], int(found[2])) if found and is_conversation(found[1]) else None


class Batch:
    """The queue of batch turns. Every method blocks, and raises `StoreError` and `StoreFull`."""

    def __init__(self, url: str) -> None:
        self._redis = connect(url)
        self._queue = Queue(BATCH, connection=self._redis, serializer=JSONSerializer)
        self._started = StartedJobRegistry(queue=self._queue)
        self._failed = FailedJobRegistry(queue=self._queue)
        self._on_the_way: dict[str, float] = {}
        """When each job was first seen between the queue and a process."""

    def enqueue(self, conversation: str, turn: int) -> bool:
        """See to it that a job for the turn waits or runs. False: one did already."""
        with _translated():
            return self._renew(job_id(conversation, turn), dead=None)

    def put_back(self, worker: str) -> int:
        """Enqueue again what a dead process of this name worked on or was about to: how many there were.

        What names no turn is dropped: nobody is ever done with it.
        """
        left: set[str] = set()
        with _translated():
            on_the_way: Reply = self._redis.lrange(self._queue.intermediate_queue_key, 0, -1)
            for entry in on_the_way:
                if turn_of(job := _text(entry)):
                    left.add(job)
                else:
                    self._redis.lrem(self._queue.intermediate_queue_key, 0, entry)
            for entry in self._executions():
                if turn_of(job := _text(entry.partition(b":")[0])):
                    left.add(job)
                else:
                    self._redis.zrem(self._started.key, entry)
            return sum(self._renew(job, dead=worker) for job in sorted(left))

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def _renew(self, job: str, dead: str | None) -> bool:
        """Replace the job unless it is in good hands; those of the process `dead` are not."""
        named = turn_of(job)
        if named is None:
            raise ValueError(f"not a turn: {job[:60]!r}")
        with self._redis.pipeline() as pipe:
            # Whatever happens to the job meanwhile changes its hash, and then this is not to be done.
            pipe.watch(Job.key_for(job))  # type: ignore[no-untyped-call]
            status = self._status(pipe, job)
            if self._stands(pipe, job, status, dead):
                return False
            self._forget(pipe, job)
            try:
                pipe.execute()
            except redis.WatchError:
                return False
        if not status and dead is not None:
            return False  # It was done, and stood in a list twice.
        try:
            self._queue.enqueue_call(
                FUNCTION,
                args=named,
                timeout=NO_TIMEOUT,
                result_ttl=0,
                ttl=JOB_TTL_S,
                failure_ttl=JOB_TTL_S,
                description=job,
                job_id=job,
                # What the next attempt is to the log. One whose process died counts as failed.
                meta={"cause": "retry" if status else "claim"},
                unique=True,
            )
        except DuplicateJobError:
            return False  # Somebody else did it.
        return True

    def _status(self, pipe: Pipeline, job: str) -> str:
        """What rq noted of the job; empty where it did not."""
        key = Job.key_for(job)
        return _text(pipe.hget(key, "status")) if pipe.type(key) == b"hash" else ""

    def _stands(self, pipe: Pipeline, job: str, status: str, dead: str | None) -> bool:
        seen_at = self._on_the_way.pop(job, None)
        if status == JobStatus.STARTED:
            worker = _text(pipe.hget(Job.key_for(job), "worker_name"))
            return worker != dead and bool(pipe.exists(worker_key(worker)))
        if status != JobStatus.QUEUED:
            return False
        # In this order: it goes from the one list to the other.
        if pipe.lpos(self._queue.key, job) is not None:
            return True
        if dead is not None or pipe.lpos(self._queue.intermediate_queue_key, job) is None:
            return False
        return self._arrives(job, seen_at)

    def _arrives(self, job: str, seen_at: float | None) -> bool:
        """Whether a job on its way may still arrive: not if the reply that brings it was lost."""
        now = time.monotonic()
        if seen_at is not None and now - seen_at > ARRIVES_S:
            return False
        if len(self._on_the_way) >= MOST_ON_THE_WAY:
            self._on_the_way.clear()
        self._on_the_way[job] = now if seen_at is None else seen_at
        return True

    def _executions(self) -> list[bytes]:
        """`{job}:{execution}` of all that is worked on; raw, since rq raises on what it did not write."""
        executions: Reply = self._redis.zrange(self._started.key, 0, -1)
        return [*executions]

    def _forget(self, pipe: Pipeline, job: str) -> None:
        executions = [each for each in self._executions() if each.startswith(f"{job}:".encode())]
        pipe.multi()
        pipe.delete(Job.key_for(job), f"rq:executions:{job}", f"rq:results:{job}")
        pipe.lrem(self._queue.key, 0, job)
        pipe.lrem(self._queue.intermediate_queue_key, 0, job)
        pipe.zrem(self._failed.key, job)
        if executions:
            pipe.zrem(self._started.key, *executions)


def _text(raw: Reply) -> str:
    """What is no text, or is not there, is nobody's name and no status."""
    text: bytes = raw or b""
    return text.decode(errors="replace")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except redis.exceptions.OutOfMemoryError as error:
        raise StoreFull(NO_MEMORY) from error
    except (redis.RedisError, OSError) as error:
        # Of several commands, redis-py says first which one it was.
        if isinstance(error, redis.ResponseError) and MISCONF in str(error):
            raise StoreFull(NO_DISK) from error
        raise StoreError(f"Redis does not answer: {error}") from error
