from __future__ import annotations

from collections import Counter

import pytest
import torch

from workers.llm.engines.voxtral.sampling import BROKEN, UNSETTLED, choose, draw, likeliest


def chosen(
    logits: torch.Tensor, temperature: float, top_p: float, number: float, candidates: int = 256
) -> list[int]:
    rows = len(logits)
    temperatures, top_ps, draws = (torch.full((rows,), value) for value in (temperature, top_p, number))
    tokens: list[int] = choose(logits, temperatures, top_ps, draws, candidates).tolist()
    return tokens


def test_a_draw_is_the_same_on_every_machine() -> None:
    assert draw(0, 0) == 0.6400741756716787
    assert draw(7, 3) == 0.8786383512153848
    assert draw(-1, 2**40) == 0.6151379682900814


def test_draws_are_spread_evenly_over_seeds_and_over_positions() -> None:
    for numbers in ([draw(5, position) for position in range(2000)], [draw(seed, 5) for seed in range(2000)]):
        assert all(0 <= number < 1 for number in numbers)
        tenths = Counter(int(number * 10) for number in numbers)
        assert set(tenths) == set(range(10))
        assert max(tenths.values()) < 270


def test_at_temperature_0_the_likeliest_token_is_taken_whatever_the_draw() -> None:
    logits = torch.randn(3, 50)
    assert chosen(logits, 0, 0.9, 0.99) == logits.argmax(-1).tolist()


def test_draws_meet_the_tokens_as_often_as_the_model_would_have_it() -> None:
    shares = torch.tensor([0.1, 0.5, 0.25, 0.15])
    draws = (torch.arange(1000) + 0.5) / 1000
    logits = shares.log().repeat(1000, 1)
    tokens = choose(logits, torch.ones(1000), torch.ones(1000), draws)
    assert torch.bincount(tokens).tolist() == [100, 500, 250, 150]


def test_a_higher_temperature_evens_the_shares() -> None:
    shares = torch.tensor([0.8, 0.2])
    draws = (torch.arange(1000) + 0.5) / 1000
    tokens = choose(shares.log().repeat(1000, 1), torch.full((1000,), 2.0), torch.ones(1000), draws)
    assert torch.bincount(tokens).tolist() == [667, 333]


def test_top_p_keeps_the_fewest_tokens_that_hold_it_and_no_more() -> None:
    shares = torch.tensor([0.1, 0.5, 0.25, 0.15])
    draws = (torch.arange(1000) + 0.5) / 1000
    tokens = choose(shares.log().repeat(1000, 1), torch.ones(1000), torch.full((1000,), 0.7), draws)
    assert torch.bincount(tokens, minlength=4).tolist() == [0, 667, 333, 0]


def test_the_likeliest_token_stays_however_small_top_p_is() -> None:
    assert chosen(torch.tensor([[0.0, 1.0, 0.5]]), 1.0, 1e-9, 0.99) == [1]


def test_equally_likely_tokens_stand_in_the_order_of_their_ids() -> None:
    flat = torch.zeros(1, 8)
    assert [chosen(flat, 1.0, 1.0, (place + 0.5) / 8)[0] for place in range(8)] == list(range(8))


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_a_row_is_drawn_alike_in_every_company(temperature: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 400) * 3
    temperatures = torch.tensor([0.0, temperature, 1, 0, 0.7, temperature])
    top_ps = torch.tensor([1, 0.9, 0.95, 0.5, 1, 0.3])
    draws = torch.tensor([draw(seed, 0) for seed in range(6)])
    together = choose(logits, temperatures, top_ps, draws, 400).tolist()
    alone = [
        choose(logits[row], temperatures[row], top_ps[row], draws[row], 400).item()
        for row in (slice(row, row + 1) for row in range(6))
    ]
    assert together == alone


@pytest.mark.parametrize("number", [0.0, 1.0])
def test_the_ends_of_the_line_are_tokens_that_are_kept(number: float) -> None:
    shares = torch.tensor([[0.05, 0.6, 0.05, 0.25, 0.05]])
    assert chosen(shares.log(), 1.0, 0.7, number) == [1 if number == 0 else 3]


def test_the_last_digits_of_the_numbers_hardly_ever_choose_another_token() -> None:
    torch.manual_seed(2)
    logits = torch.randn(2000, 400).round(decimals=1)  # many are nearly alike
    ones, draws = torch.ones(2000), torch.rand(2000)
    clean, noisy = (
        choose(logits + torch.randn(2000, 400) * noise, ones, ones, draws, 400) for noise in (1e-5, 1e-5)
    )
    assert (clean != noisy).sum() <= 4


def test_a_few_candidates_say_the_same_as_all_or_that_they_are_too_few() -> None:
    torch.manual_seed(1)
    logits = torch.randn(200, 500) * torch.linspace(1, 6, 200).unsqueeze(-1)
    draws = torch.rand(200)
    temperatures, top_ps = torch.ones(200), torch.full((200,), 0.9)
    few = choose(logits, temperatures, top_ps, draws, 32)
    all_of_them = choose(logits, temperatures, top_ps, draws, 500)
    settled = few != UNSETTLED
    assert 20 < settled.sum() < 180
    assert torch.equal(few[settled], all_of_them[settled])
    assert (all_of_them >= 0).all()


def test_numbers_that_are_not_finite_break_their_own_row_only() -> None:
    logits = torch.zeros(4, 5)
    logits[0, 2] = torch.nan
    logits[1, 3] = torch.inf
    logits[2] = -torch.inf
    logits[3, 4] = 1
    assert likeliest(logits).tolist() == [BROKEN, BROKEN, BROKEN, 4]
    assert chosen(logits, 0.5, 0.1, 0.5) == [BROKEN, BROKEN, BROKEN, 4]
