from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig

from workers.llm.engines.voxtral.cache import SlotCache, bytes_per_slot

CONTEXT = 100
CONFIG = LlamaConfig(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8
)


@pytest.fixture
def cache() -> SlotCache:
    return SlotCache(CONFIG, 4, CONTEXT, torch.float32, torch.device("cpu"))


def contents(cache: SlotCache) -> list[torch.Tensor]:
    return [stored.clone() for stored in (*cache.keys, *cache.values)]


def addresses(cache: SlotCache) -> list[int]:
    return [stored.data_ptr() for stored in (*cache.keys, *cache.values)]


def new(rows: int, places: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(rows, 2, places, 8), torch.randn(rows, 2, places, 8)


def test_the_lowest_free_slot_is_handed_out_first(cache: SlotCache) -> None:
    assert [cache.take() for _ in range(4)] == [0, 1, 2, 3]
    for slot in (2, 0, 3):
        cache.free(slot, finite=True)
    assert cache.free_slots == 3
    assert [cache.take(), cache.take()] == [0, 2]


def test_when_all_slots_are_held_there_is_none(cache: SlotCache) -> None:
    for _ in range(4):
        cache.take()
    assert cache.take() is None


def test_a_slot_is_given_back_once(cache: SlotCache) -> None:
    with pytest.raises(ValueError, match="slot 1 is free already"):
        cache.free(1, finite=True)


def test_taking_and_freeing_slots_moves_no_storage(cache: SlotCache) -> None:
    for stored in (*cache.keys, *cache.values):
        stored.normal_()
    before, at = contents(cache), addresses(cache)
    for slot in [cache.take() for _ in range(4)]:
        assert slot is not None
        cache.free(slot, finite=True)
    assert addresses(cache) == at
    assert all(map(torch.equal, contents(cache), before))


def test_a_slot_that_may_hold_infinities_is_zeroed_for_its_next_row_and_no_other_is(cache: SlotCache) -> None:
    for stored in (*cache.keys, *cache.values):
        stored.normal_()
    assert (cache.take(), cache.take()) == (0, 1)
    cache.values[1][1, 0, 5] = torch.nan
    before = contents(cache)
    cache.free(1, finite=False)
    assert cache.take() == 1
    for stored, old in zip((*cache.keys, *cache.values), before, strict=True):
        assert not stored[1].any()
        assert torch.equal(stored[[0, 2, 3]], old[[0, 2, 3]])


def test_a_span_writes_its_places_and_shows_the_slot_up_to_them_without_a_copy(cache: SlotCache) -> None:
    before = contents(cache)
    keys, values = new(1, 5)
    seen_keys, seen_values = cache.span(2, 62, 67).update(keys, values, 1)
    assert seen_keys.shape == seen_values.shape == (1, 2, 128, 8)
    assert seen_keys.data_ptr() == cache.keys[1][2].data_ptr()
    assert seen_values.data_ptr() == cache.values[1][2].data_ptr()
    assert torch.equal(seen_keys[:, :, 62:67], keys)
    assert torch.equal(seen_values[:, :, 62:67], values)
    cache.keys[1][2, :, 62:67] = 0
    cache.values[1][2, :, 62:67] = 0
    assert all(map(torch.equal, contents(cache), before)), "something else was written"


def test_the_front_writes_one_place_of_each_row_and_shows_them_without_a_copy(cache: SlotCache) -> None:
    before = contents(cache)
    keys, values = new(3, 1)
    places = [9, 0, cache.scratch]
    seen_keys, seen_values = cache.front(3, torch.tensor(places), 64).update(keys, values, 0)
    assert seen_keys.shape == seen_values.shape == (3, 2, 64, 8)
    assert seen_keys.data_ptr() == cache.keys[0].data_ptr()
    for row, place in enumerate(places):
        for stored, given in ((cache.keys[0], keys), (cache.values[0], values)):
            assert torch.equal(stored[row, :, place], given[row, :, 0])
            stored[row, :, place] = 0
    assert all(map(torch.equal, contents(cache), before)), "something else was written"


@pytest.mark.parametrize("context", [63, 64, 100, 512])
def test_the_scratch_place_lies_past_every_token(context: int) -> None:
    cache = SlotCache(CONFIG, 1, context, torch.float32, torch.device("cpu"))
    assert cache.scratch >= context
    assert cache.length == cache.scratch + 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_bytes_of_a_slot_are_what_is_allocated_for_it(dtype: torch.dtype) -> None:
    cache = SlotCache(CONFIG, 3, CONTEXT, dtype, torch.device("cpu"))
    allocated = sum(stored.untyped_storage().nbytes() for stored in (*cache.keys, *cache.values))
    assert bytes_per_slot(CONFIG, CONTEXT, dtype) * 3 == allocated
