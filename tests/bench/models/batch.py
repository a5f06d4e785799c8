"""The running batch: first token, a token alone and among others, what a newcomer costs the others.

Steps the batch as its thread does, without the thread: what is timed is the model's work and the batch's own.
Every reply is scripted, so that none ends by itself; the model does all its work nevertheless.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from tests.bench.models import precision
from tests.bench.models.bench import Bench, Figures
from tests.bench.models.figures import short, spread
from tests.bench.models.models import collect, speech
from tests.bench.models.plain import answer, never_ending
from tests.bench.models.plan import LONG_PROMPT_S
from workers.llm.engines.voxtral.batch import Batch
from workers.llm.engines.voxtral.decoder import Decoder
from workers.llm.engines.voxtral.pieces import Ids
from workers.llm.engines.voxtral.rows import Failed, Row, Sampled
from workers.llm.engines.voxtral.sampling import Sampling

GREEDY = Sampling(temperature=0.0, top_p=1.0, seed=0)

RACERS = 8


def run(bench: Bench, figures: Figures) -> None:
    """In ms and tokens a second."""
    plan, models = bench.plan, bench.models
    began = time.perf_counter()
    bench.say(f"batch: {plan.slots} slots of {plan.context} tokens, steps recorded where they can be")
    decoder = Decoder(models.voxtral, plan.slots, plan.context)
    timed = _Timed(bench, Batch(decoder))
    figures["start_s"] = short(time.perf_counter() - began)
    figures["recorded"] = decoder.recorded
    if bench.time_for(f"batch: first token, {plan.firsts} times", (plan.firsts + 1) * plan.first_token_s):
        timed.first_token_ms(0)
        figures["first_token_ms"] = spread([timed.first_token_ms(n) for n in range(plan.firsts)])
    figures["token_ms"], figures["tokens_per_s"] = {}, {}
    for rows in plan.batches:
        need_s = rows * plan.first_token_s + plan.steps * plan.token_s
        if bench.time_for(f"batch: {rows} at once", need_s):
            steps_ms = timed.steps_ms(rows)
            figures["token_ms"][str(rows)] = spread(steps_ms)
            figures["tokens_per_s"][str(rows)] = short(rows * 1000 * len(steps_ms) / sum(steps_ms))
    if plan.long_places:
        rows = max(plan.batches)
        need_s = rows * 10 * plan.first_token_s + plan.steps * plan.token_s
        if bench.time_for(f"batch: {rows} long conversations", need_s):
            steps_ms = timed.steps_ms(rows, plan.long_places)
            figures["long"] = {"rows": rows, "places": plan.long_places, "token_ms": spread(steps_ms)}
    need_s = (plan.others + plan.joins) * (plan.first_token_s + 10 * plan.token_s)
    if bench.time_for(f"batch: somebody joins {plan.others} others, {plan.joins} times", need_s):
        figures["join"] = timed.joins()
    if plan.races and bench.time_for(f"batch: {RACERS} in a batch, and one after the other", 30):
        figures["race"] = timed.race()
    del decoder, timed
    collect()
    if plan.compared:
        precision_s = plan.compared * plan.first_token_s + 2 * plan.compared_tokens * plan.token_s
        if bench.time_for("batch: the same tokens as in float32?", precision_s):
            figures["equal_to_float32"] = precision.run(bench)
    else:
        bench.leave_out("tokens equal to float32's: both models do not fit into the memory")


class _Timed:
    """A batch, and how long its steps take."""

    def __init__(self, bench: Bench, batch: Batch) -> None:
        self._plan = bench.plan
        self._models = bench.models
        self._batch = batch
        self._endless = (bench.models.vocabulary.encode("Hello")[0],) * bench.plan.context

    def first_token_ms(self, number: int) -> float:
        """From the end of an utterance to the first token, nobody else being there."""
        before, after = self._models.prompt(self._models.utterance(number))
        row = self._open(2)
        for piece in before:
            self._batch.feed(row, piece)
        self._until_idle()
        began = time.perf_counter()
        for piece in after:
            self._batch.feed(row, piece)
        self._batch.start(row, 0)
        self._until_token(row)
        took_ms = (time.perf_counter() - began) * 1000
        self._batch.drop(row)
        return took_ms

    def steps_ms(self, count: int, places: int = 0) -> list[float]:
        """How long each step takes while so many decode, each of at least `places` tokens."""
        with self._decoding(count, places):
            self._batch.step()
            return [self._step_ms() for _ in range(self._plan.steps)]

    def joins(self) -> Figures:
        """What the others notice of somebody who joins with half a minute of speech."""
        undisturbed, longest, firsts = [], [], []
        with self._decoding(self._plan.others):
            for number in range(self._plan.joins):
                before, after = self._models.prompt(speech(number, LONG_PROMPT_S))
                undisturbed += [self._step_ms() for _ in range(max(3, self._plan.steps // 10))]
                row = self._open(2)
                for piece in before + after:
                    self._batch.feed(row, piece)
                self._batch.start(row, 0)
                gaps = self._until_token(row)
                longest.append(max(gaps))
                firsts.append(sum(gaps))
                self._batch.drop(row)
        return {
            "others": self._plan.others,
            "step_ms": spread(undisturbed),
            "longest_gap_ms": spread(longest),
            "first_token_ms": spread(firsts),
        }

    def race(self) -> Figures:
        """Eight replies, in tokens a second of all: in a batch, each alone, and by `generate()`.

        Each way several times in turns, so that a machine's busy moments fall on all of them.
        """
        tokens = self._plan.race_tokens
        ways: dict[str, list[float]] = {"batch": [], "alone": [], "generate": []}
        with never_ending(self._models.voxtral):
            answer(self._models, self._models.utterance(0), tokens)
        for _ in range(self._plan.races):
            ways["batch"].append(RACERS / self._reply_s(RACERS))
            ways["alone"].append(RACERS / sum(self._reply_s(1) for _ in range(RACERS)))
            with never_ending(self._models.voxtral):
                utterances = [self._models.utterance(number) for number in range(RACERS)]
                gaps_ms = [gap for pcm in utterances for gap in answer(self._models, pcm, tokens)[1]]
            ways["generate"].append(1000 / sum(gaps_ms) * len(gaps_ms) / tokens)
        speeds = {way: median(replies) * tokens for way, replies in ways.items()}
        return {
            "tokens_per_s": {way: short(speed) for way, speed in speeds.items()},
            "times_alone": short(speeds["batch"] / speeds["alone"]),
            "times_generate": short(speeds["batch"] / speeds["generate"]),
        }

    def _reply_s(self, count: int) -> float:
        """How long so many replies take together, from their first token on."""
        with self._decoding(count):
            return sum(self._step_ms() for _ in range(self._plan.race_tokens)) / 1000

    @contextmanager
    def _decoding(self, count: int, places: int = 0) -> Iterator[None]:
        """Within, so many rows decode: their prompts have been taken in before the first of them began."""
        rows = []
        for number in range(count):
            before, after = self._models.prompt(self._models.utterance(number))
            row = self._open(self._plan.context)
            missing = places - sum(piece.tokens for piece in before + after)
            for piece in [*before, Ids(self._endless[: max(0, missing)]), *after]:
                self._batch.feed(row, piece)
            rows.append(row)
        self._until_idle()
        for row in rows:
            self._batch.start(row, 0)
        for row in rows:
            self._until_token(row)
        try:
            yield
        finally:
            for row in rows:
                self._batch.drop(row)

    def _open(self, most: int) -> Row:
        return self._batch.open(GREEDY, most, self._endless)

    def _step_ms(self) -> float:
        began = time.perf_counter()
        self._batch.step()
        return (time.perf_counter() - began) * 1000

    def _until_idle(self) -> None:
        while not self._batch.idle:
            self._batch.step()

    def _until_token(self, row: Row) -> list[float]:
        """Step until the row has said something; how long each step took, in ms."""
        steps: list[float] = []
        while row.reply_position == 0:
            began = time.perf_counter()
            for event in self._batch.step():
                if isinstance(event, Failed):
                    raise event.error
                if isinstance(event, Sampled) and event.row is row:
                    break
            steps.append((time.perf_counter() - began) * 1000)
        return steps
