"""Who holds a conversation: its meta hash, the session's lease, and the resume tokens.

The Functions in `hold.lua` decide. A token is 256 bits that only the client has; Redis has its hash. Knows
nothing of sockets or turns.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from shared.keys import log_key, meta_key, session_key
from shared.log import insist
from shared.store import Arg, Store
from shared.wire import Log

Settings = Mapping[str, object]
"""The settings of a conversation as they stand in its meta hash (JSON)."""


class Standing(StrEnum):
    """How a session stands to its conversation; `hold.lua` has the table."""

    HELD = "HELD"
    LOST = "LOST"
    BARE = "BARE"


def new_conversation() -> str:
    """An id that only a server makes."""
    return secrets.token_hex(8)


def new_token() -> str:
    """A resume token: 256 random bits, 43 characters."""
    return secrets.token_urlsafe(32)


def token_hash(token: str) -> str:
    """What stands in Redis for a token. The token is random, so a plain hash cannot be searched."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class Lease:
    """How long a session holds a conversation without a refresh, and how long the keys of one live."""

    session_s: float
    keys_s: float

    @property
    def session_ms(self) -> int:
        """The lease of the session's tag."""
        return int(self.session_s * 1000)

    @property
    def keys_ms(self) -> int:
        """The time to live of every key of the conversation."""
        return int(self.keys_s * 1000)


@dataclass(frozen=True, slots=True)
class Resumed:
    """A conversation that was taken over: its settings, the edge that held it before, and its newest turn."""

    settings: Settings
    edge: str
    turn: int


class Hold:
    """One session's hold on one conversation. Every method raises `StoreError`."""

    def __init__(self, store: Store, conversation: str, tag: str, *, lease: Lease, edge: str) -> None:
        self.conversation = conversation
        self.tag = tag
        self._store = store
        self._lease = lease
        self._edge = edge
        self._keys = (session_key(conversation), meta_key(conversation))
        self._logs = tuple(log_key(conversation, log) for log in Log)

    async def begin(self, token: str, settings: Settings, turn: int = 0) -> Standing:
        """Write what a later session needs to take over, and claim the conversation.

        `turn`: the newest. Its number must not be used again, even if Redis loses what stands in the logs.
        """
        meta = ("token", token_hash(token), "edge", self._edge, "settings", json.dumps(settings))
        args = (self.tag, self._lease.session_ms, self._lease.keys_ms, *meta, "turn", turn)
        return _standing(await insist(self._store, "parley_begin_2", self._keys, args))

    def keep(self, *, keys_too: bool) -> tuple[str, Sequence[str], Sequence[Arg]]:
        """The call that refreshes the lease, and with `keys_too` the times to live: for `Store.functions`."""
        args = (self.tag, self._lease.session_ms, self._lease.keys_ms if keys_too else 0)
        return "parley_keep_2", (*self._keys, *self._logs), args

    async def resume(self, token: str, new: str) -> Resumed | None:
        """Take the conversation over with a token that is good, which `new` then replaces; `None` if not.

        Sent once: a repeat after a lost reply would be told apart from the first by nothing, and the client
        can show its old token again.
        """
        hashes = (token_hash(token), token_hash(new))
        args = (*hashes, self.tag, self._lease.session_ms, self._lease.keys_ms, self._edge)
        reply = await self._store.function("parley_resume_2", (*self._keys, *self._logs), *args)
        if not reply:
            return None
        settings, edge, turn = reply
        return Resumed(json.loads(settings), edge.decode(), int(turn))

    async def settle(self) -> None:
        """The client has the new token: the one before it is void from now on."""
        await insist(self._store, "parley_settle_2", self._keys, (self.tag,))

    async def release(self, *, ended: bool) -> None:
        """Give the lease up, for another session to come, or with `ended` for none ever."""
        await self._store.function("parley_release_2", self._keys, self.tag, int(ended))


def _standing(reply: bytes) -> Standing:
    return Standing(reply.decode())
