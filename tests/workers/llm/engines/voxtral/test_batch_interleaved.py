"""Conversations that come, go, listen, answer, break off and go on, in an order made by chance.

Each has several turns, whose prompts hold all that was said before. Whatever the others do, its tokens are
those that the model says alone, and no step touches a place of the cache that it does not compute.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
import pytest

from tests.workers.llm.engines.voxtral.tiny import AUDIO_ID, EOS_ID, GREEDY, Alone, Heard, ask, sound, text
from workers.llm.engines.voxtral.batch import Batch
from workers.llm.engines.voxtral.cache import SlotCache
from workers.llm.engines.voxtral.decoder import Decoder
from workers.llm.engines.voxtral.pieces import Ids, Piece
from workers.llm.engines.voxtral.rows import Row, Stage
from workers.llm.engines.voxtral.sampling import Sampling

SLOTS = 3
CONVERSATIONS = 5
TURNS = 3
CONTEXT = 2048
MOST_NEW = 20

SOUNDS = [sound(1, 0.4), sound(2, 3), sound(3, 30)]

Place = tuple[int, int]


class Storage:
    """What a cache held at some time, to see what was written since."""

    def __init__(self, cache: SlotCache) -> None:
        self._cache = cache
        self._tensors = (*cache.keys, *cache.values)
        self._addresses = [tensor.data_ptr() for tensor in self._tensors]
        self._now = [tensor.numpy() for tensor in self._tensors]
        self._before = [now.copy() for now in self._now]

    def written(self) -> set[Place]:
        """(slot, place) of all that differs from the last time that this was asked."""
        assert (*self._cache.keys, *self._cache.values) == self._tensors
        assert [tensor.data_ptr() for tensor in self._tensors] == self._addresses
        places: set[Place] = set()
        for now, before in zip(self._now, self._before, strict=True):
            for slot in range(SLOTS):
                if not np.array_equal(now[slot], before[slot]):
                    differs = (now[slot] != before[slot]).any(axis=(0, 2))
                    places |= {(slot, int(place)) for place in differs.nonzero()[0]}
                    before[slot] = now[slot]
        return places


class _Before:
    """A row as it was before a step."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.slot = row.slot
        self.taken = row.intake.taken
        if row.stage is Stage.DECODING:
            self.due = range(row.place, row.place + 1)
        else:
            self.due = range(min(self.taken, row.intake.tokens - 1), row.intake.tokens)

    @property
    def evicted(self) -> bool:
        """Whether the step took the slot away from the row."""
        return self.row.stage is not Stage.GONE and self.slot is not None and self.row.slot != self.slot


