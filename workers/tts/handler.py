"""The TTS worker's part of a turn: semantic chunks in, 100 ms audio frames out.

    chunk ─> its spoken form ─> engine ─> frames ─> log

Attached before the first chunk exists. A frame never spans two chunks, and the last frame of a chunk says so:
that is what lets another worker go on in the middle of a sentence.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice

from shared.audio import FRAME_SAMPLES, OUTPUT_RATE, SAMPLE_BYTES
from shared.errors import TurnClosed
from shared.keys import Role, log_key
from shared.log import persist, read_log
from shared.store import Store
from shared.wire import Address, Closed, Frame, Log, Open, ReplyEnd, Semantic, SpeechEnd
from shared.work import Announcement
from workers.tts.engines import SpeechRequest, Synthesizer, choose_voice
from workers.tts.text import spoken_form
from workers.turn import Turn, entries_of

log = logging.getLogger(__name__)

FRAME_BYTES = FRAME_SAMPLES * SAMPLE_BYTES

FRAMES_AT_ONCE = 8
"""Frames in one append: the first of many should not wait for the last to be copied."""


class SpeechHandler:
    """Speaks turns with one engine. `reason` says in a plain line which engine that is, and why."""

    role = Role.SPEAK
    output = Log.SPEECH
    others: tuple[Log, ...] = (Log.TEXT,)

    def __init__(self, engine: Synthesizer, reason: str) -> None:
        self._engine = engine
        self._reason = reason
        self._voices = tuple((voice.name, voice.language) for voice in engine.voices())

    def announcement(self, name: str, slots: int) -> Announcement:
        """The engine and its voices, as edges name them."""
        return Announcement(name, self.role, self._engine.name, self._reason, slots, self._voices)

    def counts(self) -> dict[str, int]:
        """Nothing."""
        return {}

    async def is_due(self, store: Store, conversation: str, turn: int) -> bool:
        """Whether a chunk waits to be spoken."""
        text, speech = [
            await read_log(store, log_key(conversation, log), Address(turn, 0), turn)
            for log in (Log.TEXT, Log.SPEECH)
        ]
        chunks = sum(isinstance(entry.payload, Semantic) for entry in text)
        frames = [entry.payload for entry in speech if isinstance(entry.payload, Frame)]
        return chunks > (frames[-1].chunk + frames[-1].last if frames else 0)

    async def run(self, turn: Turn) -> None:
        """Speak the chunks as they come."""
        settings = await _settings(turn)
        text = turn.follow(Log.TEXT)
        done = _Spoken(turn)
        chunk = -1
        try:
            async for entry in entries_of(text, turn.number):
                match entry.payload:
                    case Semantic(text=words):
                        chunk += 1
                        if chunk >= done.chunk:
                            await self._speak(turn, _request(turn, settings, chunk, words), done)
                    case ReplyEnd(reason=reason):
                        await turn.writer.append(SpeechEnd(reason, done.samples))
                    case Closed() as closed:
                        # Whoever closed the text may have died before it closed the speech.
                        await turn.close(closed, Log.SPEECH)
        finally:
            text.close()

    async def _speak(self, turn: Turn, request: SpeechRequest, done: _Spoken) -> None:
        """Append the frames of one chunk, without those that a predecessor wrote."""
        asked_at = time.monotonic()
        request = replace(request, text=self._spoken_form(request), dry_at_s=done.dry_at_s)
        framer = _Framer(request.chunk, done.offset(request.chunk))
        turn.step()
        stream = self._engine.synthesize_speech_streaming(request)
        try:
            async for pcm in stream:
                turn.step()
                log.debug(
                    "chunk %d: voice %s, %d bytes after %.1f ms",
                    request.chunk,
                    request.voice or self._engine.default_voice,
                    len(pcm),
                    (time.monotonic() - asked_at) * 1000,
                )
                await _append(turn, framer.feed(pcm), done)
        finally:
            await stream.aclose()
        await _append(turn, framer.finish(), done)
        turn.step(computing=False)

    def _spoken_form(self, request: SpeechRequest) -> str:
        """The chunk's text as its voice should say it. Raises `EngineError` where there is no such voice."""
        return spoken_form(request.text, choose_voice(self._engine.voices(), request).language)


