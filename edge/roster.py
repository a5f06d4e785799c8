"""The workers, in their own words, as this edge last read them in Redis.

A role whose last worker has gone keeps those that were last seen for a grace: one that starts again under its
supervisor, or could not announce itself while Redis was away, is missed by nobody.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass

from shared.keys import JOBS, WORKERS, Role, Trade, worker_key
from shared.store import Store

log = logging.getLogger(__name__)

GRACE_S = 10.0
"""How long the last workers of a role are believed in."""

LOOK_COUNTS_S = 1.5
"""What one look adds to that at the most: while Redis is away nobody can announce anything."""

TRADES: tuple[Trade, ...] = (*Role, JOBS)


@dataclass(frozen=True, slots=True)
class Voice:
    """A voice that a client may ask for, and its language (a BCP 47 tag)."""

    name: str
    language: str


@dataclass(frozen=True, slots=True)
class Worker:
    """One living worker, in its own words."""

    name: str
    role: Trade
    engine: str
    reason: str
    slots: int
    attached: int
    voices: tuple[Voice, ...]

    @classmethod
    def parse(cls, raw: bytes) -> Worker:
        """Read an announcement. Raises `ValueError`, `KeyError` or `TypeError` on anything else."""
        said = json.loads(raw)
        return cls(
            name=str(said["name"]),
            role=JOBS if said["role"] == JOBS else Role(said["role"]),
            engine=str(said["engine"]),
            reason=str(said["reason"]),
            slots=int(said["slots"]),
            attached=int(said["attached"]),
            voices=tuple(Voice(str(each["name"]), str(each["language"])) for each in said["voices"]),
        )


class Roster:
    """Who works here."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._members: dict[Trade, tuple[Worker, ...]] = dict.fromkeys(TRADES, ())
        self._missed_s: dict[Trade, float] = dict.fromkeys(TRADES, 0.0)
        self._looked_at = 0.0

    @property
    def workers(self) -> tuple[Worker, ...]:
        """All of them, those that are believed in included."""
        return tuple(worker for trade in TRADES for worker in self._members[trade])

    def of(self, trade: Trade) -> tuple[Worker, ...]:
        """Those of one trade."""
        return self._members[trade]

    async def look(self, *, muted: bool) -> None:
        """Read the announcements. Raises `StoreError`.

        `muted`: nobody can write any at the moment, so that one which lapsed means nothing.
        """
        announced = await self._announced()
        now = time.monotonic()
        passed_s = 0.0 if muted else min(now - self._looked_at, LOOK_COUNTS_S)
        self._looked_at = now
        for trade in TRADES:
            found = tuple(worker for worker in announced if worker.role == trade)
            self._missed_s[trade] = 0.0 if found else self._missed_s[trade] + passed_s
            if found or self._missed_s[trade] > GRACE_S:
                self._members[trade] = found

    async def _announced(self) -> list[Worker]:
        names = sorted(name.decode() for name in await self._store.call("SMEMBERS", WORKERS))
        replies = await self._store.call_all([("GET", worker_key(name)) for name in names]) if names else []
        gone = [name for name, raw in zip(names, replies, strict=True) if raw is None]
        if gone:
            # A worker that lives puts its name back with its next beat.
            await self._store.call("SREM", WORKERS, *gone)
        return _parsed(raw for raw in replies if raw is not None)


def _parsed(announcements: Iterable[bytes]) -> list[Worker]:
    workers = []
    for raw in announcements:
        try:
            workers.append(Worker.parse(raw))
        except (ValueError, KeyError, TypeError) as error:
            log.warning("an announcement that cannot be read: %r", error)
    return workers
