"""Which token comes next, given the model's numbers and one number between 0 and 1 per row.

The draw is a function of the row's seed and the token's place in the reply, computed without the device: a
worker that takes over a reply draws what the one before it would have drawn.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch

CANDIDATES = 256
"""So many of the likeliest tokens are looked at first: sorting a whole vocabulary costs far more."""

BROKEN = -1
"""Stands for the token of a row whose numbers are not finite."""

UNSETTLED = -2
"""Stands for the token of a row whose candidates hold less than its `top_p`: look at more of them."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a reply's tokens are drawn: `temperature` 0 takes the likeliest; `top_p` in (0, 1]; any `seed`."""

    temperature: float
    top_p: float
    seed: int


def draw(seed: int, position: int) -> float:
    """A number in [0, 1) for the token at `position` of a reply; the same on every machine."""
    digest = hashlib.blake2b(b"%d %d" % (seed, position), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)


def likeliest(logits: torch.Tensor) -> torch.Tensor:
    """The likeliest token of each row, or BROKEN. (B, V) float32 to (B,) int64."""
    best, tokens = logits.max(dim=-1)
    return tokens.masked_fill(~torch.isfinite(best), BROKEN)


def choose(
    logits: torch.Tensor,
    temperatures: torch.Tensor,
    top_ps: torch.Tensor,
    draws: torch.Tensor,
    candidates: int = CANDIDATES,
) -> torch.Tensor:
    """A token for each row, (B, V) float32 and three times (B,) float32 to (B,) int64.

    The likeliest at temperature 0; else the fewest likeliest tokens that together hold `top_p`, of equal ones
    the lower ids, are laid side by side by id, and the draw points at one of them. UNSETTLED where the first
    `candidates` do not hold that much; BROKEN where the numbers are not finite. No row depends on another.
    """
    # Numbers go in by `masked_fill`, which takes them as they are: `where` would wait for their copy.
    greedy = likeliest(logits)
    sampled = temperatures > 0
    scaled = logits / temperatures.masked_fill(~sampled, 1).unsqueeze(-1)
    count = min(candidates, logits.shape[-1])
    top, ids = scaled.topk(count, dim=-1)
    ids, by_id = ids.sort(dim=-1)
    shares = torch.exp(top.gather(-1, by_id) - scaled.logsumexp(dim=-1, keepdim=True))
    largest, by_size = shares.sort(dim=-1, descending=True, stable=True)
    upto = largest.cumsum(dim=-1)
    dropped = (upto - largest) >= top_ps.unsqueeze(-1)
    dropped[:, 0] = False
    # By id, not by size: a batch of another shape gives numbers that differ in their last digits, by which
    # tokens of nearly the same size would change places, and the draw point at another one.
    line = shares.masked_fill(dropped.scatter(-1, by_size, dropped), 0).cumsum(dim=-1)
    target = draws.unsqueeze(-1) * line[:, -1:]
    place = (line <= target).sum(dim=-1, keepdim=True)
    # Rounding may put the target at the very end: the last that is kept is where the line stops growing.
    place = place.minimum((line < line[:, -1:]).sum(dim=-1, keepdim=True))
    chosen = ids.gather(-1, place).squeeze(-1)
    if count < logits.shape[-1]:
        chosen = chosen.masked_fill(upto[:, -1] < top_ps, UNSETTLED)
    return torch.where(sampled & (greedy != BROKEN), chosen, greedy)
