"""The entries of a log, read by a program that must show whatever stands there.

A newer worker may write what this version does not know, while its peers are replaced; who looks into Redis
then shall see all the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shared.errors import EntryGarbled
from shared.wire import Address, Entry, Log, Payload


@dataclass(frozen=True, slots=True)
class Unreadable(Payload):
    """The payload of an entry that cannot be read."""

    kind = "?"


def entry_of(log: Log, entry_id: bytes, flat: Sequence[bytes]) -> Entry:
    """The entry out of a reply of `XRANGE`, or as much of it as can be read."""
    try:
        return Entry.from_fields(log, entry_id, flat)
    except EntryGarbled:
        turn, seq = map(int, entry_id.split(b"-"))
        raw = dict(zip(flat[::2], flat[1::2], strict=True))
        at = raw.get(b"at", b"")
        return Entry(
            Address(turn, seq),
            raw.get(b"w", b"").decode(errors="replace"),
            int(at) if at.isdigit() else 0,
            Unreadable(),
        )
