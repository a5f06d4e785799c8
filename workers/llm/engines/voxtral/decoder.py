"""The model's work in pieces: hear a window, take in part of a prompt, decode one token of every row.

    Window -> encode -> (375, width) \\
                                       prefill -> slot of the cache -> decode -> a token per row
       Ids -> embed  -> (n, width)   /

Calls the layers of the real classes one by one, because their models' own `forward` would cut neither encoder
nor prompt, and looks at the masks on the host. Knows no conversation: a row is a slot number here.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch.nn.functional import gelu

from workers.llm.engines.voxtral import attention, mel
from workers.llm.engines.voxtral.cache import Front, SlotCache, Span, aligned
from workers.llm.engines.voxtral.graphs import Recorder, Work
from workers.llm.engines.voxtral.pieces import WINDOW_BYTES, WINDOW_TOKENS, Window
from workers.llm.engines.voxtral.sampling import UNSETTLED, choose, likeliest

SHORTEST_LENGTH = 256
"""Places that a step attends to at least; from here it goes up by doubling."""


Function = TypeVar("Function", bound=Callable[..., object])


def _inferring(function: Function) -> Function:
    """Without the book-keeping for gradients, also between the slices of a generator."""
    inferring: Function = torch.inference_mode()(function)
    return inferring


class Lane(NamedTuple):
    """What a row brings into a step: its last token, where in the slot that is, how to draw the next."""

    slot: int
    token: int
    position: int
    temperature: float
    top_p: float
    draw: float


class Decoder:
    """One model, its cache and its buffers. All calls from one thread."""

    def __init__(self, model: Any, slots: int, context: int, *, record: bool = True) -> None:
        """Allocate for `slots` conversations of `context` tokens; on a GPU `record` every shape of a step."""
        parts = model.model
        self._text = parts.language_model
        self._text.set_attn_implementation(attention.NAME)
        self._head = model.lm_head
        self._tower = parts.audio_tower
        self._projector = parts.multi_modal_projector
        config = self._text.config
        self._heads_per_group = config.num_attention_heads // config.num_key_value_heads
        weight = self._head.weight
        self.device, self.dtype = weight.device, weight.dtype
        self.slots, self.context = slots, context
        self.eos = _ids_of(model.generation_config.eos_token_id) or _ids_of(config.eos_token_id)
        self.cache = SlotCache(config, slots, context, self.dtype, self.device)
        self._filters = mel.filters(self.device)
        self._allocate(config.vocab_size, config.hidden_size)
        self._recorder = Recorder(self.device, record)
        self._steps: dict[tuple[int, int], Work] = {}
        self._hear: Work | None = None
        if self.device.type == "cuda":
            self._record(record)

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that a step of decoding reads, however many rows are in it."""
        read = (*self._text.layers.parameters(), *self._text.norm.parameters(), *self._head.parameters())
        return sum(weight.numel() * weight.element_size() for weight in read)

    @property
    def recorded(self) -> bool:
        """Whether steps are replayed, and not launched operation by operation."""
        return self._recorder.works

    def _allocate(self, vocabulary: int, width: int) -> None:
        cuda = self.device.type == "cuda"
        wholes = torch.zeros((2, self.slots), dtype=torch.int64, pin_memory=cuda)
        reals = torch.zeros((3, self.slots), dtype=torch.float32, pin_memory=cuda)
        self._host = (wholes, reals)
        # On a CPU the host's buffers are the device's.
        self._wholes, self._reals = wholes.to(self.device), reals.to(self.device)
        self._ids_in, self._positions_in = wholes.numpy()
        self._temperatures_in, self._top_ps_in, self._draws_in = reals.numpy()
        self._positions_in[:] = self.cache.scratch
        self._wholes.copy_(wholes)
        self._columns = torch.arange(self.cache.length, device=self.device)
        self._logits = torch.zeros((self.slots, vocabulary), dtype=torch.float32, device=self.device)
        self._greedy = torch.zeros(self.slots, dtype=torch.int64, device=self.device)
        frames = self._tower.config.max_source_positions * 2
        self._features = torch.zeros(
            (self._tower.config.num_mel_bins, frames), dtype=self.dtype, device=self.device
        )
        self._heard = torch.zeros((WINDOW_TOKENS, width), dtype=self.dtype, device=self.device)

    @_inferring
    def _record(self, wanted: bool) -> None:
        """Record the encoder and each step, the largest first: the smaller ones fit into its memory."""
        self._hear = Recorder(self.device, wanted).record(self._hear_window, "the encoder")
        for rows in reversed(_doublings(1, self.slots)):
            for length in reversed(_doublings(SHORTEST_LENGTH, aligned(self.context))):
                self._step(rows, length)

    # -- The prompt.

    @_inferring
    def encode(self, window: Window) -> Generator[None, None, torch.Tensor]:
        """Hear a window, in slices where that takes long; returns (WINDOW_TOKENS, width)."""
        if len(window.pcm) > WINDOW_BYTES:
            raise ValueError(f"a window of {len(window.pcm)} bytes, where {WINDOW_BYTES} is the most")
        features = mel.log_mel(window.pcm, self._filters).to(self.dtype)
        if self._hear is None:
            yield
            return (yield from self._hear_slices(features))
        self._features.copy_(features)
        self._hear()
        return self._heard.clone()

    def _hear_window(self) -> None:
        """The whole encoder at once, from `_features` into `_heard`."""
        slices = self._hear_slices(self._features)
        while True:
            try:
                next(slices)
            except StopIteration as end:
                self._heard.copy_(end.value)
                return

    def _hear_slices(self, features: torch.Tensor) -> Generator[None, None, torch.Tensor]:
        """The encoder and the projector, a layer at a time. (mel bins, frames) to (WINDOW_TOKENS, width)."""
        tower = self._tower
        state = gelu(tower.conv2(gelu(tower.conv1(features.unsqueeze(0))))).transpose(1, 2)
        state = (state + tower.embed_positions.weight).to(self.dtype)
        for layer in tower.layers:
            yield
            state = layer(state, attention_mask=None)
        state = tower.layer_norm(state).reshape(WINDOW_TOKENS, -1)
        return self._projector(state)

    @_inferring
    def embed(self, ids: Sequence[int]) -> torch.Tensor:
        """(n, width) of n token ids."""
        # Pinned, so that the host goes on to the next work while the device is still at the last.
        host = torch.tensor(ids, pin_memory=self.device.type == "cuda")
        return self._text.embed_tokens(host.to(self.device, non_blocking=True))

    @_inferring
    def prefill(self, slot: int, start: int, embeddings: torch.Tensor) -> None:
        """Compute the places from `start` on of one slot: each sees all before it. (n, width)."""
        positions = self._columns[start : start + len(embeddings)]
        span = self.cache.span(slot, start, start + len(embeddings))
        hidden = self._columns[: span.length] > positions.unsqueeze(-1)
        mask = attention.mask_of(hidden, self.dtype).repeat(self._heads_per_group, 1)
        self._run(embeddings.unsqueeze(0), positions.unsqueeze(0), mask[None, None], span)

    # -- A step of decoding.

    @_inferring
    def decode(self, lanes: Sequence[Lane]) -> list[int]:
        """The next token of every lane, in their order; `sampling.BROKEN` where the numbers are not finite.

        Slots that have no lane, but lie below one that has, compute into their scratch place.
        """
        rows = _bucket(max(lane.slot for lane in lanes) + 1, 1, self.slots)
        length = _bucket(max(lane.position for lane in lanes) + 1, SHORTEST_LENGTH, aligned(self.context))
        self._ids_in[:rows] = 0  # an id that broke a step must not stay behind
        self._positions_in[:rows] = self.cache.scratch
        self._temperatures_in[:rows] = 0
        for slot, token, position, temperature, top_p, draw in lanes:
            self._ids_in[slot] = token
            self._positions_in[slot] = position
            self._temperatures_in[slot] = temperature
            self._top_ps_in[slot] = top_p
            self._draws_in[slot] = draw
        if self.device.type == "cuda":
            self._wholes.copy_(self._host[0], non_blocking=True)
            self._reals.copy_(self._host[1], non_blocking=True)
        self._step(rows, length)()
        tokens = self._drawn(rows) if self._temperatures_in[:rows].any() else self._greedy[:rows].tolist()
        return [tokens[lane.slot] for lane in lanes]

    def _drawn(self, rows: int) -> list[int]:
        logits = self._logits[:rows]
        temperatures, top_ps, draws = self._reals[:, :rows]
        tokens: list[int] = choose(logits, temperatures, top_ps, draws).tolist()
        if UNSETTLED in tokens:
            tokens = choose(logits, temperatures, top_ps, draws, logits.shape[-1]).tolist()
        return tokens

    def _step(self, rows: int, length: int) -> Work:
        """The step of the first `rows` slots over `length` places, recorded where it can be."""
        step = self._steps.get((rows, length))
        if step is None:
            work = partial(self._forward, rows, length)
            step = self._recorder.record(work, f"a step of {rows} rows over {length} places")
            self._steps[rows, length] = step
        return step

    def _forward(self, rows: int, length: int) -> None:
        """From the buffers of ids and positions into the buffers of logits and likeliest tokens."""
        ids, positions = self._wholes[:, :rows]
        mask = attention.mask_of(self._columns[:length] > positions.unsqueeze(-1), self.dtype)
        front = self.cache.front(rows, positions, length)
        embeddings = self._text.embed_tokens(ids.unsqueeze(-1))
        state = self._run(embeddings, positions.unsqueeze(-1), mask[:, None, None], front)
        logits = self._head(self._text.norm(state[:, 0])).float()
        self._logits[:rows] = logits
        self._greedy[:rows] = likeliest(logits)

    def _run(
        self, state: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, past: Span | Front
    ) -> torch.Tensor:
        """All layers: (B, T, width) at `positions` (B, T); `mask` as `grouped_attention` takes it."""
        rotation = self._text.rotary_emb(state, position_ids=positions)
        with attention.kernels(self.device):
            for layer in self._text.layers:
                state = layer(state, attention_mask=mask, position_embeddings=rotation, past_key_values=past)
        return state


def _doublings(least: int, most: int) -> list[int]:
    """`least`, doubled as long as it is below `most`, then `most` itself."""
    sizes = []
    while least < most:
        sizes.append(least)
        least *= 2
    return [*sizes, most]


def _bucket(wanted: int, least: int, most: int) -> int:
    """The first of `_doublings(least, most)` that holds `wanted`."""
    while least < wanted:
        least *= 2
    return min(least, most)


def _ids_of(eos: int | list[int] | None) -> frozenset[int]:
    if eos is None:
        return frozenset()
    return frozenset((eos,) if isinstance(eos, int) else eos)
