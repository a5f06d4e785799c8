from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from tests.workers.llm.engines.voxtral.tiny import (
    EOS_ID,
    GREEDY,
    VOCABULARY,
    Alone,
    Heard,
    ask,
    joined,
    run,
    sound,
    text,
    tiny_model,
)
from workers.llm.engines.voxtral.batch import LEAST_NEW, NO_ROOM_S, SLICE_TOKENS, Batch
from workers.llm.engines.voxtral.decoder import Decoder
from workers.llm.engines.voxtral.pieces import WINDOW_BYTES, Ids, Piece, Window
from workers.llm.engines.voxtral.rows import Failed, Row, Sampled, Stage
from workers.llm.engines.voxtral.sampling import Sampling

LONG = 400
"""Tokens of an answer that outlasts what a test does beside it; `GOES_ON` is its script."""

GOES_ON = (50,) * LONG

SAMPLED = Sampling(temperature=1.0, top_p=0.9, seed=13)


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def batch(decoder: Decoder, clock: Clock) -> Batch:
    return Batch(decoder, clock)


@pytest.fixture
def lonely(model: Any, clock: Clock) -> Batch:
    """A batch of one slot."""
    return Batch(Decoder(model, slots=1, context=1024), clock)


@pytest.fixture
def chance() -> random.Random:
    return random.Random(5)


def decoding(batch: Batch, prompt: list[Piece]) -> Row:
    """A row that decodes, and will for a while."""
    row = ask(batch, prompt, LONG, script=GOES_ON)
    step_until(batch, row, Stage.DECODING)
    return row


def step_until(batch: Batch, row: Row, stage: Stage) -> None:
    for _ in range(1000):
        if row.stage is stage:
            return
        batch.step()
    raise AssertionError(f"the row is still {row.stage}")


def test_a_row_that_starts_in_the_middle_of_others_changes_no_token(
    batch: Batch, alone: Alone, chance: random.Random
) -> None:
    prompts = [
        joined(Ids((1, 3)), text(chance, 30), Ids((4,))),
        joined(Ids((1, 3, 25)), sound(1), text(chance, 9), Ids((4,))),
        joined(Ids((1, 3, 25)), sound(2, 30), Ids((25,)), sound(3, 2), text(chance, 3), Ids((4,))),
    ]
    heard = Heard()
    rows = []
    for prompt in prompts:
        rows.append(ask(batch, prompt, 25))
        for _ in range(6):
            heard.take(batch.step())
    run(batch, heard)
    assert [heard.of(row) for row in rows] == [alone.greedy(prompt, 25) for prompt in prompts]
    assert len({tuple(heard.of(row)) for row in rows}) == 3


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED])
@pytest.mark.parametrize("said", [1, 4, 9])
def test_a_reply_that_is_resumed_goes_on_with_the_same_tokens(
    batch: Batch, alone: Alone, chance: random.Random, sampling: Sampling, said: int
) -> None:
    prompt = joined(Ids((1, 3, 25)), sound(4), text(chance, 9), Ids((4,)))
    whole = alone.says(prompt, 14, sampling)
    assert len(whole) == 14
    ask(batch, [Ids((1, 3)), text(chance, 50), Ids((4,))], 30, Sampling(1.5, 1.0, 3))
    row = ask(batch, [*prompt, Ids(tuple(whole[:said]))], 14 - said, sampling, position=said)
    assert run(batch).of(row) == whole[said:]


def test_rows_with_different_sampling_stand_in_one_step(
    batch: Batch, alone: Alone, chance: random.Random
) -> None:
    prompt = joined(Ids((1, 3)), text(chance, 20), Ids((4,)))
    kinds = [SAMPLED, GREEDY, Sampling(0.7, 0.5, 12)]
    rows = [ask(batch, prompt, 15, kind) for kind in kinds]
    heard = run(batch)
    assert [heard.of(row) for row in rows] == [alone.says(prompt, 15, kind) for kind in kinds]
    assert len({tuple(heard.of(row)) for row in rows}) == 3


def test_the_end_that_the_model_chooses_ends_the_row(batch: Batch, alone: Alone) -> None:
    prompt = next(
        prompt
        for prompt in (joined(Ids((1, 3)), text(random.Random(seed), 12), Ids((4,))) for seed in range(100))
        if 0 < len(alone.greedy(prompt, 40)) < 40
    )
    row = ask(batch, prompt, 40)
    heard = run(batch)
    assert heard.of(row) == alone.greedy(prompt, 40)
    assert EOS_ID not in heard.of(row)
    assert heard.ends == {row: "stop"}


