"""A conversation in which nobody presses a key: the server finds the turns, and the user may speak over it.

    source ─> stream ─> server ─> what is heard, said and interrupted ─> screen, loudspeaker

Times are monotonic seconds of this process.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from dataclasses import dataclass, field

from deploy.cli.client import ConversationLost, ParleyClient
from deploy.cli.exchange import Answer, Moments, refused, show_steps
from deploy.cli.link import Message
from deploy.cli.recording import Source
from deploy.cli.screen import Screen
from deploy.cli.sound import Speaker
from shared.audio import INPUT_RATE

QUIET_S = 30.0
"""How long is waited, after the last that the source says, for a server that says nothing."""

TICK_S = 0.2
REPORT_EACH_S = 0.5


@dataclass(slots=True)
class Course:
    """What came of a conversation. `answers`: by turn. `failed`: the last thing was an error."""

    answers: dict[int, Answer] = field(default_factory=dict)
    failed: bool = False

    @property
    def complete(self) -> bool:
        """Whether what was said last was answered to the end."""
        last = self.answers[max(self.answers)] if self.answers else None
        return last is not None and last.complete and not self.failed


class HandsFree:
    """One conversation, from the first sound to the last. Its client is configured. `talk` once."""

    def __init__(
        self, client: ParleyClient, screen: Screen, moments: Moments, speaker: Speaker | None = None
    ) -> None:
        self._client = client
        self._screen = screen
        self._moments = moments
        self._speaker = speaker
        self._course = Course()
        self._living: set[int] = set()
        self._hearing: int | None = None
        self._began = (0, 0.0)
        """The last utterance that began: its turn, and its place in the input in ms."""
        self._state = ""
        self._acked = 0
        self._news_at = time.monotonic()
        self._lost_ms = 0.0

    async def talk(self, source: Source, slice_ms: float) -> Course:
        """Stream until who speaks leaves, or, where the length is known, until all of it is answered.

        Raises `ConversationLost`.
        """
        tasks = {
            asyncio.create_task(self._speak(source, slice_ms), name="speak"),
            asyncio.create_task(self._listen(source.length_s), name="listen"),
            asyncio.create_task(self._report(), name="report"),
        }
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        return self._course

    async def _speak(self, source: Source, slice_ms: float) -> None:
        async with aclosing(source.endless(slice_ms)) as slices:
            async for data in slices:
                await self._client.stream(data)

    async def _listen(self, length_s: float | None) -> None:
        over_at = None if length_s is None else time.monotonic() + length_s
        self._show("listening")
        while over_at is None or not self._is_over(length_s, over_at):
            try:
                async with asyncio.timeout(TICK_S):
                    message = await anext(self._client)
            except TimeoutError:
                self._screen.state(self._state)
                continue
            except StopAsyncIteration:
                raise ConversationLost("the conversation was closed") from None
            if message["type"] == "audio_ack":
                self._acked = message["input_samples"]
                continue
            if message.get("turn") is not None:
                self._news_at = time.monotonic()
            self._take(message)

    def _is_over(self, length_s: float | None, over_at: float) -> bool:
        """Whether all was said, and the server has nothing more to say to it."""
        if length_s is None or time.monotonic() < over_at:
            return False
        if time.monotonic() - max(self._news_at, over_at) > QUIET_S:
            return True
        # What is acknowledged while nobody speaks will not become part of an utterance any more.
        return not self._living and self._hearing is None and self._acked >= int(length_s * INPUT_RATE)

    async def _report(self) -> None:
        """Tell the server what was heard, while there is something to hear."""
        told = (0, 0.0)
        while True:
            await asyncio.sleep(REPORT_EACH_S)
            if self._speaker is not None and self._speaker.turn:
                heard = (self._speaker.turn, self._speaker.played_ms)
                if heard != told:
                    told = heard
                    await self._client.report_playback(*told)

    # ---- what the server says

    def _take(self, message: Message) -> None:
        match message["type"]:
            case "speech_started":
                self._begin(message)
            case "speech_stopped":
                self._stop(message)
            case "token_chunk":
                self._answer(message).text += message["text"]
                self._screen.word(message["text"])
            case "sequential_audio":
                self._sound(message)
            case "chunked_streaming_complete" | "audio_interrupted":
                self._end(message)
            case "error":
                self._fail(message)
            case "resumed" | "connection":
                self._screen.note("(reconnected)")
                self._tell_loss()

    def _begin(self, message: Message) -> None:
        self._course.failed = False
        self._living.add(message["turn"])
        self._hearing, self._began = message["turn"], (message["turn"], message["audio_ms"])
        self._show("hearing")

    def _stop(self, message: Message) -> None:
        turn, began_ms = self._began
        if turn == message["turn"]:
            said_s = (message["audio_ms"] - began_ms) / 1000
            self._screen.note(f"(you spoke for {said_s:.1f} s; {message['reason']})")
        if self._hearing == message["turn"]:
            self._hearing = None
            self._show("thinking")

    def _sound(self, message: Message) -> None:
        answer = self._answer(message)
        if not answer.speech:
            self._show("speaking")
        answer.speech += message["audio_data"]
        if self._speaker is not None:
            self._speaker.say(message["audio_data"], message["turn"])

    def _answer(self, message: Message) -> Answer:
        turn = message["turn"]
        if self._hearing == turn:  # `speech_stopped` was lost with a socket
            self._hearing = None
        self._living.add(turn)
        return self._course.answers.setdefault(turn, Answer())

    def _end(self, message: Message) -> None:
        if message["type"] == "audio_interrupted" and self._speaker is not None:
            self._speaker.drop()
        answer = self._answer(message)
        answer.ending = message
        self._living.discard(message["turn"])
        self._screen.end_answer()
        if answer.complete:
            self._show_steps(message)
        else:
            heard = message["heard_text"] or ""
            unheard = answer.text.removeprefix(heard) if answer.text.startswith(heard) else ""
            self._screen.interrupted(heard, unheard, message["heard_ms"] or 0.0)
        if self._hearing is None:
            self._show("thinking" if self._living else "listening")

    def _fail(self, message: Message) -> None:
        """An error: of a turn, where it names one; else of an utterance that cannot be taken."""
        self._course.failed = True
        if message.get("turn") is not None:
            self._answer(message).ending = message
            self._living.discard(message["turn"])
            if self._speaker is not None:
                self._speaker.drop()
        self._screen.end_answer()
        self._screen.note(f"parley: {refused(message)}")
        if self._hearing is None:
            self._show("thinking" if self._living else "listening")

    def _show_steps(self, ending: Message) -> None:
        since = self._moments.stopped_at(ending["turn"])
        if since is not None:
            show_steps(self._screen, self._moments.steps(ending["turn"], since, ending))

    def _show(self, state: str) -> None:
        self._state = state
        self._screen.state(state)

    def _tell_loss(self) -> None:
        lost_ms = self._client.lost_ms
        if lost_ms > self._lost_ms:
            self._screen.note(f"({(lost_ms - self._lost_ms) / 1000:.1f} s of the input were lost)")
            self._lost_ms = lost_ms
