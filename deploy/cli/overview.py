"""What goes on in a Redis at one moment: workers, backlogs, conversations. Reads, and changes nothing.

What it costs is bounded: conversations are found by SCAN, the tails of at most `LOOKED_AT` of them are read,
and only the newest are asked for the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from deploy.cli.entries import Unreadable, entry_of
from edge.conversation import State
from edge.room import ROLE_NAMES
from shared.errors import StoreError
from shared.keys import (
    BATCH,
    DEAD,
    GROUP,
    WORKERS,
    Role,
    batch_key,
    is_conversation,
    log_key,
    meta_key,
    session_key,
    work_key,
    worker_key,
)
from shared.store import Reply, Store
from shared.wire import Closed, Entry, Frame, Log, SpeechEnd

LOOKED_AT = 1000
"""The tails of how many conversations are read, at the most."""

SCANS = 200
KEYS_A_SCAN = 1000
"""How much of the keyspace is searched: calls, and keys in each."""

RUNNING = f"rq:wip:{BATCH}"
"""The jobs that are being worked on, by rq's own name."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker in its own words; `None` for what it does not tell."""

    name: str
    role: str
    engine: str
    attached: int | None
    computing: int | None
    slots: int | None
    started_ahead: int | None
    wasted_starts: int | None


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits somewhere. `unclaimed` waits for a worker, the oldest of it for `oldest_s`; `pending` is in
    the hands of one. `None`: not known there."""

    name: str
    length: int
    unclaimed: int | None
    oldest_s: float | None
    pending: int | None


class Holder(StrEnum):
    """Who has a conversation: a session, nobody until its client comes back, or nobody ever again."""

    SESSION = "session"
    CLIENT = "awaits client"
    NOBODY = "ended"


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation as its logs have it. `state`: `None` where an entry that tells cannot be read. `age_s`
    since the newest entry, by its writer's clock, where there is one; `entries` by log."""

    id: str
    turn: int
    state: State | None
    age_s: float | None
    holder: Holder
    ttl_s: float | None
    entries: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Overview:
    """All of it. `found`: how many conversations there are, at least if `more` were not searched for;
    `looked_at`: out of how many the newest were chosen."""

    workers: Sequence[Worker]
    backlogs: Sequence[Backlog]
    dead_letters: int
    conversations: Sequence[Conversation]
    found: int
    looked_at: int
    more: bool


async def look(store: Store, conversations: int) -> Overview:
    """Look once, for at most so many conversations. Raises `StoreError`."""
    now_s = _seconds(await store.call("TIME"))
    workers = await _workers(store)
    backlogs = [await _stream(store, role, now_s) for role in Role]
    waiting, running, dead = await store.call_all([("LLEN", batch_key()), ("ZCARD", RUNNING), ("XLEN", DEAD)])
    backlogs.append(Backlog(BATCH, waiting + running, waiting, None, running))
    ids, more = await _search(store)
    looked_at = ids[:LOOKED_AT]
    tails = await _tails(store, looked_at)
    newest = sorted(tails, key=lambda each: (-_newest_us(tails[each]), each))[:conversations]
    return Overview(
        workers,
        backlogs,
        dead,
        await _conversations(store, {each: tails[each] for each in newest}, now_s),
        len(ids),
        len(looked_at),
        more,
    )


def state_of(tails: Mapping[Log, Entry | None]) -> State | None:
    """Where a conversation is, out of the last entry of each log; `None` if one of them cannot be read."""
    audio, text, speech = (tails.get(log) for log in Log)
    if any(each and isinstance(each.payload, Unreadable) for each in (audio, text, speech)):
        return None
    if audio is None:
        return State.LISTENING
    if not audio.final:
        return State.HEARING
    turn = audio.address.turn
    closed = (each for each in (audio, text, speech) if each and isinstance(each.payload, Closed))
    if any(each.address.turn >= turn for each in closed):
        return State.LISTENING
    # An earlier answer may still be spoken while this turn waits for it.
    spoken = speech is not None and isinstance(speech.payload, Frame | SpeechEnd)
    return State.SPEAKING if spoken else State.THINKING


# ---- workers and backlogs


async def _workers(store: Store) -> list[Worker]:
    names = sorted(name.decode(errors="replace") for name in await store.call("SMEMBERS", WORKERS))
    said = await store.call_all([("GET", worker_key(name)) for name in names]) if names else []
    found = [_worker(name, raw) for name, raw in zip(names, said, strict=True) if raw is not None]
    return sorted(found, key=lambda each: (each.role, each.name))


