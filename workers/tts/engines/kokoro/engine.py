"""The engine: every language and voice of a checkpoint, on a GPU or a CPU.

    chunk ─> the desk ─> a thread takes the most urgent: phonemes ─> model ─> PCM ─> the event loop

A text's sound is made as a whole, so what stands between a listener and its first sound is its own text and
what is being made already: a text too long for the model is made in parts, and after each the desk is asked
anew. Downloads nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import torch

from shared.audio import OUTPUT_RATE, duration_ms
from shared.errors import EngineError
from shared.settings import Settings
from shared.text import speakable
from workers.checkpoint import find
from workers.tts.engines import SpeechRequest, Voice, choose_voice, whole_speech
from workers.tts.engines.kokoro.checkpoint import described, device_of, load
from workers.tts.engines.kokoro.desk import Desk, Ticket
from workers.tts.engines.kokoro.files import COMMAND, FILES
from workers.tts.engines.kokoro.pronunciation import Pronunciation, cut
from workers.tts.engines.kokoro.sound import to_pcm16
from workers.tts.engines.kokoro.voices import catalogue, letter_of

log = logging.getLogger(__name__)

PARALLEL_ON_CUDA = 3
"""One text leaves most of a GPU idle. On a CPU one at a time has all cores: two would end later, both."""

SIGN_S = 1.0
"""How often a chunk that waits says that the engine is at work."""


class Kokoro:
    """The engine. Raises `EngineError` when there is no checkpoint, or not a good one."""

    name = "kokoro"

    def __init__(self, settings: Settings) -> None:
        folder = find(settings.kokoro_model, FILES, COMMAND)
        self._checkpoint = load(folder, device_of(settings.device))
        letters = {letter_of(name) for name in self._checkpoint.voices}
        self._pronunciation = Pronunciation(letters, self._checkpoint.vocabulary)
        self._voices = catalogue(self._checkpoint.voices, self._pronunciation.letters)
        if not self._voices:
            raise EngineError(f"none of the voices in {folder / 'voices'} can be spoken with")
        self.default_voice = self._voices[0].name
        self.description = described(self._checkpoint.device)
        on_cuda = self._checkpoint.device.type == "cuda"
        self._parallel = settings.kokoro_parallel or (PARALLEL_ON_CUDA if on_cuda else 1)
        if not on_cuda and self._parallel > 1:
            torch.set_num_threads(max(1, torch.get_num_threads() // self._parallel))
        self._desk: Desk[_Chunk] = Desk()
        self._lock = threading.Lock()
        self._of_thread = threading.local()
        self._threads = ThreadPoolExecutor(self._parallel, "kokoro")
        self._warm_up()

    def voices(self) -> tuple[Voice, ...]:
        """Those of the checkpoint that can be pronounced here."""
        return self._voices

    async def synthesize_speech_streaming(self, request: SpeechRequest) -> AsyncGenerator[bytes, None]:
        """Yield the chunk's sound, in one piece unless its text is very long, and empty pieces while it waits
        for others. Closing removes what waits; what is being made is made and thrown away. `speed` is obeyed
        from 0.5 to 2.0, and as the nearest of these beyond.
        """
        voice = choose_voice(self._voices, request)
        if not speakable(request.text):
            return
        chunk = _Chunk(request, voice.name)
        self._put(chunk)
        try:
            while (pcm := await chunk.next()) is not None:
                yield pcm
        finally:
            self._withdraw(chunk)

    async def synthesize_speech(self, request: SpeechRequest) -> bytes:
        """The whole chunk at once."""
        return await whole_speech(self, request)

    def _put(self, chunk: _Chunk) -> None:
        with self._lock:
            chunk.ticket = self._desk.put(chunk, chunk.request.dry_at_s)
        self._threads.submit(self._do_next)

    def _withdraw(self, chunk: _Chunk) -> None:
        with self._lock:
            chunk.stopped = True
            if chunk.ticket is not None:
                self._desk.drop(chunk.ticket)

    def _do_next(self) -> None:
        """In a thread, once for each time that something was put: a part of the most urgent chunk."""
        with self._lock:
            ticket = self._desk.take()
        if ticket is None:  # it was withdrawn
            return
        chunk = ticket.work
        try:
            pcm = self._next_part(chunk)
        except EngineError as error:
            chunk.tell(error)
        except Exception as error:
            log.warning("chunk %d could not be spoken", chunk.request.chunk, exc_info=True)
            chunk.tell(EngineError(f"Kokoro failed: {type(error).__name__}", retryable=True))
        else:
            chunk.tell(pcm)
            if chunk.parts:
                self._put_back(ticket, duration_ms(pcm, OUTPUT_RATE) / 1000)
            else:
                chunk.tell(None)
        with self._lock:
            for waiting in self._desk:
                waiting.give_sign()

    def _put_back(self, ticket: Ticket[_Chunk], made_s: float) -> None:
        with self._lock:
            if ticket.work.stopped:
                return
            ticket.work.ticket = self._desk.put_back(ticket, made_s)
        self._threads.submit(self._do_next)

    def _next_part(self, chunk: _Chunk) -> bytes:
        """The sound of the part that is due, which is then no longer among the chunk's parts."""
        if chunk.parts is None:
            phonemes = self._pronunciation.phonemes(letter_of(chunk.voice), chunk.request.text)
            chunk.parts = deque(cut(phonemes, self._checkpoint.phonemes))
            if not chunk.parts:
                return b""
        asked_at = time.monotonic()
        speed = min(max(chunk.request.speed, 0.5), 2.0)
        samples = self._speak(chunk.parts[0], chunk.voice, speed, chunk.seed())
        pcm = to_pcm16(samples, head=chunk.request.chunk == 0 and chunk.made == 0)
        chunk.parts.popleft()
        chunk.made += 1
        log.debug(
            "chunk %d: %.0f ms of sound in %.1f ms",
            chunk.request.chunk,
            duration_ms(pcm, OUTPUT_RATE),
            (time.monotonic() - asked_at) * 1000,
        )
        return pcm

    def _speak(self, phonemes: str, voice: str, speed: float, seed: int) -> Any:
        """The model's sound, a float32 array. The seed holds where one thread works only."""
        style = self._checkpoint.voices[voice][len(phonemes) - 1]
        with self._stream(), torch.inference_mode():
            if self._parallel == 1:
                torch.manual_seed(seed)
            return self._checkpoint.model(phonemes, style, speed).float().numpy()

    def _stream(self) -> Any:
        """This thread's own CUDA stream, so that threads compute beside each other."""
        device = self._checkpoint.device
        if device.type != "cuda":
            return nullcontext()
        if not hasattr(self._of_thread, "stream"):
            self._of_thread.stream = torch.cuda.Stream(device)
        return torch.cuda.stream(self._of_thread.stream)

    def _warm_up(self) -> None:
        """The first text takes each thread far longer: kernels are chosen, memory and buffers taken."""
        phonemes = self._pronunciation.sample(letter_of(self.default_voice))
        all_at_once = threading.Barrier(self._parallel)

        def speak() -> None:
            all_at_once.wait()
            to_pcm16(self._speak(phonemes, self.default_voice, 1.0, seed=0), head=True)

        for warm in [self._threads.submit(speak) for _ in range(self._parallel)]:
            warm.result()