def test_a_row_ends_where_it_may_say_no_more(batch: Batch, chance: random.Random) -> None:
    row = ask(batch, [text(chance, 20)], 3, script=GOES_ON)
    heard = run(batch)
    assert heard.of(row) == [50, 50, 50]
    assert heard.ends == {row: "length"}


def test_a_row_that_may_say_nothing_ends_at_once(batch: Batch, chance: random.Random) -> None:
    row = ask(batch, [text(chance, 20)], 0)
    assert run(batch).ends == {row: "length"}


def test_a_script_takes_the_place_of_what_the_model_says(batch: Batch, chance: random.Random) -> None:
    prompt = [text(chance, 20)]
    script = (60, EOS_ID, 61, 62)
    rows = [
        ask(batch, prompt, LONG, script=script),
        ask(batch, [*prompt, Ids(script[:3])], LONG, position=3, script=script),
    ]
    heard = run(batch)
    assert [heard.of(row) for row in rows] == [list(script), [62]]
    assert set(heard.ends.values()) == {"stop"}


def test_a_dropped_row_is_never_heard_of_again_and_its_slot_is_free(
    batch: Batch, decoder: Decoder, chance: random.Random
) -> None:
    prompt = joined(Ids((1, 3, 25)), sound(1), Ids((4,)))
    stages = {Stage.LISTENING: 0, Stage.STARTED: 0, Stage.DECODING: 0}
    for steps in range(12):
        row = ask(batch, prompt, LONG, script=GOES_ON) if steps % 3 else batch.open(GREEDY, 9)
        if row.stage is Stage.LISTENING:
            batch.feed(row, prompt[1])
        for _ in range(steps):
            batch.step()
        stages[row.stage] += 1
        batch.drop(row)
        assert row.stage is Stage.GONE
        assert decoder.cache.free_slots == 3
        assert batch.idle
        assert batch.step() == []
        batch.drop(row)
        batch.feed(row, prompt[0])
        batch.start(row, 0)
        assert batch.step() == []
    assert min(stages.values()) >= 2


def test_what_was_to_be_told_of_a_row_goes_with_it(batch: Batch) -> None:
    row = ask(batch, [text(random.Random(0), 5000)])
    assert row.error is not None
    assert not batch.idle
    batch.drop(row)
    assert batch.idle
    assert batch.step() == []


def test_while_a_prompt_is_taken_in_everybody_else_gets_a_token_each_step(
    batch: Batch, chance: random.Random
) -> None:
    others = [decoding(batch, [text(chance, 10)]) for _ in range(2)]
    row = ask(batch, [Ids((1, 3, 25)), sound(1, 30), text(chance, 300), Ids((4,))], LONG, script=GOES_ON)
    while row.stage is Stage.STARTED:
        taken = row.intake.taken
        told = batch.step()
        assert [event.row for event in told if isinstance(event, Sampled)][:2] == others
        assert row.intake.taken - taken <= SLICE_TOKENS["cpu"]
    assert row.slot is not None


def test_alone_a_prompt_is_taken_in_at_once(batch: Batch, chance: random.Random) -> None:
    row = ask(batch, [text(chance, 900)], LONG, script=GOES_ON)
    assert [type(event) for event in batch.step()] == [Sampled]
    assert row.stage is Stage.DECODING


def test_who_has_started_comes_before_who_listens_and_then_the_first_comes_first(
    batch: Batch, chance: random.Random
) -> None:
    listener = batch.open(GREEDY, LONG, GOES_ON)
    batch.feed(listener, text(chance, 500))
    first = ask(batch, [text(chance, 1500)], LONG, script=GOES_ON)
    second = ask(batch, [text(chance, 20)], LONG, script=GOES_ON)
    ready: list[Row] = []
    for _ in range(60):
        batch.step()
        ready += [row for row in (first, second) if row.stage is Stage.DECODING and row not in ready]
        assert listener.intake.taken == 0 or len(ready) == 2
    assert ready == [first, second]
    assert listener.intake.taken == 500


def test_what_is_known_of_a_prompt_is_taken_in_before_it_is_whole(
    batch: Batch, alone: Alone, chance: random.Random
) -> None:
    prompt = joined(Ids((1, 3, 25)), sound(6), text(chance, 70), Ids((4,)))
    row = batch.open(GREEDY, 8)
    told: list[Any] = []
    for piece in prompt:
        batch.feed(row, piece)
        while not batch.idle:
            told += batch.step()
    assert told == []
    assert row.intake.taken == row.intake.tokens == 449
    batch.start(row, 0)
    assert len(batch.step()) == 1, "all was there, and yet the first token took more than a step"
    heard = run(batch)
    assert heard.of(row) == alone.greedy(prompt, 8)[1:]


