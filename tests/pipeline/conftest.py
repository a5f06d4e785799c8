"""Stacks of real processes, and clients that remember everything they were told."""

from __future__ import annotations

import asyncio
import time
import wave
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from deploy.cli.client import ParleyClient
from shared.settings import DEFAULT_SCRIPT
from tests.conftest import AUDIO
from tests.stack import SCRIPTED, Stack
from tests.story import ENDINGS, Message

REPLY = "".join(DEFAULT_SCRIPT)

TURN_S = 60.0
"""How long a turn may take on a busy machine before its test fails."""

WITNESSED = {
    **SCRIPTED,
    "SCRIPT_FIRST_TOKEN_MS": "50",
    "SCRIPT_INTER_TOKEN_MS": "25",
    "SCRIPT_TTS_MS": "25",
}
"""Scripted engines, somewhat quicker than their defaults."""

Stacks = Callable[..., Stack]


class Witness:
    """A client program: all messages in the order in which it got them, and when (monotonic, s)."""

    def __init__(self, client: ParleyClient) -> None:
        self.client = client
        self.messages: list[Message] = []
        self.at_s: list[float] = []

    @property
    def conversation(self) -> str:
        """The conversation's id."""
        return self.client.conversation_id

    async def next(self) -> Message:
        """The next message."""
        async with asyncio.timeout(TURN_S):
            message = await anext(self.client)
        self.messages.append(message)
        self.at_s.append(time.monotonic())
        return message

    async def until(self, holds: Callable[[Message], bool]) -> Message:
        """Go on until a message of which this holds."""
        while True:
            message = await self.next()
            if holds(message):
                return message

    async def end_of(self, turn: int) -> Message:
        """Go on until the turn's last message."""
        return await self.until(
            lambda m: (
                m.get("turn") == turn
                and (m["type"] in ENDINGS or (m["type"] == "error" and m.get("turn") is not None))
            )
        )

    async def ask(self, turn: int, pcm: bytes = bytes(3200)) -> Message:
        """A whole utterance; the last message of its answer."""
        await self.client.send_audio(pcm, ends=True)
        return await self.end_of(turn)

    def longest_pause_s(self) -> float:
        """The longest time between two messages."""
        return max(later - earlier for earlier, later in zip(self.at_s, self.at_s[1:], strict=False))


@asynccontextmanager
async def witness(urls: str | Sequence[str], **settings: Any) -> AsyncIterator[Witness]:
    """A conversation at one of these edges, in PCM16, unpaced unless the settings say otherwise."""
    async with ParleyClient(urls) as client:
        await client.configure(
            **{"input_format": "pcm16", "output_format": "pcm16", "pacing": "none"} | settings
        )
        yield Witness(client)


Witnesses = Callable[..., AbstractAsyncContextManager[Witness]]


@pytest.fixture
def stacks(redis_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Stacks]:
    """Makes stacks on the test's server; they end with the test."""
    made: list[Stack] = []

    def make(**env: str) -> Stack:
        folder = tmp_path / f"stack{len(made)}"
        folder.mkdir()
        made.append(Stack(redis_url, folder, {**WITNESSED, **env}))
        return made[-1]

    yield make
    for stack in made:
        stack.stop()
        print(stack.logs())  # noqa: T201 (pytest shows it where a test fails)


@pytest.fixture(scope="session")
def speech() -> bytes:
    """A recording: PCM16 mono, 16 kHz, 11 s."""
    with wave.open(str(AUDIO / "jfk.wav")) as recording:
        assert (recording.getframerate(), recording.getnchannels(), recording.getsampwidth()) == (16000, 1, 2)
        pcm: bytes = recording.readframes(recording.getnframes())
        return pcm
