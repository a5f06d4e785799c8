"""A tone whose length follows the text, at a fixed cost: for benchmarks and tests.

Each sample is a function of conversation, turn, chunk and place. The upper twelve bits are a quiet tone,
whose pitch comes from the key; the lower four are a code that says, 600 times a second, whose sample this is
and where it stands. So `expected` makes the same bytes again, and `whose` reads any few milliseconds of them.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
import zlib
from collections.abc import AsyncGenerator
from functools import cache
from typing import NamedTuple
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from shared.audio import OUTPUT_RATE
from shared.settings import Settings
from shared.text import speakable
from workers.clock import sleep_until
from workers.tts.engines import SpeechRequest, Voice, choose_voice, whole_speech

VOICES = (Voice("tone", "en"), Voice("hum", "de"))
"""`hum` is an octave lower than `tone`."""

AMPLITUDE = 3000

# A block of the code: four bits in each of 40 samples. The widths below are in samples.
INDEX, CONVERSATION, TURN, CHUNK, CHECK = 6, 16, 6, 4, 8
BLOCK = INDEX + CONVERSATION + TURN + CHUNK + CHECK
KEY_BYTES = (CONVERSATION + TURN + CHUNK) // 2
_TURNS, _CHUNKS = 1 << (4 * TURN), 1 << (4 * CHUNK)

WAVE_SAMPLES = 4800
"""A whole number of blocks, and of periods of any multiple of 5 Hz."""


class Place(NamedTuple):
    """Where a piece of the tone comes from: `offset_samples` counts from the start of its chunk."""

    conversation_hash: int
    turn: int
    chunk: int
    offset_samples: int


class Scripted:
    """Waits `SCRIPT_TTS_MS` for each chunk, then has all of it: one conversation's chunks one after another,
    as on a model that is busy with it, those of different conversations at the same time."""

    name = "scripted"
    default_voice = VOICES[0].name

    def __init__(self, settings: Settings) -> None:
        self._wait_s = settings.script_tts_ms / 1000
        self._ms_per_char = settings.script_ms_per_char
        self._busy: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def voices(self) -> tuple[Voice, ...]:
        """Two, so that there is something to choose."""
        return VOICES

    async def synthesize_speech_streaming(self, request: SpeechRequest) -> AsyncGenerator[bytes, None]:
        """Yield the whole tone as one piece, when it is due."""
        voice = choose_voice(VOICES, request)
        if not speakable(request.text):
            return
        async with self._busy.setdefault(request.conversation, asyncio.Lock()):
            asked_s = time.monotonic()
            pcm = expected(
                request.conversation,
                request.turn,
                request.chunk,
                request.text,
                self._ms_per_char,
                speed=request.speed,
                voice=voice.name,
            )
            await sleep_until(asked_s + self._wait_s)
        yield pcm

    async def synthesize_speech(self, request: SpeechRequest) -> bytes:
        """The whole tone, when it is due."""
        return await whole_speech(self, request)


def expected(
    conversation: str,
    turn: int,
    chunk: int,
    text: str,
    ms_per_char: float,
    *,
    speed: float = 1.0,
    voice: str = VOICES[0].name,
) -> bytes:
    """What is spoken for a chunk: PCM16 mono 24 kHz, `ms_per_char` long for each character of `text`."""
    if not speakable(text):
        return b""
    samples = round(ms_per_char * len(text) / speed * OUTPUT_RATE / 1000)
    key = _key(hash_of(conversation), turn, chunk)
    pitch_hz = 200 + 10 * (zlib.crc32(key) % 60)
    wave = _wave(pitch_hz if voice == VOICES[0].name else pitch_hz // 2)
    blocks = -(-samples // BLOCK)
    pcm: NDArray[np.int16] = np.resize(wave, (blocks, BLOCK)) | _code(key, 0, blocks)
    return pcm.tobytes()[: 2 * samples]


def whose(pcm: bytes) -> Place:
    """Where a piece of speech comes from: at least 40 samples where it begins at a multiple of 40, as frames
    do, and 79 anywhere. Raises `ValueError` for one that is not from a single place of the scripted voice.
    """
    bits = np.frombuffer(pcm, "<i2") & 15
    for shift in range(min(BLOCK, len(bits) - BLOCK + 1)):
        found = _read(bits[shift : shift + BLOCK])
        if found is not None:
            break
    else:
        raise ValueError("no speech of the scripted voice")
    index, key = found
    before = -(-shift // BLOCK)  # the block that the piece may begin in the middle of
    first = index - before
    start = before * BLOCK - shift
    wanted = _code(key, first, -(-(start + len(bits)) // BLOCK)).ravel()[start : start + len(bits)]
    if first < 0 or not np.array_equal(bits, wanted):
        raise ValueError("speech of the scripted voice from more than one place")
    conversation, turn, chunk = _split(key)
    return Place(conversation, turn, chunk, first * BLOCK + start)


def hash_of(conversation: str) -> int:
    """The 64 bits that stand for a conversation in its speech."""
    return int.from_bytes(hashlib.blake2b(conversation.encode(), digest_size=8).digest(), "big")


def _key(conversation: int, turn: int, chunk: int) -> bytes:
    number = conversation << (4 * TURN) | turn % _TURNS
    return (number << (4 * CHUNK) | chunk % _CHUNKS).to_bytes(KEY_BYTES, "big")


def _split(key: bytes) -> tuple[int, int, int]:
    number, chunk = divmod(int.from_bytes(key, "big"), _CHUNKS)
    conversation, turn = divmod(number, _TURNS)
    return conversation, turn, chunk


def _code(key: bytes, first: int, count: int) -> NDArray[np.int16]:
    """The lower four bits of `count` blocks from the one at index `first`: shape (count, 40)."""
    code = np.empty((count, BLOCK), np.int16)
    index = np.arange(first, first + count, dtype=np.int64)
    code[:, :INDEX] = _nibbles(index, INDEX)
    code[:, INDEX:-CHECK] = [nibble for byte in key for nibble in (byte >> 4, byte & 15)]
    code[:, -CHECK:] = _nibbles(_check(key, index), CHECK)
    return code


def _check(key: bytes, index: NDArray[np.int64]) -> NDArray[np.int64]:
    # Knuth's multiplier spreads neighbouring indices over all 32 bits.
    return (index * 2654435761 + zlib.crc32(key)) & 0xFFFFFFFF


def _nibbles(values: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    return values[:, np.newaxis] >> np.arange(4 * (width - 1), -1, -4) & 15


def _read(block: NDArray[np.int16]) -> tuple[int, bytes] | None:
    """Index and key of one block, if its check holds."""
    digits = "".join(f"{nibble:x}" for nibble in block)
    index, key = int(digits[:INDEX], 16), bytes.fromhex(digits[INDEX:-CHECK])
    check = _check(key, np.array([index], np.int64))[0]
    return (index, key) if check == int(digits[-CHECK:], 16) else None


@cache  # two voices of 60 pitches
def _wave(pitch_hz: int) -> NDArray[np.int16]:
    angle = 2 * np.pi * pitch_hz / OUTPUT_RATE * np.arange(WAVE_SAMPLES)
    wave: NDArray[np.int16] = np.rint(AMPLITUDE * np.sin(angle)).astype(np.int16)
    return np.bitwise_and(wave, ~15, out=wave)
