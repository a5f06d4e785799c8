"""One question and its answer, as a person follows them in a terminal.

Times are monotonic seconds of this process: what a message says of itself is never taken for when it came.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
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


class Moments:
    """When each kind of message came, in each turn: the first of it, and the last frame of speech."""

    def __init__(self) -> None:
        self._at: dict[tuple[int, str], float] = {}

    def note(self, message: Message, at: float) -> None:
        """Take note of a message, in the moment in which it comes off the socket."""
        kind, turn = message["type"], message.get("turn")
        if kind in _STEPS and turn is not None:
            self._at.setdefault((turn, kind), at)
            if kind == "sequential_audio":
                self._at[turn, LAST_FRAME] = at

    def steps(self, turn: int, since: float, ending: Message) -> list[Step]:
        """The steps of a turn in ms from `since` on, beside what the server says of them in the end."""

        def step(kind: str, name: str, told_as: str) -> Step:
            at = self._at.get((turn, kind))
            return Step(name, None if at is None else max(0.0, at - since) * 1000, ending.get(told_as))

        found = [step(kind, name, told_as) for kind, (name, told_as) in _STEPS.items()]
        return [*found, step(LAST_FRAME, LAST_FRAME, "total_time_ms")]


@dataclass(slots=True)
class Answer:
    """What came of a question. `ending` is the message that ended the turn; `speech` PCM16 at 24 kHz."""

    ending: Message = field(default_factory=dict)
    speech: bytearray = field(default_factory=bytearray)

    @property
    def complete(self) -> bool:
        """Whether it was answered, and to the end."""
        return self.ending.get("type") == "chunked_streaming_complete"


class Exchange:
    """Questions put to one conversation, one after the other.

    `on_speech` gets each frame of an answer as it comes.
    """

    def __init__(
        self,
        client: ParleyClient,
        screen: Screen,
        moments: Moments,
        on_speech: Callable[[bytes], None] | None = None,
    ) -> None:
        self._client = client
        self._screen = screen
        self._moments = moments
        self._on_speech = on_speech
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
                await self._client.send_audio(data)
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
                    self._answering = True
                    self._screen.word(message["text"])
                case "sequential_audio":
                    answer.speech += message["audio_data"]
                    if self._on_speech is not None:
                        self._on_speech(message["audio_data"])
                case "resumed" | "connection":
                    self._screen.note("(reconnected)")
                case "chunked_streaming_complete" | "audio_interrupted" | "error":
                    answer.ending = message
                    self._screen.end_answer()
                    self._tell(answer)
                    return answer
        raise ConversationLost("the conversation was closed")

    def _tell(self, answer: Answer) -> None:
        """The waterfall of an answer, or why there is none."""
        ending = answer.ending
        if ending["type"] == "error":
            later_ms = ending.get("retry_after_ms")
            later = f"; try again in {later_ms / 1000:g} s" if later_ms else ""
            self._screen.note(f"parley: {ending['message']} ({ending['code']}){later}")
        elif not answer.complete:
            self._screen.note(f"parley: the answer was interrupted ({ending['reason']})")
        else:
            steps = self._moments.steps(ending["turn"], self._asked_at, ending)
            self._screen.note("")
            for line in waterfall(steps, width=self._screen.width, blocks=self._screen.blocks):
                self._screen.note(line)
