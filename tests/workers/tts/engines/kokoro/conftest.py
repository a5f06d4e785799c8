"""One engine on a tiny checkpoint for all tests: loading it is most of what they cost."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import torch

from shared.settings import Settings
from workers.tts.engines import SpeechRequest
from workers.tts.engines.kokoro import Kokoro

Ask = Callable[..., SpeechRequest]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """The tests run beside others, each on a core of its own."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def kokoro(kokoro_folder: Path, one_thread: None) -> Kokoro:
    """An engine with one voice of each language and one more, and one thread."""
    return Kokoro(Settings(kokoro_model=str(kokoro_folder), device="cpu"))


@pytest.fixture
def ask() -> Ask:
    """A request for a chunk, by default the first one of a turn."""

    def ask(
        text: str,
        voice: str | None = None,
        chunk: int = 0,
        *,
        language: str | None = None,
        speed: float = 1.0,
        dry_at_s: float | None = None,
        conversation: str = "abc",
    ) -> SpeechRequest:
        return SpeechRequest(conversation, 1, chunk, text, voice, language, speed, dry_at_s)

    return ask


@asynccontextmanager
async def busy(kokoro: Kokoro) -> AsyncIterator[None]:
    """While this lasts, the engine's thread is at some other work."""
    begun, over = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        over.wait()

    working = kokoro._threads.submit(work)
    begun.wait()
    try:
        yield
    finally:
        over.set()
        working.result()