def _worker(name: str, raw: bytes) -> Worker:
    try:
        said = json.loads(raw)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        said = {}
    role = str(said.get("role", "?"))
    return Worker(
        name,
        ROLE_NAMES[Role(role)] if role in list(Role) else role,
        str(said.get("engine", "?")),
        *(_count(said, key) for key in ("attached", "computing", "slots", "started_ahead", "wasted_starts")),
    )


def _count(said: Mapping[str, Any], key: str) -> int | None:
    value = said.get(key)
    return value if isinstance(value, int) else None


async def _stream(store: Store, role: Role, now_s: float) -> Backlog:
    stream = work_key(role)
    try:
        length, groups = await store.call_all([("XLEN", stream), ("XINFO", "GROUPS", stream)])
    except StoreError as error:
        if "no such key" not in str(error):
            raise
        return Backlog(stream, 0, 0, None, 0)
    group = _ours(groups)
    pending = 0 if group is None else int(group[b"pending"])
    after = "-" if group is None else f"({group[b'last-delivered-id'].decode()}"
    first = await store.call("XRANGE", stream, after, "+", "COUNT", 1)
    offered_s = int(first[0][0].partition(b"-")[0]) / 1000 if first else None
    waits_s = None if offered_s is None else max(0.0, now_s - offered_s)
    return Backlog(stream, length, max(0, length - pending), waits_s, pending)


def _ours(groups: Iterable[Sequence[Reply]]) -> dict[bytes, Reply] | None:
    for flat in groups:
        group = dict(zip(flat[::2], flat[1::2], strict=True))
        if group[b"name"] == GROUP.encode():
            return group
    return None


# ---- conversations


async def _search(store: Store) -> tuple[list[str], bool]:
    """The ids of conversations, and whether there may be more."""
    found: dict[str, None] = {}
    cursor = b"0"
    for _ in range(SCANS):
        cursor, keys = await store.call("SCAN", cursor, "MATCH", "conv:{*}:*", "COUNT", KEYS_A_SCAN)
        for key in keys:
            name = key.decode(errors="replace").removeprefix("conv:{").partition("}")[0]
            if is_conversation(name):
                found[name] = None
        if cursor == b"0":
            return list(found), False
    return list(found), True


async def _tails(store: Store, ids: Sequence[str]) -> dict[str, dict[Log, Entry | None]]:
    """The last entry of each log of each conversation."""
    places = [(each, log) for each in ids for log in Log]
    commands = [("XREVRANGE", log_key(each, log), "+", "-", "COUNT", 1) for each, log in places]
    replies = await store.call_all(commands) if commands else []
    tails: dict[str, dict[Log, Entry | None]] = {each: {} for each in ids}
    for (each, log), found in zip(places, replies, strict=True):
        tails[each][log] = entry_of(log, *found[0]) if found else None
    return tails


async def _conversations(
    store: Store, tails: Mapping[str, Mapping[Log, Entry | None]], now_s: float
) -> list[Conversation]:
    found = []
    for each, last in tails.items():
        *lengths, held, known, ttl_ms = await store.call_all(
            [
                *(("XLEN", log_key(each, log)) for log in Log),
                ("EXISTS", session_key(each)),
                # What shows that a client may come back is taken away at a goodbye.
                ("HEXISTS", meta_key(each), "token"),
                ("PTTL", meta_key(each)),
            ]
        )
        entries = [entry for entry in last.values() if entry is not None]
        found.append(
            Conversation(
                each,
                max((entry.address.turn for entry in entries), default=0),
                state_of(last),
                max(0.0, now_s - _newest_us(last) / 1e6) if _newest_us(last) else None,
                Holder.SESSION if held else Holder.CLIENT if known else Holder.NOBODY,
                ttl_ms / 1000 if ttl_ms >= 0 else None,
                {log.value: length for log, length in zip(Log, lengths, strict=True)},
            )
        )
    return found


def _newest_us(tails: Mapping[Log, Entry | None]) -> int:
    return max((entry.at_us for entry in tails.values() if entry is not None), default=0)


def _seconds(time: Reply) -> float:
    return int(time[0]) + int(time[1]) / 1e6
