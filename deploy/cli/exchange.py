"""One question and its answer, as a person follows them in a terminal.

Times are monotonic seconds of this process: what a message says of itself is never taken for when it came.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from deploy.cli.client import ConversationLost, ParleyClient
from deploy.cli.link import Message
from deploy.cli.recording import NothingAsked, Source
from deploy.cli.screen import Screen
from deploy.cli.waterfall import Step, waterfall
from shared.audio import SAMPLE_BYTES, duration_ms

TICK_S = 0.1

LAST_FRAME = "last frame"

_STEPS = {
    "token_chunk": ("first token", "first_token_latency_ms"),
    "semantic_chunk": ("first word", "first_word_latency_ms"),
    "sequential_audio": ("first audio", "first_audio_latency_ms"),
}


_NOTED = frozenset({*_STEPS, "speech_stopped", "audio_response"})


class Moments:
    """When each kind of message came, in each turn: the first of it, and the last frame of speech."""

    def __init__(self) -> None:
        self._at: dict[tuple[int, str], float] = {}

    def note(self, message: Message, at: float) -> None:
        """Take note of a message, in the moment in which it comes off the socket."""
        kind, turn = message["type"], message.get("turn")
        if kind in _NOTED and turn is not None:
            self._at.setdefault((turn, kind), at)
            if kind == "sequential_audio":
                self._at[turn, LAST_FRAME] = at

    def stopped_at(self, turn: int) -> float | None:
        """When the server told that the utterance is over; `None` if it did not."""
        return self._at.get((turn, "speech_stopped"))

    def steps(self, turn: int, since: float, ending: Message) -> list[Step]:
        """The steps of a turn in ms from `since` on, beside what the server says of them in the end."""

        def step(kind: str, name: str, told_as: str) -> Step:
            at = self._at.get((turn, kind))
            return Step(name, None if at is None else max(0.0, at - since) * 1000, ending.get(told_as))

        if ending["type"] == "audio_response":
            return [step("audio_response", "whole answer", "processing_time_ms")]
        found = [step(kind, name, told_as) for kind, (name, told_as) in _STEPS.items()]
        return [*found, step(LAST_FRAME, LAST_FRAME, "total_time_ms")]


@dataclass(slots=True)
class Answer:
    """What came of a question. `ending` is the message that ended the turn; `speech` PCM16 at 24 kHz."""

    ending: Message = field(default_factory=dict)
    text: str = ""
    speech: bytearray = field(default_factory=bytearray)

    @property
    def complete(self) -> bool:
        """Whether it was answered, and to the end."""
        return self.ending.get("type") in ("chunked_streaming_complete", "audio_response")


class Exchange:
    """Questions put to one conversation, one after the other.

    `on_speech` gets each frame of an answer as it comes. `batch`: answers are wanted in one piece.
    """

    def __init__(
        self,
        client: ParleyClient,
        screen: Screen,
        moments: Moments,
        on_speech: Callable[[bytes], None] | None = None,
        *,
        batch: bool = False,
    ) -> None:
        self._client = client
        self._screen = screen
        self._moments = moments
        self._on_speech = on_speech
        self._fields = {"mode": "conversation"} if batch else {}
        self._asked_at = 0.0
        self._answering = False

    async def ask(self, text: str) -> Answer:
        """Ask by typing. Raises `ConversationLost`."""
        return await self._listen_during(self._type(text))

    async def speak(self, source: Source, name: str, slice_ms: float) -> Answer:
        """Ask by voice. Raises `NothingAsked` and `ConversationLost`."""
        return await self._listen_during(self._say(source, name, slice_ms))

    async def _listen_during(self, asking: Coroutine[None, None, None]) -> Answer:
        """An answer may come before the question is whole: an error does."""
        self._answering = False
        asked, answered = asyncio.create_task(asking), asyncio.create_task(self._listen())
        try:
            await asyncio.wait({asked, answered}, return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                asked.result()
            return await answered
        finally:
            asked.cancel()
            answered.cancel()
            await asyncio.wait({asked, answered})

    async def _type(self, text: str) -> None:
        await self._client.send_text(text)
        await self._think()

    async def _say(self, source: Source, name: str, slice_ms: float) -> None:
        longest_s = float(self._client.server_config["limits"]["max_utterance_s"])
        left = int(longest_s * source.rate) * SAMPLE_BYTES
        said_s = 0.0
        async with aclosing(source.slices(slice_ms)) as slices:
            async for data in slices:
                if left < len(data):
                    self._screen.note(f"(the server takes no more than {longest_s:g} s at once)")
                    break
                await self._client.send_audio(data, ends=False, **self._fields)
                left -= len(data)
                said_s += duration_ms(data, source.rate) / 1000
                self._screen.progress(name, said_s, source.length_s)
        if not said_s:
            raise NothingAsked("nothing was said")
        await self._client.end_utterance()
        await self._think()

    async def _think(self) -> None:
        """Show that something goes on, until the first word."""
        self._asked_at = time.monotonic()
        while not self._answering:
            self._screen.passing(f"thinking {time.monotonic() - self._asked_at:.1f} s")
            await asyncio.sleep(TICK_S)

    async def _listen(self) -> Answer:
        answer = Answer()
        async for message in self._client:
            match message["type"]:
                case "token_chunk":
                    self._say_on(answer, message["text"])
                case "sequential_audio":
                    self._speak_on(answer, message["audio_data"])
                case "resumed" | "connection":
                    self._screen.note("(reconnected)")
                case "chunked_streaming_complete" | "audio_response" | "audio_interrupted" | "error":
                    if message["type"] == "audio_response":
                        self._say_on(answer, message["text"])
                        self._speak_on(answer, message["audio_data"])
                    answer.ending = message
                    self._screen.end_answer()
                    self._tell(answer)
                    return answer
        raise ConversationLost("the conversation was closed")

    def _say_on(self, answer: Answer, text: str) -> None:
        self._answering = True
        answer.text += text
        self._screen.word(text)

    def _speak_on(self, answer: Answer, pcm16: bytes) -> None:
        answer.speech += pcm16
        if self._on_speech is not None:
            self._on_speech(pcm16)

    def _tell(self, answer: Answer) -> None:
        """The waterfall of an answer, or why there is none."""
        ending = answer.ending
        if ending["type"] == "error":
            self._screen.note(f"parley: {refused(ending)}")
        elif not answer.complete:
            self._screen.note(f"parley: the answer was interrupted ({ending['reason']})")
        else:
            show_steps(self._screen, self._moments.steps(ending["turn"], self._asked_at, ending))


def refused(error: Message) -> str:
    """An `error` of the server in one line."""
    later_ms = error.get("retry_after_ms")
    later = f"; try again in {later_ms / 1000:g} s" if later_ms else ""
    return f"{error['message']} ({error['code']}){later}"


def show_steps(screen: Screen, steps: Sequence[Step]) -> None:
    """The waterfall of a turn, below its words."""
    screen.note("")
    for line in waterfall(steps, width=screen.width, blocks=screen.blocks):
        screen.note(line)
