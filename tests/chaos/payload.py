"""What is said in each turn, and what must be answered: every piece of both says whose it is, and which.

The input is the tone of the scripted voice, read as PCM16 at 16 kHz; the answer is the keyed one of the
scripted LLM, spoken by the scripted voice. So each sample and each word is a function of conversation, turn
and place. Pure.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

from shared.audio import OUTPUT_RATE, SAMPLE_BYTES
from shared.settings import DEFAULT_SCRIPT
from shared.text import speakable
from tests.stack import SCRIPTED
from workers.llm.engines.scripted import Heard, keyed
from workers.tts.engines.scripted import expected, whose
from workers.tts.text import spoken_form

TOKENS = len(DEFAULT_SCRIPT)
MS_PER_CHAR = 15
SAMPLES_PER_CHAR = MS_PER_CHAR * OUTPUT_RATE // 1000
"""A whole number of the tone's blocks, so that the shortest frame says whose it is."""

INPUT_STEP_MS = 30
"""Utterances are a whole number of these."""

ENV = {
    **SCRIPTED,
    "SCRIPT_KEYED": "1",
    "SCRIPT_FIRST_TOKEN_MS": "50",
    "SCRIPT_INTER_TOKEN_MS": "40",
    "SCRIPT_TTS_MS": "25",
    "SCRIPT_MS_PER_CHAR": str(MS_PER_CHAR),
}

_MS_PER_INPUT_CHAR = 20.0  # at 24 kHz: 480 samples, which last 30 ms at 16 kHz


class Piece(NamedTuple):
    """Samples of one line of audio: `place` counts from the start of its utterance, or of its chunk."""

    owner: int
    turn: int
    chunk: int
    place: int
    samples: int


def utterance(speaker: str, turn: int, duration_ms: int) -> bytes:
    """What a speaker says in a turn: PCM16 mono 16 kHz."""
    return expected(speaker, turn, 0, "x" * (duration_ms // INPUT_STEP_MS), _MS_PER_INPUT_CHAR)


def piece_of(pcm: bytes) -> Piece | None:
    """Whose this piece of a tone is; `None` where that cannot be read, or it is not from one place."""
    try:
        found = whose(pcm)
    except ValueError:
        return None
    return Piece(
        found.conversation_hash, found.turn, found.chunk, found.offset_samples, len(pcm) // SAMPLE_BYTES
    )


def heard(data: bytes | str) -> Heard:
    """What an engine should say that it heard of this."""
    if isinstance(data, str):
        return Heard(len(data), zlib.crc32(data.encode()))
    return Heard(len(data) // SAMPLE_BYTES, zlib.crc32(data))


def answer(conversation: str, turn: int, said: Heard) -> tuple[str, ...]:
    """The tokens that must come."""
    return keyed(conversation, turn, said, TOKENS)


def pieces_of(pcm: bytes) -> list[Piece | None]:
    """Speech that may span chunks, in pieces that do not."""
    step = SAMPLES_PER_CHAR * SAMPLE_BYTES
    joined: list[Piece | None] = []
    for start in range(0, len(pcm), step):
        piece, last = piece_of(pcm[start : start + step]), joined[-1] if joined else None
        if piece and last and piece == last._replace(place=last.place + last.samples, samples=piece.samples):
            joined[-1] = last._replace(samples=last.samples + piece.samples)
        else:
            joined.append(piece)
    return joined


def samples_of(chunk: str) -> int:
    """How long a semantic chunk sounds."""
    spoken = spoken_form(chunk, "en")
    return SAMPLES_PER_CHAR * len(spoken) if speakable(spoken) else 0
