"""The whole pipeline in real processes: first token and first sound at a client, alone and among many.

    client ─> edge ─> Voxtral ─> chunks ─> Kokoro ─> edge ─> client

Voxtral does all its work for every token, and scripted words take the place of what it sampled. Times count
from the moment when the client has said that the utterance is whole. A conversation goes on over its turns,
so what was said before is taken in for each of them, as much as the default settings keep.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.cli.client import ParleyClient
from tests.bench.models.bench import Bench, Figures
from tests.bench.models.cast import Cast, cast
from tests.bench.models.figures import short, spread
from tests.bench.models.models import speech
from tests.bench.models.plan import Plan
from tests.bench.thinking_ahead import SILENCE_MS, ask
from tests.microphone import live, microphone
from tests.story import ENDINGS
from workers.llm.engines.voxtral.pieces import SAMPLE_RATE

PIECE_S = 0.1
"""Of the utterance, in one message."""

FOUND = 20
"""How many turns at the most are found by voice."""

FOUND_S = 2.5
"""A guess: what each of them takes, of which words and silence are 1.5 s."""

PATIENCE_S = 60.0
"""For an answer."""

SETTINGS = {"input_format": "pcm16", "output_format": "pcm16", "pacing": "none"}


@dataclass(frozen=True, slots=True)
class Answer:
    """Milliseconds from the end of the utterance."""

    first_token_ms: float
    first_audio_ms: float
    whole_ms: float


def run(bench: Bench, figures: Figures) -> None:
    """First token and first audio in ms: one conversation, many at random phase, many at the same moment."""
    plan = bench.plan
    if not plan.turns:
        bench.leave_out("the whole pipeline: an answer takes minutes on this device")
        return
    need_s = plan.loading_s + plan.turns * _turn_s(plan) / 4
    if not bench.time_for("pipeline: starting its processes", need_s):
        return
    kokoro = str(bench.models.kokoro_folder)
    bench.models.release()  # the worker makes its own
    with (
        tempfile.TemporaryDirectory() as folder,
        cast(Path(folder), plan.size, _env(plan, kokoro)) as running,
    ):
        asyncio.run(_measure(bench, running, figures))


def _env(plan: Plan, kokoro: str) -> Mapping[str, str]:
    own = {"OMP_NUM_THREADS": str(plan.threads)} if plan.threads else {}
    return own | {
        "DEVICE": plan.device,
        "VOXTRAL_DTYPE": plan.dtype,
        "VOXTRAL_SLOTS": str(plan.slots),
        "VOXTRAL_CONTEXT": str(plan.context),
        "KOKORO_MODEL": kokoro,
        "LOG_LEVEL": "warning",
    }


async def _measure(bench: Bench, running: Cast, figures: Figures) -> None:
    plan = bench.plan
    began = time.perf_counter()
    await running.ready(max(plan.loading_s * 3, 60))
    figures["start_s"] = short(time.perf_counter() - began)
    try:
        await _measure_all(bench, running.url, figures)
    except Exception:
        bench.say(running.said())
        raise


async def _measure_all(bench: Bench, url: str, figures: Figures) -> None:
    plan = bench.plan
    turns = max(1, min(plan.turns, int(bench.budget.left_s / 2 / _turn_s(plan))))
    if bench.time_for(f"pipeline: one conversation, {turns} turns", turns * _turn_s(plan)):
        figures["one"] = _summary(await _one(url, plan, turns))
    found = min(turns, FOUND)
    if bench.time_for(f"pipeline: one, {found} turns found by voice", (found + 1) * FOUND_S):
        figures["found"] = _summary(await _found(url, found))
    need_s = (plan.rounds + 1) * plan.each_s
    many = f"pipeline: {plan.conversations} conversations"
    if bench.time_for(f"{many}, a turn each {plan.each_s:.0f} s", need_s):
        figures["many"] = _summary(await _many(url, plan))
        figures["many"] |= {"conversations": plan.conversations, "each_s": plan.each_s}
    need_s = plan.bursts * 3 * plan.utterance_s
    if bench.time_for(f"{many} at the same moment, {plan.bursts} times", need_s):
        figures["burst"] = _summary(await _burst(url, plan))
        figures["burst"] |= {"conversations": plan.conversations}


def _turn_s(plan: Plan) -> float:
    """A guess."""
    return plan.utterance_s / plan.haste + 10 * plan.first_token_s


def _summary(answers: Sequence[Answer]) -> Figures:
    first_audio = [answer.first_audio_ms for answer in answers]
    return {
        "first_token_ms": spread([answer.first_token_ms for answer in answers]),
        "first_audio_ms": spread(first_audio),
        "whole_answer_ms": spread([answer.whole_ms for answer in answers]),
        "first_audio_values_ms": [short(value) for value in first_audio],
    }


async def _one(url: str, plan: Plan, turns: int) -> list[Answer]:
    async with AsyncExitStack() as stack:
        speaker = await _speaker(stack, url, plan)
        await speaker.turn(plan.haste)  # what is done only once, is done now
        return [await speaker.turn(plan.haste) for _ in range(turns)]


async def _found(url: str, turns: int) -> list[Answer]:
    """Turns found by voice activity, so begun in the pause: from the decision, as the edge measures it."""
    async with microphone(url, silence_ms=SILENCE_MS, pacing="none") as mic, live(mic):
        answers = []
        for turn in range(1, turns + 2):
            first_token_ms, _, first_audio_ms = await ask(mic, turn)
            ending = await mic.first("chunked_streaming_complete", turn=turn)
            answers.append(Answer(first_token_ms, first_audio_ms, ending["total_time_ms"]))
        return answers[1:]


async def _many(url: str, plan: Plan) -> list[Answer]:
    """Each speaks in real time; when it begins first is drawn, the same in every run."""
    phases = random.Random(plan.conversations)
    now = asyncio.get_running_loop().time

    async def converse(speaker: _Speaker, begins: float) -> list[Answer]:
        answers = []
        for number in range(plan.rounds):
            await asyncio.sleep(begins + number * plan.each_s - now())
            answers.append(await speaker.turn(1))
        return answers

    async with AsyncExitStack() as stack:
        speakers = [await _speaker(stack, url, plan) for _ in range(plan.conversations)]
        start = now() + 0.5
        conversations = [converse(speaker, start + phases.random() * plan.each_s) for speaker in speakers]
        return [answer for answers in await asyncio.gather(*conversations) for answer in answers]


async def _burst(url: str, plan: Plan) -> list[Answer]:
    """All begin to speak in the same moment, and end in the same."""
    async with AsyncExitStack() as stack:
        speakers = [await _speaker(stack, url, plan) for _ in range(plan.conversations)]
        answers: list[Answer] = []
        for _ in range(plan.bursts):
            answers += await asyncio.gather(*(speaker.turn(1) for speaker in speakers))
        return answers


async def _speaker(stack: AsyncExitStack, url: str, plan: Plan) -> _Speaker:
    client = await stack.enter_async_context(ParleyClient(url))
    await client.configure(**SETTINGS)
    return _Speaker(client, plan.utterance_s)


class _Speaker:
    """One conversation, turn by turn."""

    def __init__(self, client: ParleyClient, utterance_s: float) -> None:
        self._client = client
        self._utterance_s = utterance_s
        self._turn = 0

    async def turn(self, haste: float) -> Answer:
        """Say something, and hear the whole answer. Raises `RuntimeError` where there is none."""
        self._turn += 1
        ended = await self._say(speech(self._turn, self._utterance_s), haste)
        first: dict[str, float] = {}
        async with asyncio.timeout(PATIENCE_S):
            async for message in self._client:
                now = time.perf_counter()
                if message.get("turn") != self._turn:
                    continue
                kind = message["type"]
                first.setdefault(kind, (now - ended) * 1000)
                if kind in ENDINGS or (kind == "error" and message.get("address") is not None):
                    break
        if "chunked_streaming_complete" not in first or "sequential_audio" not in first:
            raise RuntimeError(f"turn {self._turn} was not answered, but: {_shown(message)}")
        return Answer(first["token_chunk"], first["sequential_audio"], first["chunked_streaming_complete"])

    async def _say(self, pcm: bytes, haste: float) -> float:
        """Speak; when the end was said (`time.perf_counter`)."""
        size = round(PIECE_S * SAMPLE_RATE) * 2
        now = asyncio.get_running_loop().time
        began = now()
        for number, place in enumerate(range(0, len(pcm), size), 1):
            await self._client.send_audio(pcm[place : place + size])
            await asyncio.sleep(max(0.0, began + number * PIECE_S / haste - now()))
        ended = time.perf_counter()
        await self._client.end_utterance()
        return ended


def _shown(message: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={message[name]!r}" for name in ("type", "code", "message") if name in message)
