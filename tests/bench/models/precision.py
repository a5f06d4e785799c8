"""How many tokens are the same in bfloat16 and in float32: the same weights, prompts and, so far, answers.

Greedy. The model in float32 is given what the one in bfloat16 has said, token by token, and asked what it
would have said next: so one difference counts once and does not spoil all that follows.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch

from tests.bench.models.bench import Bench, Figures
from tests.bench.models.figures import short
from tests.bench.models.models import Models, collect
from workers.llm.engines.voxtral.decoder import Decoder, Lane
from workers.llm.engines.voxtral.pieces import Ids, Piece, Window

CONTEXT = 512
"""Tokens of a prompt of one window and its answer."""


def run(bench: Bench) -> Figures:
    """The share of equal tokens, and of how many."""
    plan, models = bench.plan, bench.models
    own = models.voxtral
    rough = own if own.dtype == torch.bfloat16 else copy.deepcopy(own).to(torch.bfloat16)
    prompts = [_whole(models, number) for number in range(plan.compared)]
    said = answers(Decoder(rough, len(prompts), CONTEXT, record=False), prompts, plan.compared_tokens)
    exact = copy.deepcopy(rough).float()
    del rough
    collect()
    wanted = answers(Decoder(exact, len(prompts), CONTEXT, record=False), prompts, plan.compared_tokens, said)
    del exact
    collect()
    pairs = [
        pair for ours, theirs in zip(said, wanted, strict=True) for pair in zip(ours, theirs, strict=True)
    ]
    equal = sum(ours == theirs for ours, theirs in pairs)
    return {"share": short(equal / len(pairs)), "tokens": len(pairs), "prompts": len(prompts)}


def answers(
    decoder: Decoder,
    prompts: Sequence[Sequence[Piece]],
    tokens: int,
    instead: Sequence[Sequence[int]] | None = None,
) -> list[list[int]]:
    """What the model says to each prompt: so many tokens, after its own or those said `instead`."""
    lanes = [_taken_in(decoder, prompt) for prompt in prompts]
    said: list[list[int]] = [[] for _ in prompts]
    for step in range(tokens):
        chosen = decoder.decode(lanes)
        for number, (lane, token) in enumerate(zip(lanes, chosen, strict=True)):
            said[number].append(token)
            goes_on = token if instead is None else instead[number][step]
            lanes[number] = lane._replace(token=goes_on, position=lane.position + 1)
    return said


def _whole(models: Models, number: int) -> list[Piece]:
    before, after = models.prompt(models.utterance(number))
    return before + after


def _taken_in(decoder: Decoder, prompt: Sequence[Piece]) -> Lane:
    """Put all but the last id of a prompt into a slot of its own."""
    slot = decoder.cache.take()
    last = prompt[-1]
    assert slot is not None and isinstance(last, Ids)
    embeddings = torch.cat([_embedded(decoder, piece) for piece in prompt])[:-1]
    decoder.prefill(slot, 0, embeddings)
    return Lane(slot, last.ids[-1], len(embeddings), 0.0, 1.0, 0.0)


def _embedded(decoder: Decoder, piece: Piece) -> torch.Tensor:
    if isinstance(piece, Ids):
        return decoder.embed(piece.ids)
    return _heard(decoder, piece)


def _heard(decoder: Decoder, window: Window) -> torch.Tensor:
    slices = decoder.encode(window)
    while True:
        try:
            next(slices)
        except StopIteration as end:
            return end.value
