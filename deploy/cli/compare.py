"""`parley compare`: one question, answered in one piece and as a stream, and how long each takes."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deploy.cli import access
from deploy.cli.access import Access
from deploy.cli.client import ConversationLost, ParleyClient
from deploy.cli.exchange import refused
from deploy.cli.link import CannotConnect, Message
from deploy.cli.recording import AtOnce, Recording, Unusable
from deploy.cli.screen import Screen
from shared.errors import ParleyError
from shared.settings import Settings

HELP = "ask one question in one piece and as a stream, and print how long each took"

ANSWERED = 0
FAILED = 1
BAD_USAGE = 2
NO_SERVER = 3
EXIT_CODES = """\
Times are from the end of the question, in ms, as this program sees them. One question in each way goes before
and is not counted. An answer in one piece has no word before it has all of its speech.

exit codes:
  0    answered
  1    a turn ended in an error, as it does where the server has no worker for one of the ways
  2    bad usage, or a file that cannot be used
  3    no server, or the conversation was lost
  130  Ctrl-C"""

MANY = 20
"""From how many times on the 99th percentile is shown in place of the longest."""

WITHIN_S = 300.0
"""How long an answer is waited for, from the end of the question on."""

SLICE_MS = 20.0
AT_ONCE_SLICE_MS = 30_000.0
"""About 1 MB in a message; servers take no less than four times that."""


class Unanswered(ParleyError):
    """Raised when a turn ends in anything but an answer."""


@dataclass(frozen=True, slots=True)
class Times:
    """One answer, in ms from the end of the question."""

    first_token: float
    first_word: float
    first_audio: float
    total: float


STEPS = {
    "first_token": "first token",
    "first_word": "first word",
    "first_audio": "first audio",
    "total": "total",
}
"""Fields of `Times`, and how people call them."""

_FIRSTS = {
    "token_chunk": "first_token",
    "semantic_chunk": "first_word",
    "sequential_audio": "first_audio",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `parley compare`."""
    parser.epilog = EXIT_CODES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("file", type=Path, help="a WAV file with the question")
    parser.add_argument("--times", type=_times, default=3, metavar="N", help="how often in each way (3)")
    parser.add_argument(
        "--at-once",
        action="store_true",
        help="hand the question over as a whole; else it is sent as it is spoken, in real time",
    )
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")
    access.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Ask and print; returns the exit code."""
    screen = Screen()
    try:
        question = (AtOnce if arguments.at_once else Recording).read(arguments.file)
        reached = Access.of(arguments, Settings.from_env(os.environ))
        result = asyncio.run(_compare(reached, question, arguments.times, screen))
    except Unusable as error:
        screen.note(f"parley: {error}")
        return BAD_USAGE
    except Unanswered as error:
        screen.note(f"parley: {error}")
        return FAILED
    except (CannotConnect, ConversationLost) as error:
        screen.note(f"parley: {error}")
        return NO_SERVER
    finally:
        screen.end_answer()
    if arguments.json:
        print(json.dumps(result.record(), indent=2))
        return ANSWERED
    print(f"{arguments.file.name}, {question.length_s:.1f} s, {result.count} times in each way")
    print(", ".join(f"{role}: {engine or 'none'}" for role, engine in result.engines.items()))
    print()
    for line in result.table():
        print(line)
    return ANSWERED


# ---- what came of it


@dataclass(frozen=True, slots=True)
class Result:
    """All answers of both ways. `engines`: by role, as the server names them."""

    engines: Mapping[str, str | None]
    batch: Sequence[Times]
    streaming: Sequence[Times]

    @property
    def count(self) -> int:
        """How often was asked in each way."""
        return len(self.batch)

    @property
    def worst_name(self) -> str:
        """What is shown beside the median."""
        return "p99" if self.count >= MANY else "max"

    def table(self) -> Iterator[str]:
        """A line for each step, below two lines of heads."""
        yield f"{'':<12}  {'batch':>19}  {'streaming':>19}"
        columns = f"{'median':>9} {self.worst_name:>9}"
        yield f"{'ms':<12}  {columns}  {columns}  {'improvement':>11}"
        for step, name in STEPS.items():
            batch, streaming = self._of(self.batch, step), self._of(self.streaming, step)
            gained = f"{_improvement(batch, streaming):.0f} %"
            yield f"{name:<12}  {self._cells(batch)}  {self._cells(streaming)}  {gained:>11}"

    def record(self) -> dict[str, Any]:
        """The same for programs, with every single answer."""
        ways = {"batch": self.batch, "streaming": self.streaming}
        return {
            "times": self.count,
            "engines": dict(self.engines),
            **{way: self._way(answers) for way, answers in ways.items()},
            "improvement_percent": {
                step: _improvement(self._of(self.batch, step), self._of(self.streaming, step))
                for step in STEPS
            },
        }

    def _way(self, answers: Sequence[Times]) -> dict[str, Any]:
        steps = {step: self._of(answers, step) for step in STEPS}
        return {
            "median_ms": {step: statistics.median(values) for step, values in steps.items()},
            f"{self.worst_name}_ms": {step: self._worst(values) for step, values in steps.items()},
            "answers_ms": [asdict(each) for each in answers],
        }

    def _of(self, answers: Sequence[Times], step: str) -> list[float]:
        return [getattr(each, step) for each in answers]

    def _cells(self, values: Sequence[float]) -> str:
        return f"{statistics.median(values):>9,.0f} {self._worst(values):>9,.0f}"

    def _worst(self, values: Sequence[float]) -> float:
        if self.count < MANY:
            return max(values)
        return sorted(values)[math.ceil(0.99 * len(values)) - 1]


def _improvement(batch: Sequence[float], streaming: Sequence[float]) -> float:
    """By how much the median of the stream is earlier, in percent of the other."""
    before = statistics.median(batch)
    return 0.0 if before == 0 else (1 - statistics.median(streaming) / before) * 100


# ---- asking


async def _compare(reached: Access, question: Recording, times: int, screen: Screen) -> Result:
    """Raises `Unanswered`, `CannotConnect` and `ConversationLost`."""
    found: dict[bool, list[Times]] = {True: [], False: []}
    engines: Mapping[str, str | None] = {}
    for number in range(times + 1):
        for batch, answers in found.items():
            screen.passing(f"{'batch' if batch else 'streaming'} {number or 'before the first'} of {times}")
            asked = _Asked(batch)
            async with reached.client(asked.note) as client:
                engines = client.server_config.get("engines", {})
                took = await asked.answer(client, question)
            if number:
                answers.append(took)
    return Result(engines, found[True], found[False])


class _Asked:
    """One question in a conversation of its own."""

    def __init__(self, batch: bool) -> None:
        self._fields = {"mode": "conversation"} if batch else {}
        self._came: dict[str, float] = {}

    def note(self, message: Message, at: float) -> None:
        """Take note of what comes, in the moment in which it does."""
        self._came.setdefault(message["type"], at)

    async def answer(self, client: ParleyClient, question: Recording) -> Times:
        """Ask, and wait for the end. Raises `Unanswered`."""
        await client.configure(input_format="pcm16", output_format="pcm16", pacing="none")
        await _told(client, "configured")
        slice_ms = AT_ONCE_SLICE_MS if isinstance(question, AtOnce) else SLICE_MS
        async with aclosing(question.slices(slice_ms)) as slices:
            async for data in slices:
                await client.send_audio(data, ends=False, **self._fields)
        await client.end_utterance()
        sent_at = time.monotonic()
        ending = await _told(client, "chunked_streaming_complete", "audio_response", "audio_interrupted")
        whole = _ms(sent_at, self._came[ending["type"]])
        firsts = {step: whole for step in _FIRSTS.values()}
        if ending["type"] == "chunked_streaming_complete":
            firsts |= {
                step: _ms(sent_at, self._came[kind]) for kind, step in _FIRSTS.items() if kind in self._came
            }
        return Times(**firsts, total=whole)


async def _told(client: ParleyClient, *kinds: str) -> Message:
    """The next message of one of these types, which comes in time and is no bad news. Raises `Unanswered`."""
    try:
        async with asyncio.timeout(WITHIN_S):
            message = await client.until(*kinds, "error")
    except TimeoutError:
        raise Unanswered(f"no answer within {WITHIN_S:g} s") from None
    if message["type"] == "error":
        raise Unanswered(refused(message))
    if message["type"] == "audio_interrupted":
        raise Unanswered(f"the answer was interrupted ({message['reason']})")
    return message


def _ms(since: float, at: float) -> float:
    return max(0.0, at - since) * 1000


def _times(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 1000:
        raise argparse.ArgumentTypeError("expected 1 to 1000")
    return value
