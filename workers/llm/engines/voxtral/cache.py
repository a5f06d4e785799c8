"""The keys and values of every conversation: one slot each, in tensors that are allocated once.

Per layer one tensor of keys and one of values, (slots, key heads, length, head width). Joining and leaving
only move slot numbers about; computing writes the places that are computed and nothing else. The last place
of each slot is scratch: a slot that has no part in a step writes there, and nobody attends to it.

Knows how transformers' layers hand over keys and values (`update`), but no model.
"""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from typing import Any

import torch

ALIGNMENT = 64
"""Lengths are multiples of this, so that the attention kernels need no padding."""


def stored_length(context: int) -> int:
    """Places of a slot that holds `context` tokens: one more for scratch, rounded up."""
    return aligned(context + 1)


def aligned(tokens: int) -> int:
    """The next multiple of ALIGNMENT."""
    return -(-tokens // ALIGNMENT) * ALIGNMENT


def bytes_per_slot(config: Any, context: int, dtype: torch.dtype) -> int:
    """Bytes of one slot in all layers; `config` is the text model's."""
    places = config.num_hidden_layers * config.num_key_value_heads * stored_length(context)
    return int(2 * places * config.head_dim * dtype.itemsize)


class SlotCache:
    """The slots' storage, and which of them are free."""

    def __init__(
        self, config: Any, slots: int, context: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.slots = slots
        self.length = stored_length(context)
        self.scratch = self.length - 1
        shape = (slots, config.num_key_value_heads, self.length, config.head_dim)
        layers = range(config.num_hidden_layers)
        # Zeros, not whatever was there: a masked place still has a part of weight 0, and 0 times NaN is NaN.
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in layers]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in layers]
        heads = torch.arange(slots * config.num_key_value_heads, device=device)
        self._first_places = (heads * self.length).view(slots, -1)
        self._free = list(range(slots))
        self._doubtful: set[int] = set()

    @property
    def free_slots(self) -> int:
        """How many slots nobody holds."""
        return len(self._free)

    def take(self) -> int | None:
        """The lowest free slot, so that those in use stay together at the front; None where all are held."""
        if not self._free:
            return None
        slot = heapq.heappop(self._free)
        if slot in self._doubtful:
            self._doubtful.remove(slot)
            for stored in (*self.keys, *self.values):
                stored[slot].zero_()
        return slot

    def free(self, slot: int, *, finite: bool) -> None:
        """Give a slot back; what it holds stays, but is zeroed for the next row if it may not be `finite`."""
        if slot in self._free:
            raise ValueError(f"slot {slot} is free already")
        heapq.heappush(self._free, slot)
        if not finite:
            self._doubtful.add(slot)

    def span(self, slot: int, start: int, end: int) -> Span:
        """Where one row computes its places `start` up to `end`, attending to `aligned(end)` places."""
        return Span(self, slot, start, end)

    def front(self, rows: int, positions: torch.Tensor, length: int) -> Front:
        """Where the first `rows` slots compute a place each, `positions` (rows,), attending to `length`."""
        return Front(self, rows, positions, length)

    def flat_places(self, rows: int, positions: torch.Tensor) -> torch.Tensor:
        """Numbers of the places in a layer's storage seen as (places, head width), (rows * key heads,)."""
        return (self._first_places[:rows] + positions.unsqueeze(-1)).flatten()


class _Places(ABC):
    """Places of the cache that are being computed, as transformers' layers see a cache."""

    def __init__(self, cache: SlotCache) -> None:
        self._cache = cache

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write what was computed, (rows, key heads, places, width); return views of all that is attended to,
        (rows, key heads, length, width).
        """
        return (
            self._write(self._cache.keys[layer_idx], keys),
            self._write(self._cache.values[layer_idx], values),
        )

    @abstractmethod
    def _write(self, stored: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """Write into one tensor of a layer; the view of it."""


class Span(_Places):
    """Part of one slot, as the layers see it in a prefill: one row."""

    def __init__(self, cache: SlotCache, slot: int, start: int, end: int) -> None:
        super().__init__(cache)
        self.length = min(aligned(end), cache.length)
        self._slot = slot
        self._start = start
        self._end = end

    def _write(self, stored: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        row = stored[self._slot : self._slot + 1]
        row[:, :, self._start : self._end] = new
        return row[:, :, : self.length]


class Front(_Places):
    """The first slots, as the layers see them in a step of decoding: one place of each."""

    def __init__(self, cache: SlotCache, rows: int, positions: torch.Tensor, length: int) -> None:
        super().__init__(cache)
        self._rows = rows
        self._length = length
        self._places = cache.flat_places(rows, positions)

    def _write(self, stored: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        width = stored.shape[-1]
        stored.view(-1, width).index_copy_(0, self._places, new.reshape(-1, width))
        return stored[: self._rows, :, : self._length]
