"""What may stand in a log: one story a turn, whole, in order, with all that was acknowledged.

Each entry of a story carries its own id and the id of the entry that its writer took for the one before, so
that a splice shows: in one story every entry names its predecessor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from shared.wire import Address
from tests.raw import Reply


class Fault(AssertionError):
    """Raised when a schedule ended in a log that is not as the rules promise."""


class Entry(NamedTuple):
    """An entry as it stands in the log; `story` and `previous` are empty in what is not of the story."""

    address: Address
    writer: str
    kind: str
    payload: tuple[bytes, ...]
    total: int

    @property
    def story(self) -> str:
        """The id of this piece of the story."""
        return self.payload[1].decode() if self.kind in ("token", "end") else ""

    @property
    def previous(self) -> str:
        """The id of the piece that its writer took for the one before."""
        return self.payload[3].decode()


def entries_of(reply: Reply) -> list[Entry]:
    """The entries in a reply of `XRANGE`."""
    return [
        Entry(Address.parse(address), flat[1].decode(), flat[3].decode(), (*flat[8:],), int(flat[7]))
        for address, flat in reply
    ]


def check_log(log: Sequence[Entry]) -> None:
    """Raises `Fault` if the log is not one story a turn, each in its place."""
    last: Entry | None = None
    told, total = "", 0
    for entry in log:
        if last is None or entry.address.turn > last.address.turn:
            told, total = "", 0
        _check_place(last, entry)
        if entry.story:
            if entry.previous != told:
                raise Fault(f"two stories are spliced at {entry.address}")
            told = entry.story
        # What was written by `append` counts; a `take` does so only if it was written again after a loss.
        size = sum(map(len, entry.payload[1::2]))
        if entry.total - total != size and (entry.story or entry.total != total):
            raise Fault(f"{entry.address} counts {entry.total} bytes after {total}")
        last, total = entry, entry.total


def check_standing(log: Sequence[Entry], written: Mapping[Address, str]) -> None:
    """Raises `Fault` if a piece of the story does not stand where its writer was told that it does."""
    standing = {entry.address: entry.story for entry in log}
    for address, piece in written.items():
        if standing.get(address) != piece:
            raise Fault(f"{address} was acknowledged and does not stand in the log")


def _check_place(last: Entry | None, entry: Entry) -> None:
    turn, seq = entry.address
    if last is None or turn != last.address.turn:
        if last is not None and last.kind not in ("end", "closed"):
            raise Fault(f"{entry.address} stands after {last.address}, which is not final")
        if seq != 0:
            raise Fault(f"turn {turn} begins with {entry.address}")
    elif seq != last.address.seq + 1:
        raise Fault(f"{entry.address} stands after {last.address}: a hole")
    elif last.kind == "closed" or (last.kind == "end" and entry.kind != "closed"):
        raise Fault(f"{entry.kind} stands after {last.kind} at {entry.address}")