class _Chunk:
    """One chunk on its way over the desk and back to the loop that wants it."""

    def __init__(self, request: SpeechRequest, voice: str) -> None:
        self.request = request
        self.voice = voice
        self.parts: deque[str] | None = None
        """The phonemes still to be spoken; `None` until they are known."""
        self.made = 0
        self.ticket: Ticket[_Chunk] | None = None
        self.stopped = False
        self._loop = asyncio.get_running_loop()
        self._arrived: asyncio.Queue[bytes | EngineError | None] = asyncio.Queue()
        self._told_at_s = time.monotonic()

    async def next(self) -> bytes | None:
        """The next piece; `None` when all was said. Raises `EngineError`."""
        arrived = await self._arrived.get()
        if isinstance(arrived, EngineError):
            raise arrived
        return arrived

    def tell(self, what: bytes | EngineError | None) -> None:
        """Hand over a piece, an error or the end, from a thread; nothing once nobody listens."""
        if self.stopped:
            return
        self._told_at_s = time.monotonic()
        try:
            self._loop.call_soon_threadsafe(self._arrived.put_nowait, what)
        except RuntimeError:  # the loop is closed: its readers are gone
            self.stopped = True

    def give_sign(self) -> None:
        """Say that the engine is not stuck, only busy with what is more urgent."""
        if time.monotonic() - self._told_at_s >= SIGN_S:
            self.tell(b"")

    def seed(self) -> int:
        """The same for the part that is due, whoever speaks it: a take-over goes on with the same sound."""
        name = f"{self.request.conversation}/{self.request.turn}/{self.request.chunk}/{self.made}"
        return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest())
