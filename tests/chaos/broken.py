"""A process in which one rule of `log.md` does not hold: what the checker is for must then happen.

`python -m tests.chaos.broken no-buffer workers.llm` is the worker of that name without that rule.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Callable
from dataclasses import replace

from edge import director
from shared.errors import StoreError
from shared.log import LogWriter, Verdict
from shared.wire import Address, Payload
from shared.work import WorkQueue
from workers import attempt

DEADLINE_S = 6.0
"""Longer than two leases of a worker, which a take-over after a take-over takes."""


def blind_append() -> None:
    """An append whose reply is lost is made once more, as new entries, as a client library's retries do."""
    append = LogWriter.append

    async def twice(self: LogWriter, *payloads: Payload) -> Address:
        self._give_up_s = 0.0
        try:
            return await append(self, *payloads)
        except StoreError:
            return await append(self, *payloads)

    LogWriter.append = twice  # type: ignore[method-assign]


def group_at_the_end() -> None:
    """A group that is missing is made anew behind all that was offered."""
    heal_ = WorkQueue._heal

    async def heal(self: WorkQueue, error: StoreError) -> None:
        await heal_(self, error)
        await self._store.call("XGROUP", "SETID", self.stream, "workers", "$")

    WorkQueue._heal = heal  # type: ignore[method-assign]


def no_buffer() -> None:
    """A writer has nothing but what it is just about to write: what Redis forgot is not written again."""

    async def write_from(self: LogWriter, seq: int) -> bool:
        while seq < len(self.entries):
            verdict, next_seq = await self._ask("parley_append_2", self._keys, self._append_args(seq))
            if verdict is Verdict.GAP:
                at_hand = self.entries[seq:]
                self.entries[next_seq:] = [
                    replace(entry, address=Address(self.turn, next_seq + place))
                    for place, entry in enumerate(at_hand)
                ]
            seq = next_seq
        return True

    LogWriter._write_from = write_from  # type: ignore[method-assign]


def stable_tag() -> None:
    """A writer's tag is its worker's name."""
    vars(attempt)["new_tag"] = lambda: os.environ["WORKER_NAME"]


def impatient() -> None:
    """No rule is broken: an edge only gives a turn up sooner, so that nobody has to wait for that."""
    director.DEADLINE_S = DEADLINE_S


RULES: dict[str, Callable[[], None]] = {
    rule.__name__.replace("_", "-"): rule
    for rule in (blind_append, group_at_the_end, no_buffer, stable_tag, impatient)
}


if __name__ == "__main__":
    RULES[sys.argv.pop(1)]()
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
