"""Follows logs: pushed for speed, read for truth.

One `Reader` in a process holds one connection that the pushes of all its logs arrive on. Each `Cursor` on a
log delivers every entry once and in order; whatever is not simply the next one is repaired from the log, by
the cursor's own consumer. The order that makes this sound is: subscribe, wait for the confirmation, then
read from the last entry held, inclusive. (Reading first loses entries, about 4 in 100 under disconnects.)
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import defaultdict, deque

import msgpack

from shared.errors import EntryGarbled, StoreError, StoryForked
from shared.log import log_of, read_log, read_readable
from shared.store import Pushes, Store
from shared.wire import Address, Entry, Take

log = logging.getLogger(__name__)

BUFFER_ENTRIES = 64
"""What a cursor holds for a slow consumer; the rest waits in the log."""

PAGE_ENTRIES = 64
"""What one repair reads; a longer gap takes several."""

SILENCE_S = (1.0, 2.0, 4.0, 8.0)
"""When a silent log is looked at, for a push that was lost may have been the last one."""

SUBSCRIBE_AT_ONCE = 200

PING_S = 1.0
PONG_WITHIN_S = 2.0

AGAIN_S = (0.05, 0.2)
"""The pause, at random between these, before a log is read again after an error."""

MISSING_S = (0.05, 8.0)
"""How often, and for how long, an entry that Redis forgot is waited for: its living writer rewrites it."""


class Reader:
    """All cursors of a process on one server. `run` must be running for pushes to arrive."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._cursors: defaultdict[str, set[Cursor]] = defaultdict(set)
        self._pushes: Pushes | None = None
        self._pong_at = 0.0
        self._sending: set[asyncio.Task[None]] = set()

    def follow(self, key: str, after: Address) -> Cursor:
        """A cursor that delivers what follows `after`; `Address(n, -1)` means from the start of turn n.

        Entries of turns that were trimmed meanwhile are passed over.
        """
        cursor = Cursor(self, self._store, key, after)
        fresh = key not in self._cursors
        self._cursors[key].add(cursor)
        if fresh:
            self._send("subscribe", key)
        return cursor

    def leave(self, cursor: Cursor) -> None:
        """Stop delivering to the cursor. (`Cursor.close` calls this.)"""
        followers = self._cursors.get(cursor.key)
        if followers is None:
            return
        followers.discard(cursor)
        if not followers:
            del self._cursors[cursor.key]
            self._send("unsubscribe", cursor.key)

    async def run(self) -> None:
        """Keep the subscription up, for ever: connect, subscribe, hand pushes out; on any error, again."""
        delay_s = 0.02
        while True:
            started = time.monotonic()
            try:
                await self._session()
            except StoreError as error:
                log.warning("pushes interrupted: %s", error)
            if time.monotonic() - started > 5.0:
                delay_s = 0.02
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
            delay_s = min(delay_s * 2, 0.5)

    async def _session(self) -> None:
        pushes = await self._store.pushes()
        self._pushes, self._pong_at = pushes, time.monotonic()
        alive = asyncio.create_task(self._keep_alive(pushes), name="reader-keep-alive")
        try:
            keys = list(self._cursors)
            for start in range(0, len(keys), SUBSCRIBE_AT_ONCE):
                await pushes.subscribe(keys[start : start + SUBSCRIBE_AT_ONCE])
            while True:
                kind, key, data = await pushes.read()
                match kind:
                    case "smessage":
                        self._deliver(key, data)
                    case "ssubscribe":
                        # Only from here on can nothing be missed, so now the log is compared.
                        for cursor in self._cursors.get(key, ()):
                            cursor.look()
                    case "pong":
                        self._pong_at = time.monotonic()
                    case "sunsubscribe" if key in self._cursors:
                        # The server took it away (a slot moved), or it crossed with a new follower.
                        self._send("subscribe", key)
        finally:
            self._pushes = None
            alive.cancel()
            await pushes.close()

    async def _keep_alive(self, pushes: Pushes) -> None:
        while time.monotonic() - self._pong_at < PONG_WITHIN_S:
            try:
                await pushes.ping()
            except StoreError:
                break
            await asyncio.sleep(PING_S)
        # Ends the read that waits on it; never a timeout round the read itself, which would lose bytes.
        await pushes.close()

    def _deliver(self, key: str, data: bytes) -> None:
        followers = self._cursors.get(key)
        if not followers:
            return
        try:
            entry_id, flat = msgpack.unpackb(data, raw=True)
            entry = Entry.from_fields(log_of(key), entry_id, flat)
        except (EntryGarbled, TypeError, ValueError, msgpack.UnpackException) as error:
            # Anybody may publish on a channel. What stands in the log concerns its own readers only.
            log.warning("%s: a push that cannot be read: %r", key, error)
            for cursor in followers:
                cursor.look()
        else:
            for cursor in followers:
                cursor.push(entry)

    def _send(self, verb: str, key: str) -> None:
        if self._pushes is not None:
            task = asyncio.create_task(self._sent(self._pushes, verb, key))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _sent(self, pushes: Pushes, verb: str, key: str) -> None:
        try:
            # What is wanted now counts, not what was wanted when this was queued.
            if verb == "subscribe" and key in self._cursors:
                await pushes.subscribe([key])
            elif verb == "unsubscribe" and key not in self._cursors:
                await pushes.unsubscribe([key])
        except StoreError as error:
            log.debug("%s %s: %s", verb, key, error)
            await pushes.close()


