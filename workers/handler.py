"""What a stage does with its turns: all that the roles differ in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from shared.store import Store
from shared.work import Announcement
from workers.attempt import Part


class Handler(Part, Protocol):
    """What a stage does with one turn."""

    def announcement(self, name: str, slots: int) -> Announcement:
        """What this worker says of itself."""
        ...

    def counts(self) -> Mapping[str, int]:
        """What it has counted since it began, by name, for the announcement. Called by another thread."""
        ...

    async def is_due(self, store: Store, conversation: str, turn: int) -> bool:
        """Whether there is something for the engine to do. Raises `StoreError`."""
        ...
