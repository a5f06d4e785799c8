"""What tests of writers and readers share: a log of tokens, its writers, and a server that forgets."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.embedded import start_server
from shared.hold import new_conversation
from shared.keys import log_key
from shared.log import LogWriter, read_log
from shared.store import Store
from shared.wire import Address, Closed, Entry, Log, ReplyEnd, Token, new_tag
from tests.raw import Raw

TTL_S = 60.0
MAX_TURN_BYTES = 8 << 20

END = ReplyEnd("stop", 0, 0)
CLOSED = Closed("barge_in", heard_ms=120.0, heard_text="word 0")

FORGET = """
local kept = redis.call('XRANGE', KEYS[1], '-', ARGV[1])
redis.call('DEL', KEYS[1])
for _, entry in ipairs(kept) do
  redis.call('XADD', KEYS[1], entry[1], unpack(entry[2]))
end
"""
"""Takes the tail of a stream away, after the entry whose id is given, so that lower ids may follow again."""

SPOIL = """
local turn, seq = string.match(redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1][1], '(%d+)-(%d+)')
redis.call('XADD', KEYS[1], turn .. '-' .. (seq + 1), unpack(ARGV))
"""
"""Adds an entry behind the last one of a stream, before its writer does."""

GARBLED = {
    "typed by hand": ("note", "look at this"),
    "of a kind that is not known": ("w", "0123456789abcdef", "kind", "gesture", "at", "1", "sum", "9"),
    "without its fields": ("w", "0123456789abcdef", "kind", "take", "at", "soon", "sum", "9"),
}
"""Entries that nobody can read, in any log."""


def new_log() -> str:
    """The key of the text log of a conversation that has never been."""
    return log_key(new_conversation(), Log.TEXT)


def writer(
    store: Store,
    key: str,
    turn: int = 1,
    *,
    tag: str | None = None,
    max_turn_bytes: int = MAX_TURN_BYTES,
    session_key: str | None = None,
    give_up_s: float = 10.0,
) -> LogWriter:
    """A writer of one turn, under a tag of its own."""
    return LogWriter(
        store,
        key,
        turn,
        tag or new_tag(),
        max_turn_bytes=max_turn_bytes,
        ttl_s=TTL_S,
        session_key=session_key,
        give_up_s=give_up_s,
    )


@contextmanager
def disk_full(folder: Path) -> Iterator[str]:
    """The URL of a server that refuses writes, because its last snapshot could not be written."""
    server = start_server(folder, options={"save": "3600 1"})
    (folder / "dump.rdb").mkdir()
    try:
        with Raw(server.url) as raw:
            raw.ask("BGSAVE")
            while b"rdb_last_bgsave_status:err" not in raw.ask("INFO", "persistence"):
                time.sleep(0.01)
            yield server.url
            raw.ask("CONFIG", "SET", "save", "")  # or it would not stop without one
    finally:
        server.stop()


async def spoil(store: Store, key: str, what: str = "typed by hand") -> None:
    """Let an entry that cannot be read stand behind the last one of a log."""
    await store.call("EVAL", SPOIL, 1, key, *GARBLED[what])


def tokens(first: int, last: int) -> list[Token]:
    """The tokens numbered from `first` to `last`, which is not among them."""
    return [Token(f"word {number}", (number,)) for number in range(first, last)]


def texts(entries: Iterable[Entry]) -> list[str]:
    """The texts of the tokens among the entries."""
    return [entry.payload.text for entry in entries if isinstance(entry.payload, Token)]


async def standing(store: Store, key: str) -> list[Entry]:
    """All entries of the log."""
    return await read_log(store, key, Address(0, 0))


async def forget_from(store: Store, key: str, lost: Address) -> None:
    """Make Redis forget the log's tail from `lost` on, as after a crash."""
    kept = [entry.address for entry in await standing(store, key) if entry.address < lost]
    await store.call("EVAL", FORGET, 1, key, str(kept[-1]) if kept else "0-0")


async def calls(store: Store, command: str) -> int:
    """How often the server has executed a command."""
    for line in (await store.call("INFO", "commandstats")).decode().split():
        name, _, stats = line.partition(":calls=")
        if name == f"cmdstat_{command}":
            return int(stats.split(",")[0])
    return 0