class Cursor:
    """A place in one log. An async iterator of `Entry`: each once, in order, across turns.

    Raises `StoryForked` when Redis lost entries that were already delivered and another story, or none, took
    their place, `EntryGarbled` behind the last entry that can be read, and `StoreError` never: while Redis is
    away, it waits.
    """

    def __init__(self, reader: Reader, store: Store, key: str, after: Address) -> None:
        self.key = key
        self._idle = False
        self._reader = reader
        self._store = store
        self._held = after
        self._held_entry: Entry | None = None
        self._told = after
        self._told_entry: Entry | None = None
        """The last one held that is more than a take."""
        self._ready: deque[Entry] = deque()
        self._behind = True
        self._stale = False
        self._garbled: EntryGarbled | None = None
        """What ended the page that was read last."""
        self._waiter: asyncio.Future[None] | None = None

    @property
    def idle(self) -> bool:
        """Set while no turn is open: nothing is expected then, and silence is not looked into."""
        return self._idle

    @idle.setter
    def idle(self, idle: bool) -> None:
        if self._idle and not idle:
            self._wake()
        self._idle = idle

    def __aiter__(self) -> Cursor:
        return self

    async def __anext__(self) -> Entry:
        return await self.next()

    async def next(self) -> Entry:
        """The next entry, as soon as there is one."""
        silence = iter(SILENCE_S)
        while not self._ready:
            if self._behind:
                await self._repair()
            else:
                await self._wait(None if self.idle else next(silence, SILENCE_S[-1]))
        return self._ready.popleft()

    def next_nowait(self) -> Entry | None:
        """The next entry if it is already here."""
        return self._ready.popleft() if self._ready else None

    async def caught_up(self) -> bool:
        """Whether the entry delivered last is the last of the log. Looks there only if that is unknown."""
        while self._behind and not self._ready:
            await self._repair()
        return not self._ready

    def push(self, entry: Entry) -> None:
        """Take what was pushed if it is the next entry; otherwise note that something is to be repaired."""
        if self._behind:
            # The log, which will be read, has it. To go on from here would skip the look at what is held.
            self._stale = True
            return
        if not self._follows(entry):
            if entry.address < self._held or entry == self._held_entry:
                return
            self._behind = True
        elif len(self._ready) >= BUFFER_ENTRIES:
            self._behind = True
        else:
            self._accept(entry)
        self._wake()

    def look(self) -> None:
        """Compare with the log at the next chance."""
        self._behind = self._stale = True
        self._wake()

    def close(self) -> None:
        """Stop following."""
        self._reader.leave(self)

    def _follows(self, entry: Entry) -> bool:
        turn, seq = entry.address
        if turn == self._held.turn:
            return seq == self._held.seq + 1
        ended = self._held_entry is not None and self._held_entry.final
        return ended and turn > self._held.turn and seq == 0

    def _accept(self, entry: Entry) -> None:
        self._held, self._held_entry = entry.address, entry
        if not isinstance(entry.payload, Take):
            self._told, self._told_entry = entry.address, entry
        self._ready.append(entry)

    async def _repair(self) -> None:
        """Read from the entry held, inclusive, and take what follows it. Called with nothing ready."""
        self._stale = False  # until something comes that this read may not have seen
        try:
            found = await self._page(self._held)
            held = self._held_entry
            if held is not None and isinstance(held.payload, Take) and not (found and found[0] == held):
                # A take tells nothing, so nothing is lost with it: go on behind what was told before.
                self._held, self._held_entry = self._told, self._told_entry
                found = await self._page(self._held)
            if self._held_entry is not None:
                found = await self._verified(self._held_entry, found)
        except StoreError as error:
            log.debug("cannot read %s yet: %s", self.key, error)
            await asyncio.sleep(random.uniform(*AGAIN_S))
            return
        for entry in found:
            if entry.address > self._held:
                if not (self._follows(entry) or self._begins(entry)):
                    raise StoryForked(
                        f"{self.key}: {entry.address} stands after {self._held}", self._held.turn
                    )
                self._accept(entry)
            elif self._held_entry is None:
                self._held_entry = entry
        if self._garbled is not None and not self._ready:
            raise self._garbled
        self._behind = self._stale or self._garbled is not None or len(found) == PAGE_ENTRIES

    async def _page(self, first: Address) -> list[Entry]:
        """The log from an address on; an entry that cannot be read ends the page, and is told of later."""
        found, self._garbled = await read_readable(self._store, self.key, first, count=PAGE_ENTRIES)
        return found

    def _begins(self, entry: Entry) -> bool:
        """Whether a later turn begins here though the one held is gone: it was trimmed, or never begun."""
        return entry.address.seq == 0 and entry.address.turn > self._held.turn and self._held_entry is None

    async def _verified(self, held: Entry, found: list[Entry]) -> list[Entry]:
        """`found`, which must begin with the entry held. Waits for one that Redis forgot."""
        give_up_at = time.monotonic() + MISSING_S[1]
        while True:
            turn = held.address.turn
            if found and found[0].address == held.address and found[0].writer == held.writer:
                return found
            if held.final:
                # Trimmed or forgotten, its turn was delivered to the end: whatever else is told of it now.
                if not found or found[0].address.turn > turn:
                    return found
                self._held, self._held_entry = Address(turn + 1, -1), None
                return await self._page(self._held)
            if found and found[0].address == held.address:
                raise StoryForked(f"{self.key}: another writer stands at {held.address}", turn)
            if found and await self._is_trimmed(held):
                log.warning("%s was trimmed beyond %s", self.key, held.address)
                self._held_entry = None
                return found
            if found or time.monotonic() > give_up_at:
                raise StoryForked(f"{self.key}: {held.address} was lost and nobody wrote it again", turn)
            await asyncio.sleep(MISSING_S[0])
            try:
                found = await self._page(held.address)
            except StoreError as error:
                log.debug("cannot read %s yet: %s", self.key, error)
                give_up_at = time.monotonic() + MISSING_S[1]

    async def _is_trimmed(self, held: Entry) -> bool:
        """Whether nothing is left of the turn of `held`: whole turns are trimmed, but a tail is lost."""
        turn = held.address.turn
        return not await read_log(self._store, self.key, Address(turn, 0), turn, count=1)

    async def _wait(self, timeout_s: float | None) -> None:
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = None if timeout_s is None else loop.call_later(timeout_s, self.look)
        try:
            await self._waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
