"""rq's worker, as the jobs process needs it: in its own process, for one function, without an alarm.

Whoever can write to Redis can write a job. So of a job's hash nothing is imported, called or fetched: not its
function, no callback, no webhook; it is the turn that it names, or refused. Knows no turn's logs.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import redis
from redis.client import Pipeline
from rq import Queue, SimpleWorker
from rq.exceptions import DeserializationError, NoSuchJobError, StopRequested
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer, Serializer
from rq.timeouts import BaseDeathPenalty
from rq.utils import now

from shared.batch import FUNCTION, NO_TIMEOUT, turn_of
from shared.keys import BATCH, JOB_TTL_S, worker_key
from shared.store import TIMEOUT_S

log = logging.getLogger(__name__)

BLOCK_S = 1
"""How long one read waits for a job (rq wants a whole number): after it a drain is seen."""

WORKER_TTL_S = 60
"""How long rq's own entry of this process outlives it; its next life does not wait for that."""

CAUSES = frozenset({"claim", "retry", "handback"})


class Refused(Exception):
    """Raised for a job that is none of ours."""


class PutBack(Exception):
    """Raised when a job is to be done by somebody else, or later."""


class _NoAlarm(BaseDeathPenalty):
    """The stages' own rules bound a job; an alarm would hit the thread that only waits."""

    def setup_death_penalty(self) -> None:
        """Set none."""

    def cancel_death_penalty(self) -> None:
        """There is none."""


class Order(Job):
    """A job, as far as it is believed. `lost` is set when another process turned out to have it."""

    BELIEVED: ClassVar = frozenset(
        b"data created_at enqueued_at started_at ended_at last_heartbeat status worker_name meta".split()
    )

    do: Callable[[Order], None]
    """Set by the worker: what doing it means. It looks at `turn` first."""
    lost = False

    @property
    def turn(self) -> tuple[str, int]:
        """The conversation and the turn that it is for. Raises `Refused`."""
        try:
            asked, instance, args, named = self.func_name, self.instance, self.args, self.kwargs
        except DeserializationError:
            raise Refused("it cannot be read") from None
        found = turn_of(self.id)
        if asked != FUNCTION:
            raise Refused("it asks for another function")
        if found is None or instance is not None or named or list(args) != list(found):
            raise Refused("it names no turn")
        return found

    @property
    def cause(self) -> str:
        """What the next attempt is to the log."""
        cause = self.meta.get("cause") if isinstance(self.meta, dict) else None
        return cause if cause in CAUSES else "claim"

    @classmethod
    def fetch(
        cls, id: str, connection: redis.Redis | None = None, serializer: Serializer | None = None
    ) -> Order:
        """Read a job. Raises `NoSuchJobError` also for one that cannot be read, which rq then passes over."""
        try:
            job = super().fetch(id, connection, serializer)
        except (ValueError, TypeError, LookupError, redis.ResponseError) as error:
            raise NoSuchJobError(f"{id[:60]!r} cannot be read: {error}") from error
        assert isinstance(job, Order)
        return job

    def restore(self, raw_data: Any) -> None:
        """Read the hash, without what this process does not believe."""
        super().restore({name: value for name, value in raw_data.items() if name in self.BELIEVED})
        # rq would note a failed one in a registry of the origin's name, which nobody prunes.
        self.origin = BATCH
        self.description = self.id
        self.timeout = NO_TIMEOUT
        self.ttl, self.result_ttl, self.failure_ttl = JOB_TTL_S, 0, JOB_TTL_S

    def put_back(self) -> None:
        """Let whoever has room do it next. Raises `PutBack`, on which rq enqueues it again."""
        self.retries_left, self.enqueue_at_front_on_retry = 1, True
        self.worker_name = None
        self.meta = {"cause": "handback"}
        raise PutBack

    def _execute(self) -> None:
        self.do(self)


