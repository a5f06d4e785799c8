"""The log's Functions as commands, for tests that call them with nothing in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.raw import Arg, Command, Raw

Written = tuple[str, Sequence[Arg]]
"""A kind, and the flat list of its fields."""

MAX_BYTES = 1 << 20
TTL_MS = 60_000
AT_US = 1_700_000_000_000_000


@dataclass(frozen=True, slots=True)
class Functions:
    """What the Functions of one library are called."""

    append: str = "parley_append_2"
    take: str = "parley_take_2"
    close: str = "parley_close_2"


OURS = Functions()


def append(
    key: str,
    turn: int,
    seq: int,
    tag: str,
    entries: Sequence[Written],
    *,
    session: str | None = None,
    max_bytes: int = MAX_BYTES,
    ttl_ms: int = TTL_MS,
    functions: Functions = OURS,
) -> Command:
    """Write entries from `seq` on."""
    keys = [key] if session is None else [key, session]
    command: list[Arg] = ["FCALL", functions.append, len(keys), *keys, turn, seq, tag, max_bytes, ttl_ms]
    for kind, payload in entries:
        command += [len(payload), kind, AT_US, *payload]
    return command


def take(key: str, turn: int, tag: str, *, ttl_ms: int = TTL_MS, functions: Functions = OURS) -> Command:
    """Make the turn the tag's."""
    return ["FCALL", functions.take, 1, key, turn, tag, ttl_ms, AT_US, "cause", "claim"]


def close(
    key: str,
    turn: int,
    tag: str,
    reason: str = "barge_in",
    *,
    session: str | None = None,
    owner: bool = False,
    seen: int = -1,
    ttl_ms: int = TTL_MS,
    functions: Functions = OURS,
) -> Command:
    """Close the turn, of which the caller has read the entries up to `seen`."""
    keys = [key] if session is None else [key, session]
    head: list[Arg] = ["FCALL", functions.close, len(keys), *keys]
    return [*head, turn, tag, ttl_ms, AT_US, int(owner), seen, "reason", reason]


class LogCalls:
    """The Functions on one log of one server; verdicts come as pairs of a word and a number."""

    def __init__(self, raw: Raw, key: str, session: str) -> None:
        self.raw = raw
        self.key = key
        self.session = session

    def append(
        self,
        turn: int,
        seq: int,
        tag: str,
        *entries: Written,
        max_bytes: int = MAX_BYTES,
        ttl_ms: int = TTL_MS,
        of_edge: bool = False,
    ) -> tuple[str, int]:
        """Write entries from `seq` on; `of_edge`: for the session that holds the conversation."""
        session = self.session if of_edge else None
        command = append(
            self.key, turn, seq, tag, entries, session=session, max_bytes=max_bytes, ttl_ms=ttl_ms
        )
        return self._ask(command)

    def take(self, turn: int, tag: str, *, ttl_ms: int = TTL_MS) -> tuple[str, int]:
        """Make the turn the tag's."""
        return self._ask(take(self.key, turn, tag, ttl_ms=ttl_ms))

    def close(
        self,
        turn: int,
        tag: str,
        reason: str = "barge_in",
        *,
        of_edge: bool = False,
        owner: bool = False,
        seen: int = -1,
    ) -> tuple[str, int]:
        """Close the turn; `of_edge`: for the session that holds the conversation."""
        session = self.session if of_edge else None
        return self._ask(close(self.key, turn, tag, reason, session=session, owner=owner, seen=seen))

    def entries(self) -> list[tuple[str, str, str]]:
        """What stands in the log: addresses, tags and kinds."""
        return [
            (address.decode(), flat[1].decode(), flat[3].decode())
            for address, flat in self.raw.ask("XRANGE", self.key, "-", "+")
        ]

    def sums(self) -> list[int]:
        """The running sum of bytes of each entry."""
        return [int(flat[7]) for _, flat in self.raw.ask("XRANGE", self.key, "-", "+")]

    def ttl_ms(self) -> int:
        """The time to live that the log has left."""
        left: int = self.raw.ask("PTTL", self.key)
        return left

    def _ask(self, command: Command) -> tuple[str, int]:
        verdict, place = self.raw.ask(*command)
        return verdict.decode(), place


def token(text: str) -> Written:
    """A token."""
    return "token", ("text", text)


END: Written = ("end", ("reason", "stop"))
