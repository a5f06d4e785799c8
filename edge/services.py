"""What all sessions of one edge share, and the loops behind it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from edge.detection import Detector
from edge.keeper import Keeper
from edge.room import Room
from shared.batch import Batch
from shared.reader import Reader
from shared.settings import Settings
from shared.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Services:
    """The settings and the process-wide parts; `run` must be running while sessions are."""

    settings: Settings
    store: Store
    reader: Reader
    room: Room
    keeper: Keeper
    detector: Detector
    batch: Batch
    broken: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when one of the loops has ended: no session can be served any more."""

    async def run(self) -> None:
        """Run every loop, for ever; at the end, close what is held open."""
        try:
            async with asyncio.TaskGroup() as loops:
                loops.create_task(self.reader.run(), name="reader")
                loops.create_task(self.room.run(), name="room")
                loops.create_task(self.keeper.run(), name="keeper")
        except Exception:
            log.exception("a loop of this edge broke")
            self.broken.set()
        finally:
            self.detector.close()
            self.batch.close()