class Play:
    """A batch, its conversations, and what came of them."""

    def __init__(self, decoder: Decoder, alone: Alone, chance: random.Random) -> None:
        self.batch = Batch(decoder, clock=lambda: 0.0)
        self.heard = Heard()
        self.happened: Counter[str] = Counter()
        self._decoder = decoder
        self._alone = alone
        self._chance = chance
        self._storage = Storage(decoder.cache)
        self._rows: set[Row] = set()

    def run(self) -> None:
        """Let all conversations come to their end, a step at a time, each acting now and then."""
        acting = {number: self._conversation() for number in range(CONVERSATIONS)}
        for _ in range(5000):
            for number in list(acting):
                if self._chance.random() < 0.6 and next(acting[number], "over") == "over":
                    del acting[number]
            assert self._storage.written() == set(), "something was written without a step"
            self._step()
            if not acting:
                assert self.batch.idle
                assert self._decoder.cache.free_slots == SLOTS
                return
        raise AssertionError("the conversations do not end")

    def _step(self) -> None:
        before = [_Before(row) for row in self._rows]
        self.heard.take(self.batch.step())
        allowed = {(slot, self._decoder.cache.scratch) for slot in range(SLOTS)}
        kept = {old.slot: old for old in before if old.slot is not None and not old.evicted}
        for slot in range(SLOTS):
            if slot in kept:
                allowed |= {(slot, place) for place in kept[slot].due}
            elif any(row.slot == slot or row.stage is Stage.GONE for row in self._rows):
                # Handed out in this step: zeroed perhaps, and perhaps given back already.
                allowed |= {(slot, place) for place in range(self._decoder.cache.length)}
        assert self._storage.written() <= allowed
        taken_in = sum(old.row.intake.taken > old.taken for old in before)
        assert taken_in <= 1, "more than one prompt was taken in"
        decoding = sum(old.row.stage is Stage.DECODING for old in before)
        self.happened["together"] = max(self.happened["together"], decoding)
        self.happened["taken in beside others"] += taken_in and decoding > 1
        self.happened["evicted"] += sum(old.evicted for old in before)
        self._rows = {row for row in self._rows if row.stage is not Stage.GONE}

    def _conversation(self) -> Iterator[None]:
        chance = self._chance
        prompt: list[Piece] = [Ids((1,))]
        sampling = chance.choice([GREEDY, Sampling(0.9, 0.95, chance.randrange(1000))])
        for _ in range(TURNS):
            prompt = [*prompt, *self._user_turn()]
            expected = self._alone.says(prompt, MOST_NEW, sampling)
            said = yield from self._turn(prompt, sampling, expected)
            # To the library this id is a place of a window wherever it stands.
            prompt = [*prompt, Ids((*(40 if token == AUDIO_ID else token for token in said), EOS_ID))]

    def _user_turn(self) -> list[Piece]:
        chance = self._chance
        if chance.random() < 0.65:
            return [Ids((3,)), text(chance, chance.choice([1, 30, 90])), Ids((4,))]
        return [Ids((3, 25)), chance.choice(SOUNDS), text(chance, chance.randrange(20)), Ids((4,))]

    def _turn(
        self, prompt: list[Piece], sampling: Sampling, expected: list[int]
    ) -> Generator[None, None, list[int]]:
        """One turn, perhaps broken off while listening or answering, and perhaps taken up again."""
        chance = self._chance
        breaks_off = chance.choice(["never", "never", "listening", "answering"])
        row = self._opened(sampling)
        for number, piece in enumerate(prompt):
            if breaks_off == "listening" and number == len(prompt) // 2:
                self.batch.drop(row)
                self.happened["dropped while listening"] += 1
                row = self._opened(sampling)
                for earlier in prompt[:number]:
                    self.batch.feed(row, earlier)
            self.batch.feed(row, piece)
            if chance.random() < 0.7:
                yield
        self.batch.start(row, 0)
        yield from self._until(row, chance.randrange(1, MOST_NEW) if breaks_off == "answering" else MOST_NEW)
        said = list(self.heard.of(row))
        if row in self.heard.ends or breaks_off != "answering":
            self.happened[self.heard.ends[row]] += 1
            assert said == expected
            return said
        self.batch.drop(row)
        assert said == expected[: len(said)]
        self.happened["dropped while answering"] += 1
        yield
        if chance.random() < 0.3 or len(said) == MOST_NEW:
            return said
        row = ask(self.batch, [*prompt, Ids(tuple(said))], MOST_NEW - len(said), sampling, len(said))
        self._rows.add(row)
        yield from self._until(row, MOST_NEW)
        assert said + self.heard.of(row) == expected
        self.happened["resumed"] += 1
        return expected

    def _opened(self, sampling: Sampling) -> Row:
        row = self.batch.open(sampling, MOST_NEW)
        self._rows.add(row)
        return row

    def _until(self, row: Row, tokens: int) -> Iterator[None]:
        while row not in self.heard.ends and len(self.heard.of(row)) < tokens:
            yield


@pytest.mark.parametrize("seed", range(2))
def test_every_conversation_gets_the_tokens_that_it_would_get_alone(
    model: Any, alone: Alone, seed: int
) -> None:
    play = Play(Decoder(model, SLOTS, CONTEXT), alone, random.Random(seed))
    play.run()
    for event in ("evicted", "dropped while answering", "resumed", "length", "taken in beside others"):
        assert play.happened[event], f"a play without this one proves little: {event} {play.happened}"
    assert play.happened["together"] == SLOTS
    assert not play.happened["failed"]
