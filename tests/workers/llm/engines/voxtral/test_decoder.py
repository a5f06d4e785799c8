from __future__ import annotations

import random
from collections.abc import Generator
from typing import Any

import pytest
import torch

from tests.workers.llm.engines.voxtral.tiny import EOS_ID, Alone, ask, joined, run, sound, text, tiny_model
from workers.llm.engines.voxtral.batch import Batch
from workers.llm.engines.voxtral.decoder import Decoder, Lane
from workers.llm.engines.voxtral.pieces import WINDOW_BYTES, Ids, Window


def greedy(slot: int, token: int, position: int) -> Lane:
    return Lane(slot, token, position, temperature=0, top_p=1, draw=0)


def drain(slices: Generator[None, None, torch.Tensor]) -> tuple[int, torch.Tensor]:
    """How often the encoder paused, and what it heard."""
    pauses = 0
    while True:
        try:
            next(slices)
        except StopIteration as end:
            return pauses, end.value
        pauses += 1


def test_a_window_heard_layer_by_layer_is_what_the_model_hears(decoder: Decoder, alone: Alone) -> None:
    window = sound(3, duration_s=7.3)
    pauses, heard = drain(decoder.encode(window))
    assert pauses == 3
    torch.testing.assert_close(heard, alone.hears(window), rtol=1e-4, atol=1e-4)


def test_a_window_of_more_than_30_s_is_refused(decoder: Decoder) -> None:
    with pytest.raises(ValueError, match="a window of 960002 bytes, where 960000 is the most"):
        drain(decoder.encode(Window(bytes(WINDOW_BYTES + 2))))


@pytest.mark.parametrize("cuts", [(), (1,), (64, 128), (5, 6, 190)])
def test_a_prompt_taken_in_by_slices_gives_what_it_gives_at_once(
    decoder: Decoder, alone: Alone, cuts: tuple[int, ...]
) -> None:
    prompt = text(random.Random(2), 200).ids
    for begin, end in zip((0, *cuts), (*cuts, 199), strict=True):
        decoder.prefill(1, begin, decoder.embed(prompt[begin:end]))
    expected = alone.greedy([Ids(prompt)], 1)
    assert decoder.decode([greedy(1, prompt[199], 199)]) == expected


def test_rows_of_every_length_stand_in_one_step_each_with_its_own_positions(
    decoder: Decoder, alone: Alone
) -> None:
    chance = random.Random(3)
    prompts = [text(chance, length).ids for length in (1, 255, 700)]
    for slot, prompt in enumerate(prompts):
        if len(prompt) > 1:
            decoder.prefill(slot, 0, decoder.embed(prompt[:-1]))
    lanes = [greedy(slot, prompt[-1], len(prompt) - 1) for slot, prompt in enumerate(prompts)]
    expected = [alone.greedy([Ids(prompt)], 1)[0] for prompt in prompts]
    assert decoder.decode(lanes) == expected
    assert decoder.decode(lanes[::-1]) == expected[::-1], "a step over, in another order"


def test_slots_that_have_no_part_in_a_step_are_not_written(decoder: Decoder) -> None:
    stored = (*decoder.cache.keys, *decoder.cache.values)
    for tensor in stored:
        tensor.normal_()
    before = [tensor.clone() for tensor in stored]
    decoder.decode([greedy(2, 50, 300)])
    for tensor, old in zip(stored, before, strict=True):
        differs = (tensor != old).any(dim=1).any(dim=-1)
        places = {tuple(place) for place in differs.nonzero().tolist()}
        assert places == {(2, 300), (0, decoder.cache.scratch), (1, decoder.cache.scratch)}


def test_what_lies_behind_a_rows_place_does_not_matter(decoder: Decoder, alone: Alone) -> None:
    prompt = text(random.Random(4), 90).ids
    for tensor in (*decoder.cache.keys, *decoder.cache.values):
        tensor.normal_(std=100)
    decoder.prefill(0, 0, decoder.embed(prompt[:40]))
    decoder.prefill(0, 40, decoder.embed(prompt[40:89]))
    assert decoder.decode([greedy(0, prompt[89], 89)]) == alone.greedy([Ids(prompt)], 1)


def test_the_last_place_of_the_context_can_be_used(model: Any, alone: Alone) -> None:
    decoder = Decoder(model, slots=2, context=300)
    prompt = text(random.Random(5), 300).ids
    decoder.prefill(1, 0, decoder.embed(prompt[:-1]))
    assert decoder.decode([greedy(1, prompt[-1], 299)]) == alone.greedy([Ids(prompt)], 1)


def test_it_tells_what_a_benchmark_wants_to_know(decoder: Decoder, model: Any) -> None:
    weights = sum(weight.numel() for weight in model.model.language_model.parameters())
    embedding = model.model.language_model.embed_tokens.weight.numel()
    assert decoder.weight_bytes == 4 * (weights - embedding + model.lm_head.weight.numel())
    assert (decoder.slots, decoder.context) == (3, 2048)
    assert decoder.eos == {EOS_ID}


def test_the_model_can_still_be_asked_alone(decoder: Decoder, model: Any, alone: Alone) -> None:
    prompt = text(random.Random(6), 50).ids
    ids = torch.tensor([prompt, prompt[::-1]])
    answers = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False)
    assert answers[0, 50:].tolist() == alone.greedy([Ids(prompt)], 5)
    assert answers[1, 50:].tolist() == alone.greedy([Ids(prompt[::-1])], 5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_recorded_steps_give_what_plain_ones_give(dtype: torch.dtype) -> None:
    model = tiny_model().to("cuda", dtype)
    recorded, plain = Decoder(model, 4, 1024), Decoder(model, 4, 1024, record=False)
    assert recorded.recorded
    assert not plain.recorded
    chance = random.Random(7)
    prompts = [
        joined(Ids((1, 3, 25)), sound(seed), text(chance, 5 * seed), Ids((4,))) for seed in range(1, 7)
    ]
    answers = []
    for decoder in (recorded, plain):
        batch = Batch(decoder)
        rows = [ask(batch, prompt, 20) for prompt in prompts]
        heard = run(batch)
        answers.append([heard.of(row) for row in rows])
    assert answers[0] == answers[1]
