"""Keeps what this edge's sessions hold: refreshes their leases, and tells when one was taken over.

One loop and one connection for the whole process. A notice from the edge that took a conversation over ends
the older session at once; the refresh, which is answered by `LOST`, finds it out where the notice is lost.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Protocol

from shared.errors import StoreError
from shared.hold import Hold, Lease, Standing
from shared.store import Pushes, Store
from shared.wire import new_tag

log = logging.getLogger(__name__)

SESSION_LEASE_S = 6.0
REFRESHES = 3
"""Refreshes in one lease of a session."""

AT_ONCE = 100
"""Sessions refreshed in one round trip."""

RECONNECT_S = 0.5


class Keeping(Protocol):
    """A session as the keeper sees it."""

    hold: Hold

    def lost(self) -> None:
        """Another session has taken the conversation over."""
        ...

    def forgotten(self) -> None:
        """Redis has lost the conversation's meta: it should be written again."""
        ...

    def restarted(self) -> None:
        """Redis is another process than before, which may have forgotten its last seconds."""
        ...


class Keeper:
    """The conversations that this edge holds. `run` must be running for leases to last."""

    def __init__(self, store: Store, *, resume_ttl_s: float) -> None:
        self.edge = new_tag()
        """This process, as others address it."""
        self.lease = Lease(SESSION_LEASE_S, resume_ttl_s)
        self._store = store
        self._sessions: dict[str, Keeping] = {}
        self._keys_due = 0.0
        self._pushes: Pushes | None = None
        self._pong = True
        self._run: str | None = None

    def hold(self, conversation: str) -> Hold:
        """A new session's hold; nothing is written yet."""
        return Hold(self._store, conversation, new_tag(), lease=self.lease, edge=self.edge)

    def add(self, session: Keeping) -> None:
        """Refresh this session's lease from now on; an older one of the conversation here is told at once."""
        older = self._sessions.get(session.hold.conversation)
        self._sessions[session.hold.conversation] = session
        if older is not None and older is not session:
            older.lost()

    def remove(self, session: Keeping) -> None:
        """Leave the session's lease alone."""
        if self._sessions.get(session.hold.conversation) is session:
            del self._sessions[session.hold.conversation]

    async def tell(self, edge: str, hold: Hold) -> None:
        """Tell the edge that held the conversation that `hold` has it now. Raises `StoreError`."""
        if edge != self.edge:
            await self._store.call("SPUBLISH", _channel(edge), f"{hold.conversation} {hold.tag}")

    async def run(self) -> None:
        """Refresh and listen, for ever."""
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._refresh_loop(), name="leases")
            loops.create_task(self._listen_loop(), name="notices")

    async def _refresh_loop(self) -> None:
        while True:
            await asyncio.sleep(SESSION_LEASE_S / REFRESHES)
            try:
                await self.refresh()
                await self._check_pushes()
            except StoreError as error:
                log.debug("leases are not refreshed: %s", error)

    async def refresh(self) -> None:
        """Refresh every lease once, and each quarter of their life the keys'. Raises `StoreError`."""
        now = time.monotonic()
        keys_too = now >= self._keys_due
        for sessions in _batched(list(self._sessions.values())):
            calls = [session.hold.keep(keys_too=keys_too) for session in sessions]
            for session, reply in zip(sessions, await self._store.functions(calls), strict=True):
                self._heed(session, Standing(reply.decode()))
        if keys_too:
            self._keys_due = now + self.lease.keys_s / 4

    def _heed(self, session: Keeping, standing: Standing) -> None:
        if self._sessions.get(session.hold.conversation) is not session:
            return  # It has ended, or was followed by another, while Redis was asked.
        if standing is Standing.LOST:
            session.lost()
        elif standing is Standing.BARE:
            session.forgotten()

    async def _listen_loop(self) -> None:
        while True:
            try:
                await self._listen()
            except StoreError as error:
                log.debug("notices are interrupted: %s", error)
            await asyncio.sleep(RECONNECT_S)

    async def _listen(self) -> None:
        pushes = await self._store.pushes()
        self._pong = True
        try:
            await pushes.subscribe([_channel(self.edge)])
            self._pushes = pushes
            await self._see_whether_restarted()
            while True:
                kind, _, data = await pushes.read()
                if kind == "smessage":
                    self._notice(data)
                self._pong = True
        finally:
            self._pushes = None
            await pushes.close()

    async def _see_whether_restarted(self) -> None:
        before, self._run = self._run, await self._store.run()
        if before not in (None, self._run):
            log.warning("redis was restarted: what it may have forgotten is written again")
            for session in list(self._sessions.values()):
                session.restarted()

    def _notice(self, data: bytes) -> None:
        conversation, _, tag = data.decode("ascii", "replace").partition(" ")
        session = self._sessions.get(conversation)
        if session is not None and session.hold.tag != tag:
            session.lost()

    async def _check_pushes(self) -> None:
        """A connection that has not answered since the last refresh is given up."""
        if self._pushes is None:
            return
        if not self._pong:
            await self._pushes.close()
            return
        self._pong = False
        await self._pushes.ping()


def _channel(edge: str) -> str:
    return f"edge:{edge}"


def _batched(sessions: Sequence[Keeping]) -> Iterator[list[Keeping]]:
    rest = iter(sessions)
    while batch := list(islice(rest, AT_ONCE)):
        yield batch
