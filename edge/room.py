"""Whether there is room for one more turn or conversation, and what voices it may be spoken with.

Looks into Redis each second, and sooner while room is short: at the workers, their work streams, its memory.
The edge knows engines and voices from there alone and imports none of them.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Iterable
from contextlib import suppress

from edge.backlog import Backlog
from edge.roster import Roster, Voice, Worker
from shared.errors import ClientError, StoreError
from shared.keys import JOBS, MAX_WAITING_JOBS, Role, batch_key
from shared.store import Store
from shared.text import speaks

log = logging.getLogger(__name__)

POLL_S = 1.0
SOON_S = 0.1
"""After how long it is looked again while room is short, or Redis away."""

AWAY_S = 2.0
"""For how long Redis may be silent before nothing more is let in: running turns wait for it much longer."""

FULL_AT = 0.95
"""Share of its `maxmemory` at which Redis counts as full: what is left is for the turns that run."""

RETRY_AFTER_MS = 1000.0
"""When to come back where there is just no room; later in proportion, the more is asked for than there is."""

MOST_LOAD = 10.0

ROLE_NAMES = {Role.REPLY: "llm", Role.SPEAK: "tts"}
"""How people and clients call the roles."""


class Room:
    """The workers and the load, as last seen. `run` must be running for it to stay true."""

    def __init__(self, store: Store, *, admit_within_s: float) -> None:
        self.reachable = False
        """Whether Redis answered the last time it was asked."""
        self.waiting_jobs = 0
        """How many batch turns wait for a jobs process."""
        self.seen = asyncio.Event()
        """Set after the first look that Redis answered."""
        self._store = store
        self._admit_within_s = admit_within_s
        self._roster = Roster(store)
        self._backlogs = {role: Backlog(store, role) for role in Role}
        self._memory = 0.0
        self._begun = 0
        """How many turns began here since the last look, less those that ended."""
        self._asked_at: float | None = None
        self._changed = asyncio.Event()
        self._short = asyncio.Event()

    async def run(self) -> None:
        """Look each second, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(SOON_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S - SOON_S):
                    await self._short.wait()

    async def look(self) -> None:
        """Look once. While Redis is away, what was last seen is still believed in."""
        self._short.clear()
        if self._asked_at is None:
            self._asked_at = time.monotonic()
        try:
            self._memory = _memory_used(await self._store.call("INFO", "memory"))
            await self._roster.look(muted=self.full)
            # What begins meanwhile may be in the streams too: rather it is counted twice for a moment.
            self._begun = 0
            for backlog in self._backlogs.values():
                await backlog.look()
            self.waiting_jobs = await self._store.call("LLEN", batch_key())
        except StoreError as error:
            if self.reachable:
                log.warning("redis is away: %s", error)
            self.reachable = False
            self._short.set()
        else:
            self.reachable, self._asked_at = True, None
            self.seen.set()
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def until_ready(self) -> None:
        """Wait until `ready` is true."""
        while not self.ready:
            await self._changed.wait()

    @property
    def workers(self) -> tuple[Worker, ...]:
        """The workers that live, and the last of a role that may be back in a moment."""
        return self._roster.workers

    @property
    def ready(self) -> bool:
        """Whether conversations can be had here, if there is room for them."""
        return not self.away and self.missing() is None

    @property
    def away(self) -> bool:
        """Whether Redis has been silent for so long that nothing more is let in."""
        return self._silent_s > AWAY_S

    @property
    def full(self) -> bool:
        """Whether Redis refuses writes, or is about to."""
        return self._memory >= FULL_AT

    @property
    def unclaimed_s(self) -> float:
        """How long the oldest offered turn has been waiting for a worker."""
        return max(backlog.waited_s for backlog in self._backlogs.values())

    def free(self, role: Role) -> int:
        """How many more turns the workers of a role have slots for, as far as is known between two looks."""
        return self._slots(role) - self._backlogs[role].turns - self._begun

    def missing(self) -> Role | None:
        """A role that no worker has."""
        return next((role for role in Role if not self._roster.of(role)), None)

    def engines(self) -> dict[str, str | None]:
        """The engine of each role by name; several at once stand with commas between them."""
        found = {role: sorted({worker.engine for worker in self._roster.of(role)}) for role in Role}
        return {ROLE_NAMES[role]: ", ".join(found[role]) or None for role in Role}

    def reasons(self) -> list[str]:
        """A line for each engine of the workers: which was taken and why."""
        return sorted({f"{ROLE_NAMES[w.role]}: {w.reason}" for w in self.workers if w.role != JOBS})

    def voices(self) -> list[Voice]:
        """Every voice once, the default one first."""
        return list(dict.fromkeys(voice for worker in self.workers for voice in worker.voices))

    def admit_conversation(self) -> None:
        """Raises `ClientError` `overloaded` when a turn that begins now would be refused."""
        self._check_store()
        if self.missing() is None or not self._roster.of(JOBS):
            self._check_workers(given_back=0)

    def admit(self, *, batch: bool = False, replaces: bool = False) -> None:
        """Let a turn in. Raises `ClientError` `overloaded` when one that begins now would wait.

        `batch`: it is one for a jobs process, which needs no other worker. `replaces`: another turn of its
        conversation ends before it is offered, and gives a slot back.
        """
        self._check_store()
        if batch:
            return self._check_jobs()
        self._check_workers(given_back=int(replaces))
        self._begun += 1
        if any(2 * self.free(role) < self._slots(role) for role in Role):
            self._short.set()

    def turn_ended(self) -> None:
        """The answer to a turn that began here is whole, or cut off: its slots are free."""
        self._begun -= 1

    def refused_write(self) -> None:
        """Redis has just refused a write because it is full: believe that until the next look."""
        self._memory = max(self._memory, 1.0)
        self._short.set()

    @property
    def _silent_s(self) -> float:
        return 0.0 if self._asked_at is None else time.monotonic() - self._asked_at

    def _slots(self, role: Role) -> int:
        return sum(worker.slots for worker in self._roster.of(role))

    def _check_store(self) -> None:
        if self.away:
            raise overloaded("the store is away", self._silent_s / AWAY_S)
        if self.full:
            raise overloaded("there is no memory for another turn", self._memory / FULL_AT)

    def _check_workers(self, *, given_back: int) -> None:
        missing = self.missing()
        if missing is not None:
            raise overloaded(f"no {ROLE_NAMES[missing]} worker is running")
        if self.unclaimed_s > self._admit_within_s:
            raise self._crowded("every worker is busy", self.unclaimed_s / self._admit_within_s)
        for role in Role:
            free, slots = self.free(role) + given_back, self._slots(role)
            if free <= 0:
                raise self._crowded(f"every {ROLE_NAMES[role]} worker is busy", 1 - free / max(1, slots))

    def _crowded(self, message: str, load: float) -> ClientError:
        self._short.set()
        return overloaded(message, load)

    def _check_jobs(self) -> None:
        room = len(self._roster.of(JOBS)) * MAX_WAITING_JOBS
        if not room:
            raise overloaded(f"no {JOBS} worker is running")
        if self.waiting_jobs >= room:
            raise overloaded(f"every {JOBS} worker is busy", self.waiting_jobs / room)

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


def overloaded(message: str, load: float = 1.0) -> ClientError:
    """The refusal of whatever there is no room for at the moment. `load`: asked for, over what there is."""
    return ClientError("overloaded", message, retryable=True, retry_after_ms=retry_after_ms(load))


def retry_after_ms(load: float = 1.0) -> float:
    """When to try again, never the same for two: they would all be back at once."""
    return round(RETRY_AFTER_MS * min(max(load, 1.0), MOST_LOAD) * random.uniform(0.75, 1.25))


def _memory_used(info: bytes) -> float:
    """Which share of its `maxmemory` Redis uses; 0 without one, or where it evicts rather than refuses."""
    said = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    most = int(said["maxmemory"])
    if not most or said["maxmemory_policy"] != "noeviction":
        return 0.0
    return int(said["used_memory"]) / most


def _listed(languages: Iterable[str]) -> str:
    return ", ".join(map(repr, dict.fromkeys(languages)))