def test_a_listener_gives_its_slot_to_who_has_started_and_begins_anew(
    lonely: Batch, alone: Alone, chance: random.Random
) -> None:
    prompt = joined(Ids((1, 3, 25)), sound(7), text(chance, 9), Ids((4,)))
    listener = lonely.open(GREEDY, 9)
    for piece in prompt[:3]:
        lonely.feed(listener, piece)
    for _ in range(5):
        lonely.step()
    assert listener.slot == 0
    urgent_prompt = joined(Ids((1, 3)), text(chance, 40), Ids((4,)))
    urgent = ask(lonely, urgent_prompt, 5)
    heard = Heard()
    heard.take(lonely.step())
    assert [listener.slot, urgent.slot] == [None, 0]
    run(lonely, heard)
    assert heard.of(urgent) == alone.greedy(urgent_prompt, 5)
    lonely.feed(listener, prompt[3])
    lonely.start(listener, 0)
    run(lonely, heard)
    assert heard.of(listener) == alone.greedy(prompt, 9)


def test_the_listener_that_loses_least_gives_its_slot(batch: Batch, chance: random.Random) -> None:
    listeners = [batch.open(GREEDY, 9) for _ in range(3)]
    for listener, count in zip(listeners, (300, 20, 200), strict=True):
        batch.feed(listener, text(chance, count))
    run(batch)
    ask(batch, [text(chance, 10)])
    batch.step()
    assert [listener.slot for listener in listeners] == [0, None, 2]


def listening(batch: Batch, chance: random.Random) -> Row:
    row = batch.open(GREEDY, 9)
    batch.feed(row, text(chance, 20))
    return row


def test_a_row_may_start_in_vain_where_it_takes_no_other_s_slot(batch: Batch, chance: random.Random) -> None:
    listening(batch, chance)
    listening(batch, chance)
    run(batch)
    assert batch.spare  # one is free
    listening(batch, chance)
    run(batch)
    assert batch.spare  # all have one
    late = listening(batch, chance)
    run(batch)
    assert not batch.spare  # it might be this one that starts, in another's slot
    batch.drop(late)
    decoding(batch, [text(chance, 10)])
    assert not batch.spare  # one of the three gave up its slot


def test_a_row_may_start_in_vain_in_the_only_slot_if_it_is_alone(
    lonely: Batch, chance: random.Random
) -> None:
    listening(lonely, chance)
    run(lonely)
    assert lonely.spare
    listening(lonely, chance)
    assert not lonely.spare


def test_no_row_starts_in_vain_while_another_waits_for_a_slot(batch: Batch, chance: random.Random) -> None:
    rows = [decoding(batch, [text(chance, 10)]) for _ in range(3)]
    waiting = ask(batch, [text(chance, 10)], LONG, script=GOES_ON)
    batch.step()
    for row in rows:
        batch.drop(row)
    assert waiting.slot is None
    assert not batch.spare
    batch.step()
    assert waiting.slot is not None
    assert batch.spare


def test_who_finds_no_room_for_too_long_is_told_to_come_again(
    lonely: Batch, clock: Clock, chance: random.Random
) -> None:
    holder = decoding(lonely, [text(chance, 10)])
    late = ask(lonely, [text(chance, 10)])
    clock.now_s += NO_ROOM_S
    assert [event.row for event in lonely.step()] == [holder]
    clock.now_s += 0.01
    failed = [event for event in lonely.step() if isinstance(event, Failed)]
    assert [event.row for event in failed] == [late]
    assert late.error is failed[0].error
    assert str(late.error) == "no room in the cache of Voxtral: all 1 slots are held"
    assert late.error.retryable
    assert holder.stage is Stage.DECODING


def test_who_waits_gets_the_slot_of_who_leaves(lonely: Batch, alone: Alone, chance: random.Random) -> None:
    holder = decoding(lonely, [text(chance, 10)])
    prompt = joined(Ids((1, 3)), text(chance, 10), Ids((4,)))
    late = ask(lonely, prompt, 7)
    lonely.step()
    lonely.drop(holder)
    assert run(lonely).of(late) == alone.greedy(prompt, 7)


def test_a_prompt_that_leaves_no_room_for_an_answer_is_refused(batch: Batch, chance: random.Random) -> None:
    row = ask(batch, [text(chance, 2048 - LEAST_NEW + 1)], 100)
    assert [type(event) for event in batch.step()] == [Failed]
    assert row.error is not None
    assert str(row.error) == (
        "the prompt is too long for Voxtral: 2033 tokens and the answer do not fit VOXTRAL_CONTEXT=2048"
    )
    assert not row.error.retryable
    assert batch.idle


