"""What one session knows of its conversation beside the logs: settings, the line of turns, notes on turns.

State only. It is shared by the parts of a session, all of which run on one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from dataclasses import dataclass, field

from edge.configuration import Configuration
from edge.conversation import Conversation
from edge.protocols.native import OutputFormat
from edge.retention import Retention
from edge.stopwatch import Stopwatch

KEPT_TURNS = 8


@dataclass(slots=True)
class Notes:
    """Notes on one turn. `moved_at`: when anything last came of it, on the monotonic clock in seconds.

    `opened` is set when the turn stands in `audio`, or is known never to: only then may it be offered.
    `offered`: it was, by this session or a predecessor. `batch`: it is a job's, and its client is told of it
    once, at its end.
    """

    chunk_id: str | None = None
    voice: str | None = None
    output_format: OutputFormat = OutputFormat.WAV
    batch: bool = False
    offered: bool = False
    moved_at: float = field(default_factory=time.monotonic)
    stopwatch: Stopwatch = field(default_factory=Stopwatch)
    opened: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class Dialogue:
    """One conversation, as the session that holds it sees it."""

    id: str
    token: str
    configuration: Configuration = field(default_factory=Configuration)
    conversation: Conversation = field(default_factory=Conversation)
    retention: Retention = field(default_factory=Retention)
    retold: Collection[int] = ()
    """Turns from before a resume that may be told again: the notes on them stay, however old they are."""
    _notes: dict[int, Notes] = field(default_factory=dict)

    def forget(self, turn: int) -> None:
        """The turn has never been; its number will be another's."""
        self._notes.pop(turn, None)

    def notes(self, turn: int) -> Notes:
        """The notes on a turn; they are begun when they are first asked for."""
        found = self._notes.get(turn)
        if found is None:
            found = self._notes[turn] = Notes(output_format=self.configuration.output_format)
            for old in [each for each in self._notes if each <= turn - KEPT_TURNS]:
                if old not in self.retold:
                    del self._notes[old]
        return found
