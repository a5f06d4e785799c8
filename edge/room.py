"""What the workers announce of themselves, as this edge last saw it: engines, voices, whether there is room.

Read from Redis each second. The edge knows engines and voices from here alone and imports none of them.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shared.errors import ClientError, StoreError
from shared.keys import (
    GROUP,
    JOBS,
    MAX_WAITING_JOBS,
    WORKERS,
    Role,
    Trade,
    batch_key,
    work_key,
    worker_key,
)
from shared.store import Reply, Store
from shared.text import speaks

log = logging.getLogger(__name__)

POLL_S = 1.0

UNCLAIMED_S = 5.0
"""How long the oldest offered turn may wait for a worker before no more turns are let in."""

RETRY_AFTER_MS = 1000.0

ROLE_NAMES = {Role.REPLY: "llm", Role.SPEAK: "tts"}
"""How people and clients call the roles."""


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


class Room:
    """The workers and the load of the work streams. `run` must be running for it to stay true."""

    def __init__(self, store: Store) -> None:
        self.workers: tuple[Worker, ...] = ()
        self.reachable = False
        """Whether Redis answered the last time it was asked."""
        self.unclaimed_s = 0.0
        """How long the oldest offered turn has been waiting for a worker."""
        self.waiting_jobs = 0
        """How many batch turns wait for a jobs process."""
        self.seen = asyncio.Event()
        """Set after the first look that Redis answered."""
        self._store = store
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Look each second, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(POLL_S)

    async def look(self) -> None:
        """Look once. While Redis is away, the workers last seen are still believed in."""
        try:
            self.workers = await self._announced()
            self.unclaimed_s = max([await self._waiting_s(role) for role in Role])
            self.waiting_jobs = await self._store.call("LLEN", batch_key())
        except StoreError as error:
            if self.reachable:
                log.warning("redis is away: %s", error)
            self.reachable = False
        else:
            self.reachable = True
            self.seen.set()
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def until_ready(self) -> None:
        """Wait until `ready` is true."""
        while not self.ready:
            await self._changed.wait()

    @property
    def ready(self) -> bool:
        """Whether a turn that begins now would be answered."""
        return self.reachable and self.missing() is None

    def missing(self) -> Role | None:
        """A role that no living worker has."""
        roles = {worker.role for worker in self.workers}
        return next((role for role in Role if role not in roles), None)

    def engines(self) -> dict[str, str | None]:
        """The engine of each role by name; several at once stand with commas between them."""
        found = {role: sorted({w.engine for w in self.workers if w.role is role}) for role in Role}
        return {ROLE_NAMES[role]: ", ".join(found[role]) or None for role in Role}

    def reasons(self) -> list[str]:
        """A line for each engine of the workers: which was taken and why."""
        return sorted({f"{ROLE_NAMES[w.role]}: {w.reason}" for w in self.workers if w.role != JOBS})

    def voices(self) -> list[Voice]:
        """Every voice once, the default one first."""
        return list(dict.fromkeys(voice for worker in self.workers for voice in worker.voices))

    def admit(self, *, batch: bool = False) -> None:
        """Raises `ClientError` `overloaded` when a turn that begins now would wait.

        `batch`: it is one for a jobs process, which needs no other worker.
        """
        if batch:
            return self._admit_job()
        missing = self.missing()
        if missing is not None:
            raise overloaded(f"no {ROLE_NAMES[missing]} worker is running")
        if self.unclaimed_s > UNCLAIMED_S:
            raise overloaded("every worker is busy")

    def _admit_job(self) -> None:
        processes = sum(worker.role == JOBS for worker in self.workers)
        if not processes:
            raise overloaded(f"no {JOBS} worker is running")
        if self.waiting_jobs >= processes * MAX_WAITING_JOBS:
            raise overloaded(f"every {JOBS} worker is busy")

    def check(self, voice: str | None, language: str | None) -> None:
        """Raises `ClientError` `unsupported` for a voice or a language that no worker speaks, and for a
        voice with a language that is not its own. While no worker is known, everything passes.
        """
        voices = self.voices()
        if not voices:
            return
        named = [each for each in voices if voice in (None, each.name)]
        if voice is not None and not named:
            raise ClientError("unsupported", f"there is no voice {voice[:60]!r}")
        if language is None or any(speaks(each.language, language) for each in named):
            return
        if voice is None:
            raise ClientError("unsupported", f"no voice speaks the language {language[:60]!r}")
        raise ClientError(
            "unsupported",
            f"the voice {voice!r} speaks {_listed(each.language for each in named)}, not {language[:60]!r}: "
            "name a voice of that language, or leave the language to the voice",
        )

    def speaks(self, voice: str, language: str) -> bool:
        """Whether a voice is known to speak a language."""
        return any(each.name == voice and speaks(each.language, language) for each in self.voices())

    def voice(self, voice: str | None, language: str | None) -> Voice | None:
        """The voice that a turn with these settings is spoken with, as far as it is known."""
        named = [each for each in self.voices() if voice in (None, each.name)]
        fitting = [each for each in named if language is None or speaks(each.language, language)]
        return fitting[0] if fitting else None

    async def _announced(self) -> tuple[Worker, ...]:
        names = sorted(name.decode() for name in await self._store.call("SMEMBERS", WORKERS))
        replies = await self._store.call_all([("GET", worker_key(name)) for name in names]) if names else []
        gone = [name for name, raw in zip(names, replies, strict=True) if raw is None]
        if gone:
            # A worker that lives puts its name back with its next beat.
            await self._store.call("SREM", WORKERS, *gone)
        return tuple(_parsed(raw for raw in replies if raw is not None))

    async def _waiting_s(self, role: Role) -> float:
        """How long the oldest turn that no worker has claimed stands in the work stream."""
        stream = work_key(role)
        try:
            groups = await self._store.call("XINFO", "GROUPS", stream)
        except StoreError as error:
            if "no such key" in str(error):
                return 0.0
            raise
        first, now = await self._store.call_all(
            [("XRANGE", stream, _after(groups), "+", "COUNT", 1), ("TIME",)]
        )
        if not first:
            return 0.0
        offered_ms = int(first[0][0].partition(b"-")[0])
        return max(0.0, int(now[0]) + int(now[1]) / 1e6 - offered_ms / 1e3)


def overloaded(message: str) -> ClientError:
    """The refusal of whatever there is no room for at the moment."""
    return ClientError("overloaded", message, retryable=True, retry_after_ms=RETRY_AFTER_MS)


def _parsed(announcements: Iterable[bytes]) -> list[Worker]:
    workers = []
    for raw in announcements:
        try:
            workers.append(Worker.parse(raw))
        except (ValueError, KeyError, TypeError) as error:
            log.warning("an announcement that cannot be read: %r", error)
    return workers


def _after(groups: Sequence[Reply]) -> str:
    for flat in groups:
        group = dict(zip(flat[::2], flat[1::2], strict=True))
        if group[b"name"] == GROUP.encode():
            return "(" + str(group[b"last-delivered-id"].decode())
    return "-"


def _listed(languages: Iterable[str]) -> str:
    return ", ".join(map(repr, dict.fromkeys(languages)))