class _Spoken:
    """How far the speech of a turn stands in its log, and how long its listener has something to hear."""

    def __init__(self, turn: Turn) -> None:
        self.chunk = 0
        """The first chunk that is not whole."""
        self.samples = 0
        self.dry_at_s: float | None = None
        """When all that was written will have been heard (`time.monotonic`); `None`: nothing was."""
        self._offset = 0
        now_s, now_us = time.monotonic(), time.time() * 1e6
        for entry in turn.writer.entries:
            if isinstance(entry.payload, Frame):
                # Another machine's clock may be ahead of this one's, but what stands there is not to come.
                self.add([entry.payload], now_s - max(0.0, now_us - entry.at_us) / 1e6)
        if self.samples:
            log.info("going on at chunk %d after %d samples of it", self.chunk, self._offset)

    def offset(self, chunk: int) -> int:
        """How many samples of this chunk stand in the log."""
        return self._offset if chunk == self.chunk else 0

    def add(self, frames: Iterable[Frame], written_at_s: float) -> None:
        """Count frames that were written: they are heard after those before them, or, where the listener
        had nothing left to hear, from the time when they were written (`time.monotonic`).
        """
        for frame in frames:
            samples = len(frame.pcm) // SAMPLE_BYTES
            self.samples += samples
            dry_at_s = written_at_s if self.dry_at_s is None else max(self.dry_at_s, written_at_s)
            self.dry_at_s = dry_at_s + samples / OUTPUT_RATE
            self.chunk = frame.chunk + 1 if frame.last else frame.chunk
            self._offset = 0 if frame.last else frame.offset_samples + samples


class _Framer:
    """Cuts the PCM of one chunk into frames, skipping what stands in the log already.

    A frame leaves as soon as it is known whether it is the last one.
    """

    def __init__(self, chunk: int, skip_samples: int) -> None:
        self._chunk = chunk
        self._skip_bytes = skip_samples * SAMPLE_BYTES
        self._offset_samples = skip_samples
        self._buffer = b""

    def feed(self, pcm: bytes) -> Iterator[Frame]:
        """The frames that are whole now and not the last."""
        if self._skip_bytes:
            skipped = min(self._skip_bytes, len(pcm))
            self._skip_bytes -= skipped
            pcm = pcm[skipped:]
        self._buffer += pcm
        start = 0
        while len(self._buffer) - start > FRAME_BYTES:
            yield self._frame(self._buffer[start : start + FRAME_BYTES], last=False)
            start += FRAME_BYTES
        self._buffer = self._buffer[start:]

    def finish(self) -> Iterator[Frame]:
        """The last frame; none where the chunk held nothing, or nothing more, to say."""
        if self._buffer:
            yield self._frame(self._buffer, last=True)
            self._buffer = b""

    def _frame(self, pcm: bytes, *, last: bool) -> Frame:
        frame = Frame(self._chunk, self._offset_samples, last, pcm)
        self._offset_samples += len(pcm) // SAMPLE_BYTES
        return frame


async def _append(turn: Turn, frames: Iterator[Frame], done: _Spoken) -> None:
    # The very first frame goes alone: it is the one that somebody waits for.
    at_once = FRAMES_AT_ONCE if done.samples else 1
    while group := list(islice(frames, at_once)):
        await turn.writer.append(*group)
        done.add(group, time.monotonic())
        at_once = FRAMES_AT_ONCE


async def _settings(turn: Turn) -> Open:
    key = log_key(turn.conversation, Log.AUDIO)
    first = Address(turn.number, 0)
    entries = await persist(lambda: read_log(turn.store, key, first, turn.number, count=1))
    if not entries or not isinstance(entries[0].payload, Open):
        raise TurnClosed(f"{key}: turn {turn.number} was never opened, or is no longer kept")
    return entries[0].payload


def _request(turn: Turn, settings: Open, chunk: int, text: str) -> SpeechRequest:
    return SpeechRequest(
        turn.conversation, turn.number, chunk, text, settings.voice, settings.language, settings.speed
    )
