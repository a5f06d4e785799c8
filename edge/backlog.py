"""One role's work stream as this edge sees it: how many turns are in it, and how long the oldest has waited.

Waiting is counted on this process's clock, from when it first saw the turn there. The ids of the stream hold
the server's clock, which may be set back or be another server's after a failover.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from shared.errors import StoreError
from shared.keys import GROUP, Role, work_key
from shared.store import Reply, Store

EntryId = tuple[int, int]
"""The id of an entry of a stream, which grow within it."""

MOST_MARKS = 1000


class Waiting:
    """How long the first of the entries that nobody has claimed has been there. Pure."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, EntryId]] = deque()
        """When it was seen that the stream reached up to an entry, oldest first."""

    def observe(self, now_s: float, first: EntryId | None, last: EntryId) -> float:
        """For how many seconds `first`, the first unclaimed entry, is known to wait.

        `last`: up to where the stream has ever reached. Entries may be claimed one by one while those behind
        them wait for long, so it does not take the same `first` twice to see that.
        """
        marks = self._marks
        if first is None or (marks and last < marks[-1][1]):
            marks.clear()  # In the latter case it is another stream: Redis forgot the one before.
        if first is None:
            return 0.0
        while marks and marks[0][1] < first:
            marks.popleft()
        if not marks or (marks[-1][1] < last and len(marks) < MOST_MARKS):
            marks.append((now_s, last))
        return now_s - marks[0][0]


class Backlog:
    """The turns of one role that are not done."""

    def __init__(self, store: Store, role: Role) -> None:
        self.turns = 0
        """Turns in the stream, claimed or not."""
        self.waited_s = 0.0
        """How long the oldest turn that no worker has claimed is known to wait."""
        self._store = store
        self._key = work_key(role)
        self._waiting = Waiting()

    async def look(self) -> None:
        """Look once. Raises `StoreError`."""
        try:
            stream, groups = await self._store.call_all(
                [("XINFO", "STREAM", self._key), ("XINFO", "GROUPS", self._key)]
            )
        except StoreError as error:
            if "no such key" not in str(error):
                raise
            self.turns, self.waited_s, self._waiting = 0, 0.0, Waiting()
            return
        found = await self._store.call("XRANGE", self._key, _after(groups), "+", "COUNT", 1)
        about = _map(stream)
        self.turns = int(about[b"length"])
        first = _id(found[0][0]) if found else None
        self.waited_s = self._waiting.observe(time.monotonic(), first, _id(about[b"last-generated-id"]))


def _after(groups: Sequence[Reply]) -> str:
    for group in map(_map, groups):
        if group[b"name"] == GROUP.encode():
            return "(" + str(group[b"last-delivered-id"].decode())
    return "-"


def _map(flat: Reply) -> dict[bytes, Reply]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _id(raw: bytes) -> EntryId:
    ms, _, seq = raw.partition(b"-")
    return int(ms), int(seq)
