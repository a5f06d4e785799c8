"""The turn-addressed log: append, take, close, read. The Functions in `log.lua` decide; this obeys.

A writer keeps what it wrote to its turn, because Redis may forget its last seconds: on `GAP` it writes its
memory again from there. A lost reply is answered by sending the same append again, which is the only retry.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from typing import TypeVar

from shared.errors import (
    EntryGarbled,
    LogError,
    StoreError,
    StoreFull,
    TurnBusy,
    TurnClosed,
    TurnFull,
    TurnTaken,
)
from shared.store import Arg, Call, Reply, Store
from shared.wire import Address, Closed, Entry, Log, Payload, Take

log = logging.getLogger(__name__)

T = TypeVar("T")

BATCH_BYTES = 256 << 10
BATCH_ENTRIES = 256
"""What one append carries at the most, so that a long rewrite does not hold the server up."""

GIVE_UP_S = 30.0
"""How long an append is tried while Redis does not answer."""

BUSY_S = 5.0
"""How long a turn that has begun waits for the end of the one before it, if Redis forgot that."""

AGAIN_S = 0.1
"""How often it looks."""

REWRITTEN_S = 2.0
"""How long a closing waits for entries that Redis forgot: their writers look for them each second."""

_BACKOFF_S = (0.02, 1.0)


class Verdict(StrEnum):
    """What a Function answers; `log.lua` has the table."""

    OK = "OK"
    DUP = "DUP"
    GAP = "GAP"
    CLOSED = "CLOSED"
    BUSY = "BUSY"
    TAKEN = "TAKEN"
    FULL = "FULL"


_REFUSALS: dict[Verdict, type[LogError]] = {
    Verdict.CLOSED: TurnClosed,
    Verdict.BUSY: TurnBusy,
    Verdict.TAKEN: TurnTaken,
    Verdict.FULL: TurnFull,
}


class LogWriter:
    """Writes one turn of one log, under one tag.

    `session_key` is given by an edge: another session's tag there makes its appends `TurnTaken`. `busy_s`:
    how long a turn that has begun waits when the one before it is open again.
    """

    def __init__(
        self,
        store: Store,
        key: str,
        turn: int,
        tag: str,
        *,
        max_turn_bytes: int,
        ttl_s: float,
        session_key: str | None = None,
        give_up_s: float = GIVE_UP_S,
        busy_s: float = BUSY_S,
    ) -> None:
        self.turn = turn
        self.tag = tag
        self.entries: list[Entry] = []
        """The turn as it stands, from seq 0: read at `take`, then grown by `append`."""
        self._store = store
        self._key = key
        self._keys = (key,) if session_key is None else (key, session_key)
        self._max_turn_bytes = max_turn_bytes
        self._ttl_ms = int(ttl_s * 1000)
        self._give_up_s = give_up_s
        self._busy_s = busy_s
        self._begun = False
        self._lock = asyncio.Lock()

    async def take(self, cause: str, worker: str = "") -> None:
        """Make the turn one's own, then read what stands there into `entries`.

        Raises `TurnClosed`, `TurnBusy` and `TurnTaken`, `EntryGarbled` when it cannot be read, `StoreError`
        when Redis is gone for too long.
        """
        payload = Take(cause, worker).to_fields()
        args: list[Arg] = [self.turn, self.tag, self._ttl_ms, _now_us(), *payload]
        await self._ask("parley_take_2", (self._key,), args)
        # Taken first, read second: nothing can be written under us between the two.
        start = Address(self.turn, 0)
        self.entries = await persist(
            lambda: read_log(self._store, self._key, start, self.turn), self._give_up_s
        )
        if self.entries and self.entries[-1].final:
            # Closed in between. What is final must never be in the memory that is written again on `GAP`.
            raise TurnClosed(f"{self._key}: turn {self.turn} is final")

    async def append(self, *payloads: Payload) -> Address:
        """Write the payloads, all or none, as the turn's next entries; the address of the last.

        Raises `TurnClosed`, `TurnTaken`, `TurnBusy`, `TurnFull`; `StoreFull` at `maxmemory` and `StoreError`
        when Redis is gone for longer than the writer waits. After an error the writer is of no more use, but
        for `confirm` after `TurnBusy` and `TurnClosed`.
        """
        async with self._lock:
            start = len(self.entries)
            at_us = _now_us()
            # Remembered before it is sent: what is in flight may stand in the log, whatever the reply says.
            self.entries += (
                Entry(Address(self.turn, start + i), self.tag, at_us, payload)
                for i, payload in enumerate(payloads)
            )
            last = self.entries[-1].address
            try:
                await self._write_from(start)
            except TurnClosed:
                del self.entries[start:]  # None of these stands there, nor ever will.
                raise
            return last

    async def confirm(self) -> bool:
        """Whether all that was appended stands; what Redis has forgotten of it, or never took, is written.

        Raises as `append` does, but may be asked again after an error.
        """
        async with self._lock:
            return await self._write_from(len(self.entries) - 1)

    async def _write_from(self, seq: int) -> bool:
        """Write what is not there yet; whether there was nothing of that."""
        stood = True
        while seq < len(self.entries):
            verdict, next_seq = await self._append(seq)
            if verdict is Verdict.GAP:
                log.warning("redis forgot %s from %d-%d on: written again", self._key, self.turn, next_seq)
            stood = stood and verdict is Verdict.DUP
            seq = next_seq
        return stood

    async def _append(self, seq: int) -> tuple[Verdict, int]:
        give_up_at = time.monotonic() + (self._busy_s if self._begun else 0.0)
        while True:
            try:
                return await self._ask("parley_append_2", self._keys, self._append_args(seq))
            except TurnBusy:
                # It could begin once: so Redis forgot the end of the turn before, which its writer has yet.
                if time.monotonic() > give_up_at:
                    raise
            await asyncio.sleep(random.uniform(0.5, 1.0) * AGAIN_S)

    def _append_args(self, seq: int) -> list[Arg]:
        args: list[Arg] = [self.turn, seq, self.tag, self._max_turn_bytes, self._ttl_ms]
        size = 0
        for entry in self.entries[seq : seq + BATCH_ENTRIES]:
            payload = entry.payload.to_fields()
            args += [len(payload), entry.payload.kind, entry.at_us, *payload]
            size += sum(map(len, payload))
            if size >= BATCH_BYTES:
                break
        return args

    async def _ask(self, function: str, keys: Sequence[str], args: Sequence[Arg]) -> tuple[Verdict, int]:
        judged = _judged(await insist(self._store, function, keys, args, self._give_up_s), keys[0])
        self._begun = True
        return judged


async def close_turn(
    store: Store,
    keys: Sequence[str],
    turn: int,
    tag: str,
    closed: Closed,
    *,
    ttl_s: float,
    session_key: str | None = None,
    owner: bool = False,
    seen: Sequence[int] = (),
) -> list[Address | None]:
    """Close the turn in each log of `keys`, in one round trip; where the `closed` entry stands in each.

    `None` stands for a log where a later turn has begun: there is nothing left to close. `seen`: the last seq
    of the turn that was read in each log, -1 for none; what Redis forgot of that is waited for, as long as a
    living writer needs to write it again. Raises `TurnTaken` when `session_key` holds another session's tag,
    or when `owner` is asked for and the tail is another's.
    """
    extra = () if session_key is None else (session_key,)
    head: list[Arg] = [turn, tag, int(ttl_s * 1000), _now_us(), int(owner)]
    nothing = [-1] * len(keys)

    async def ask(seen: Sequence[int]) -> list[tuple[Verdict, int | None]]:
        calls: list[Call] = [
            ("parley_close_2", (key, *extra), [*head, seq, *closed.to_fields()])
            for key, seq in zip(keys, seen, strict=True)
        ]
        replies = await persist(lambda: store.functions(calls), GIVE_UP_S)
        return [_placed(reply, key) for key, reply in zip(keys, replies, strict=True)]

    give_up_at = time.monotonic() + REWRITTEN_S
    placed = await ask(seen or nothing)
    while any(verdict is Verdict.GAP for verdict, _ in placed):
        await asyncio.sleep(AGAIN_S)
        placed = await ask(seen if time.monotonic() < give_up_at else nothing)
    return [None if seq is None else Address(turn, seq) for _, seq in placed]


async def read_log(
    store: Store, key: str, first: Address, last_turn: int | None = None, *, count: int | None = None
) -> list[Entry]:
    """The entries from `first` on, through `last_turn` or to the log's end; at most `count` of them.

    Raises `EntryGarbled` and `StoreError`.
    """
    entries, garbled = await read_readable(store, key, first, last_turn, count=count)
    if garbled is not None:
        raise garbled
    return entries


async def read_readable(
    store: Store, key: str, first: Address, last_turn: int | None = None, *, count: int | None = None
) -> tuple[list[Entry], EntryGarbled | None]:
    """The same up to the first entry that cannot be read, and what is to be said of that."""
    end = "+" if last_turn is None else str(last_turn)
    command: list[Arg] = ["XRANGE", key, f"{first.turn}-{max(first.seq, 0)}", end]
    if count is not None:
        command += ["COUNT", count]
    kind, entries = log_of(key), []
    for entry_id, flat in await store.call(*command):
        try:
            entries.append(Entry.from_fields(kind, entry_id, flat))
        except EntryGarbled as error:
            return entries, error
    return entries, None


async def tail(store: Store, key: str) -> Entry | None:
    """The last entry of the log, or `None` for an empty one. Raises `EntryGarbled` and `StoreError`."""
    found = await store.call("XREVRANGE", key, "+", "-", "COUNT", 1)
    return Entry.from_fields(log_of(key), *found[0]) if found else None


async def trim_log(
    store: Store, key: str, first_turn: int, tag: str = "", *, session_key: str | None = None
) -> None:
    """Drop the turns before `first_turn`, exactly those.

    Raises `TurnTaken` when `session_key` holds another session's tag: that may count on what it has found.
    """
    keys = (key,) if session_key is None else (key, session_key)
    _judged(await store.function("parley_trim_2", keys, first_turn, tag), key)


async def insist(
    store: Store, function: str, keys: Sequence[str], args: Sequence[Arg], give_up_s: float = GIVE_UP_S
) -> Reply:
    """Call a Function that is safe to repeat until Redis answers; `StoreError` after `give_up_s`."""
    return await persist(lambda: store.function(function, keys, *args), give_up_s)


def log_of(key: str) -> Log:
    """Which of the three logs a key names."""
    return Log(key.rpartition(":")[2])


async def persist(call: Callable[[], Awaitable[T]], give_up_s: float = GIVE_UP_S) -> T:
    """Do what is safe to repeat until Redis answers; `StoreError` after `give_up_s`, `StoreFull` at once."""
    give_up_at = time.monotonic() + give_up_s
    delay_s = _BACKOFF_S[0]
    while True:
        try:
            return await call()
        except StoreFull:
            raise
        except StoreError as error:
            if time.monotonic() + delay_s > give_up_at:
                raise
            log.debug("asking again in %.0f ms: %s", delay_s * 1000, error)
        await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
        delay_s = min(delay_s * 2, _BACKOFF_S[1])


def _judged(reply: Reply, key: str) -> tuple[Verdict, int]:
    verdict, place = Verdict(reply[0].decode()), int(reply[1])
    refusal = _REFUSALS.get(verdict)
    if refusal is not None:
        raise refusal(f"{key}: {verdict}")
    return verdict, place


def _placed(reply: Reply, key: str) -> tuple[Verdict, int | None]:
    """What a closing came to, and where it stands; `None` where a later turn has begun."""
    try:
        return _judged(reply, key)
    except TurnClosed:
        return Verdict.CLOSED, None


def _now_us() -> int:
    return time.time_ns() // 1000
