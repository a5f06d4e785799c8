"""What a client was told already, so that nothing is told twice. Pure.

    link ─> [ new: further in its log, of a turn that has not ended ] ─> the user          the rest: dropped

After a `resume` a server may tell again what it told before. And a turn may end twice: an edge that waits for
Redis ends it by an error that stands in no log, and another edge then finds in the log how it ended there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deploy.cli.outbox import ANSWER, ends_turn
from shared.wire import Address

Message = Mapping[str, Any]


class Inbox:
    """The last place of each log that was told, and the turns that have ended."""

    def __init__(self) -> None:
        self._held: dict[str, Address] = {}
        self._ended: set[int] = set()

    @property
    def after(self) -> dict[str, str]:
        """The last address of each log, as a `resume` says them."""
        return {log: str(address) for log, address in self._held.items()}

    def hear(self, message: Message) -> bool:
        """Learn from a message; false for one that was told before, or comes after the end of its turn."""
        return self._is_further(message) and not self._is_over(message)

    def _is_further(self, message: Message) -> bool:
        if message.get("address") is None:
            return True
        log, _, place = str(message["address"]).partition(":")
        address = Address.parse(place)
        if address <= self._held.get(log, Address(0, 0)):
            return False
        self._held[log] = address
        return True

    def _is_over(self, message: Message) -> bool:
        if message.get("turn") in self._ended:
            return ends_turn(message) or message["type"] in ANSWER
        if ends_turn(message):
            self._ended.add(message["turn"])
        return False
