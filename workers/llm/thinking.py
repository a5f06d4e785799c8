"""Thinking ahead: at a pause the answer is begun, and taken back if the user goes on.

    listen ── pause, if it may ──> ahead ── the utterance has ended ──> the answer stands
       ^                             │
       └─ the user goes on: closed, ─┘  and the next start is given the utterance from its beginning

Owns which start of the engine is the one, and the counts. One start is there at a time, so a turn never takes
more room in an engine than it would without. Nothing of a start leaves memory before it stands. Knows no log.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from workers.llm.start import Start
from workers.llm.utterance import Utterance

log = logging.getLogger(__name__)

MOST_WASTED = 8
"""After so many answers that were taken back in one turn, its user is listened to until the end."""


@dataclass(slots=True)
class Tally:
    """What became of all answers that were begun at a pause."""

    started_ahead: int = 0
    wasted_starts: int = 0


class Thinking:
    """The answer to one turn in the making. `begin` starts the engine on an utterance; `may` says whether
    that is allowed now on one that has perhaps not ended. `owes` is called when the engine has been given
    all of an utterance that has ended: only now is it the engine that the user waits for.

    To be closed in the end, whatever has become of it.
    """

    def __init__(
        self,
        begin: Callable[[AsyncIterator[bytes]], Start],
        may: Callable[[], bool],
        tally: Tally,
        owes: Callable[[], None] = lambda: None,
    ) -> None:
        self._begin = begin
        self._may = may
        self._tally = tally
        self._owes = owes
        self._stands = False
        self._utterance = Utterance(self._tell)
        self._start = begin(self._utterance.listen())
        self._ahead = False
        self._wasted = 0

    async def hear(self, pcm: bytes) -> None:
        """The user speaks. Raises what the engine has raised while it listened."""
        if self._ahead:
            await self._take_back()
            self._utterance.go_on()
            self._start = self._begin(self._utterance.listen())
        self._raise_failure()
        self._utterance.add(pcm)

    def pause(self) -> None:
        """The user has perhaps ended. Raises what the engine has raised while it listened."""
        if self._ahead:
            return
        self._raise_failure()
        if self._wasted < MOST_WASTED and self._may():
            self._ahead = True
            self._tally.started_ahead += 1
            self._utterance.end()

    def stand(self) -> Start:
        """The user has ended: the start whose answer stands. What the engine has raised is its `error`."""
        self._ahead = False
        self._stands = True
        self._utterance.end()
        if self._utterance.taken:
            self._tell()
        return self._start

    async def close(self) -> None:
        """Close the engine's stream. An answer that was begun at a pause and does not stand is wasted."""
        if self._ahead:
            await self._take_back()
        else:
            await self._start.close()

    async def _take_back(self) -> None:
        self._ahead = False
        self._wasted += 1
        self._tally.wasted_starts += 1
        log.debug(
            "an answer begun at a pause is thrown away, %d tokens: %d in this turn, %d of %d in all",
            self._start.draft.tokens,
            self._wasted,
            self._tally.wasted_starts,
            self._tally.started_ahead,
        )
        await self._start.close()

    def _tell(self) -> None:
        if self._stands:
            self._owes()

    def _raise_failure(self) -> None:
        if self._start.error is not None:
            raise self._start.error