def test_an_answer_is_cut_to_what_fits(batch: Batch, chance: random.Random) -> None:
    row = ask(batch, [text(chance, 2048 - LEAST_NEW)], LONG, script=GOES_ON)
    heard = run(batch)
    assert len(heard.of(row)) == LEAST_NEW
    assert heard.ends == {row: "length"}


def test_a_short_answer_needs_no_more_room_than_it_takes(batch: Batch, chance: random.Random) -> None:
    row = ask(batch, [text(chance, 2046)], 2, script=GOES_ON)
    assert run(batch).of(row) == [50, 50]


@pytest.mark.parametrize("prompt", [[], [Ids(())], [Ids((1, 3, 25)), sound(1)]])
def test_a_prompt_that_does_not_end_in_an_id_is_refused(batch: Batch, prompt: list[Any]) -> None:
    row = ask(batch, prompt)
    assert run(batch).ends == {row: "failed"}
    assert str(row.error) == "a prompt for Voxtral has to end in a token id"


def test_a_prompt_of_one_id_is_enough(batch: Batch, alone: Alone) -> None:
    row = ask(batch, [Ids((77,))], 6)
    assert run(batch).of(row) == alone.greedy([Ids((77,))], 6)


@pytest.mark.parametrize(
    "bad", [Window(bytes(WINDOW_BYTES + 2)), Ids((60, VOCABULARY + 1, 60))], ids=["window", "id"]
)
def test_a_prompt_that_cannot_be_taken_in_fails_its_own_row(
    batch: Batch, decoder: Decoder, alone: Alone, chance: random.Random, bad: Any
) -> None:
    prompt = joined(Ids((1, 3)), text(chance, 10), Ids((4,)))
    row = ask(batch, prompt, 20)
    batch.step()
    failing = ask(batch, [text(chance, 10), bad, Ids((4,))])
    heard = Heard()
    run(batch, heard)
    assert heard.ends[failing] == "failed"
    assert failing.error is not None
    assert str(failing.error).startswith("Voxtral cannot take in the prompt: ")
    assert not failing.error.retryable
    assert heard.of(row) == alone.greedy(prompt, 20)[1:]
    assert decoder.cache.free_slots == 3


def test_a_broken_step_fails_the_rows_in_it_and_nobody_after_it(
    batch: Batch, decoder: Decoder, alone: Alone, chance: random.Random
) -> None:
    no_token = (VOCABULARY + 1,) * 9
    rows = [ask(batch, [text(chance, 10)], 9, script=no_token), ask(batch, [text(chance, 10)], 9)]
    prompt = joined(Ids((1, 3, 25)), sound(2), text(chance, 10), Ids((4,)))
    listener = batch.open(GREEDY, 20)
    for piece in prompt:
        batch.feed(listener, piece)
    heard = run(batch)
    assert heard.ends == {rows[0]: "failed", rows[1]: "failed"}
    assert all(row.error is not None and row.error.retryable for row in rows)
    assert decoder.cache.free_slots == 2
    batch.start(listener, 0)
    after = ask(batch, prompt, 20)
    run(batch, heard)
    assert heard.of(listener) == heard.of(after) == alone.greedy(prompt, 20)


def test_numbers_that_are_not_finite_fail_their_own_row_and_leave_no_trace(chance: random.Random) -> None:
    model = tiny_model()
    bad_id = 199
    model.model.language_model.embed_tokens.weight[bad_id] = torch.nan
    alone = Alone(model)
    decoder = Decoder(model, slots=2, context=512)
    batch = Batch(decoder)
    prompt = joined(Ids((1, 3)), Ids(tuple(range(40, 60))), Ids((4,)))
    row = ask(batch, prompt, 30)
    bad = [Ids((*range(40, 100), bad_id, 41))]
    broken = ask(batch, bad)
    listener = batch.open(GREEDY, 9)
    heard = Heard()
    heard.take(batch.step())
    heard.take(batch.step())
    assert heard.ends == {broken: "failed"}
    assert str(broken.error) == "Voxtral computed numbers that are not finite"
    batch.feed(listener, bad[0])
    heard.take(batch.step())
    assert listener.slot == 1
    batch.drop(listener)
    after = ask(batch, prompt, 9)
    run(batch, heard)
    assert heard.of(row) == alone.greedy(prompt, 30)
    assert heard.of(after) == alone.greedy(prompt, 9)