class Orders(SimpleWorker):
    """Takes jobs, one at a time, until `drain`. `do` is called with each."""

    death_penalty_class = _NoAlarm
    job_class = Order

    def __init__(self, connection: redis.Redis, name: str, do: Callable[[Order], None]) -> None:
        queue = Queue(BATCH, connection=connection, job_class=Order, serializer=JSONSerializer)
        super().__init__(
            [queue], name=name, connection=connection, worker_ttl=WORKER_TTL_S, serializer=JSONSerializer
        )
        self.draining = False
        self._do = do
        self._error: redis.RedisError | None = None

    def take(self) -> None:
        """Take jobs until `drain`. Raises `RedisError`: then what was on its way or at work is to be put
        back, and this worker to be followed by a new one.
        """
        self.work(logging_level="WARNING")
        if not self.draining:
            raise self._error or redis.RedisError("rq gave up")

    def drain(self) -> None:
        """Take no more; `take` returns once what runs is done."""
        self.draining = self._stop_requested = True

    def keep(self, order: Order) -> None:
        """Say to rq that the job is being worked on. An error is logged, and the next time tries again."""
        with _optional():
            for execution in list(self.executions.values()):
                self.maintain_heartbeats(order, execution)
            self.connection.expire(order.key, JOB_TTL_S)

    # ---- what rq asks of a worker

    @property
    def dequeue_timeout(self) -> int:
        """How long one read waits, in seconds."""
        return BLOCK_S

    @property
    def connection_timeout(self) -> int:
        """How long a reply may take, in seconds."""
        return math.ceil(BLOCK_S + TIMEOUT_S)

    def register_birth(self) -> None:
        """Whoever had this name is dead: its supervisor gives it to one process at a time."""
        self.connection.delete(self.key)
        super().register_birth()  # type: ignore[no-untyped-call]

    def register_death(self) -> None:
        """Say that this process ends, as far as Redis takes it."""
        with _optional():
            super().register_death()  # type: ignore[no-untyped-call]

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Say that this process lives, as far as Redis takes it."""
        with _optional():
            super().heartbeat(timeout, pipeline)

    def run_maintenance_tasks(self) -> None:
        """Prune rq's lists. Whatever stands there: that keeps nobody from working."""
        try:
            super().run_maintenance_tasks()  # type: ignore[no-untyped-call]
        except Exception as error:
            log.warning("rq's lists cannot be pruned: %s", error)
        self.last_cleaned_at = now()  # type: ignore[assignment] # it is `None` at first

    def subscribe(self) -> None:
        """Listen to nobody: a drain is asked for by a signal."""

    def unsubscribe(self) -> None:
        """There is nothing to leave."""

    def _install_signal_handlers(self) -> None:
        """Signals are for the process's entry point."""

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """The next job; `None` once the process drains. No read is interrupted: its job would be lost."""
        (queue,) = self.queues
        with self._giving_up():
            while not self.draining:
                self.heartbeat()
                if self.should_run_maintenance_tasks:
                    self.run_maintenance_tasks()
                entry = self.connection.blmove(queue.key, queue.intermediate_queue_key, BLOCK_S)
                job = self._fetched(entry, queue) if entry else None
                if job is not None:
                    return job, queue
        return None

    def _fetched(self, entry: Any, queue: Queue) -> Order | None:
        """The job that an entry of the queue names; one that names none is dropped."""
        name = entry.decode(errors="replace")
        try:
            if turn_of(name) is None:
                raise NoSuchJobError(f"{name[:60]!r} names no turn")
            return Order.fetch(name, self.connection, JSONSerializer)
        except NoSuchJobError as error:
            log.debug("passed over: %s", error)
            self.connection.lrem(queue.intermediate_queue_key, 1, entry)
            return None

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Do a job, unless a living process has it."""
        assert isinstance(job, Order)
        job.do = self._do
        with self._giving_up():
            if self._is_held(job):
                return queue.intermediate_queue.remove(job.id)
            try:
                super().execute_job(job, queue)
            finally:
                # Whatever became of it: rq keeps a hash for ever that is written after it was deleted.
                self.connection.expire(job.key, JOB_TTL_S)
            if not job.lost and self.connection.hget(job.key, "status") == b"started":
                # To edges it would be in good hands.
                raise redis.RedisError("rq could not note what became of a job")

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        """Keep an error of Redis for `take`: rq would log a traceback, and `work` return all the same."""
        try:
            yield
        except redis.RedisError as error:
            self._error = error
            raise StopRequested from error

    def _is_held(self, job: Order) -> bool:
        holder = job.worker_name
        if job.get_status(refresh=False) != JobStatus.STARTED or holder in (None, self.name):
            return False
        return bool(self.connection.exists(worker_key(str(holder))))

    def prepare_job_execution(self, job: Job, remove_from_intermediate_queue: bool = False) -> None:
        """Note that the job is being worked on; a hash of rq's would have no TTL from here on."""
        super().prepare_job_execution(job, remove_from_intermediate_queue)
        self.connection.expire(job.key, JOB_TTL_S)

    def handle_job_success(
        self, job: Job, queue: Queue, started_job_registry: StartedJobRegistry, execution: Execution
    ) -> None:
        """Forget the job; but one that another process has, only as far as it is this one's."""
        if isinstance(job, Order) and job.lost:
            with self.connection.pipeline() as pipe:
                self.cleanup_execution(job, pipeline=pipe, execution=execution)
                pipe.execute()
        else:
            super().handle_job_success(job, queue, started_job_registry, execution)

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """Say in one line what became of a job that was not done."""
        error = exc_info[1]
        match error:
            case PutBack():
                log.info("put back: %s", job.id)
            case Refused():
                log.warning("a job was refused: %s: %s", job.id, error)
            case _:
                log.warning("a job was given up: %s: %s: %s", job.id, type(error).__name__, error)


@contextmanager
def _optional() -> Iterator[None]:
    """For what rq notes of a process: nothing depends on it, and the next time tries again."""
    try:
        yield
    except redis.RedisError as error:
        log.debug("rq's note of this process failed: %s", error)
