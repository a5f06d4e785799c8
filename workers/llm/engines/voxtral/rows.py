"""One conversation's turn in the batch, and what the batch tells of it. Knows no model."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Literal

from shared.errors import EngineError
from workers.llm.engines.voxtral.intake import Intake
from workers.llm.engines.voxtral.sampling import Sampling


class Stage(enum.Enum):
    """Where a row stands. It goes down this list, and never up."""

    LISTENING = "its prompt is growing"
    STARTED = "its prompt is whole, and not all of it taken in"
    DECODING = "one token each step"
    GONE = "finished, failed or dropped"


@dataclass(slots=True, eq=False, repr=False)
class Row:
    """Whoever opened it may read `error` and `stage`; the rest is the batch's own."""

    sampling: Sampling
    max_new: int
    script: tuple[int, ...] | None = None
    error: EngineError | None = None
    stage: Stage = Stage.LISTENING

    slot: int | None = None
    intake: Intake = field(default_factory=Intake)
    started_s: float = 0.0
    reply_position: int = 0
    """Place in the reply of the token that comes next."""
    last_token: int = 0
    """What the next step computes: the prompt's last id, then each sampled token."""
    place: int = 0
    """Place of `last_token` in the slot."""
    finite: bool = False
    """Whether all that the slot holds is known to be finite: a token has come of it."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """The next token of a row's reply."""

    row: Row
    token: int


@dataclass(frozen=True, slots=True)
class Finished:
    """A row has left by itself: `stop`, the model or the script has ended; `length`, no more was allowed."""

    row: Row
    reason: Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Failed:
    """A row had to leave; `row.error` is this error."""

    row: Row
    error: EngineError


Event = Sampled | Finished | Failed
