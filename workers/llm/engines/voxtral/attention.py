"""Attention where several query heads share a head of keys, without copies of the keys.

The query heads of a group become further rows of queries against the group's one head of keys and values.
Registered with transformers under `NAME`; a model set to it still works by itself (`generate`).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "parley_grouped"


def grouped_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Queries (B, heads, T, width), keys and values (B, key heads, L, width) to (B, T, heads, width).

    The mask is added to the scores: (B or 1, 1, 1 or heads of a group * T, L). For several tokens with
    another mask, or none, the library's own function does the work.
    """
    batch, heads, tokens, width = query.shape
    grouped = query.reshape(batch, key.shape[1], -1, width)
    if tokens > 1 and (attention_mask is None or attention_mask.shape[2] != grouped.shape[2]):
        answer: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return answer
    output = scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
    return output.reshape(batch, heads, tokens, width).transpose(1, 2), None


def mask_of(hidden: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What is added to the scores: minus infinity where `hidden` (of any shape) is true, else 0."""
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, -torch.inf)


def kernels(device: torch.device) -> AbstractContextManager[None]:
    """Keeps a GPU to kernels that take a mask of any stride and may be recorded."""
    if device.type != "cuda":
        return nullcontext()
    allowed: AbstractContextManager[None] = sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])
    return allowed


AttentionInterface.register(NAME, grouped_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
