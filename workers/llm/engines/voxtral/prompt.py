"""What the model is given: past turns, this one, and what was said of its answer already.

    <s> ([INST] user [/INST] reply </s>)* [INST] user [/INST] spoken
    user:   [BEGIN_AUDIO] and a window for each 30 s begun, or text
    prompt: text behind the sound of this turn, or before its text

The tokenizer of this model takes no system message beside sound, so the prompt stands in the user's turn: in
this one alone, for it may have been another before. What the user said in past turns whose answer nobody
heard belongs to the turn that follows them. Pure: knows no model, no batch and no clock.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest

from workers.llm.engines.voxtral.pieces import WINDOW_BYTES, WINDOW_TOKENS, Ids, Piece, Window
from workers.llm.engines.voxtral.text import Vocabulary
from workers.llm.history import Exchange

PARAGRAPH = "\n\n"
"""Between texts that follow each other in one turn of the user."""

Part = str | bytes
"""Text, or sound as PCM16 mono 16 kHz."""


def opening(vocabulary: Vocabulary, history: Sequence[Exchange], *, typed: bool) -> list[Piece]:
    """All that stands before this turn's own words or sound, its `[INST]` included."""
    pieces: list[Piece] = [Ids((vocabulary.begin,))]
    unanswered: list[Part] = []
    for exchange in history:
        unanswered.append(_said(exchange))
        reply = exchange.reply.rstrip(" ")
        if reply:
            pieces.append(Ids((vocabulary.begin_user,)))
            pieces += user(vocabulary, unanswered)
            pieces.append(Ids((vocabulary.end_user, *vocabulary.encode(reply), vocabulary.end)))
            unanswered = []
    pieces.append(Ids((vocabulary.begin_user,)))
    pieces += user(vocabulary, unanswered, text_follows=typed)
    return pieces


def closing(vocabulary: Vocabulary, texts: Sequence[str], spoken: Sequence[int]) -> Ids:
    """The texts of this turn, its end, and what was said of the answer already."""
    text = vocabulary.encode(PARAGRAPH.join(texts)) if texts else ()
    return Ids((*text, vocabulary.end_user, *spoken))


def user(vocabulary: Vocabulary, parts: Sequence[Part], *, text_follows: bool = False) -> Iterator[Piece]:
    """What one turn of the user is made of, or its first parts."""
    for part, follower in zip_longest(parts, parts[1:], fillvalue="" if text_follows else b""):
        if isinstance(part, bytes):
            if part:
                yield Ids((vocabulary.begin_audio,))
                yield from windows(part)
        else:
            text = part + PARAGRAPH if isinstance(follower, str) else part
            yield Ids(vocabulary.encode(text))


def windows(pcm: bytes) -> Iterator[Window]:
    """Sound in windows of 30 s, the last one with the rest."""
    for begin in range(0, len(pcm), WINDOW_BYTES):
        yield Window(pcm[begin : begin + WINDOW_BYTES])


def cost(vocabulary: Vocabulary, exchange: Exchange) -> int:
    """What a past turn takes in the prompt, in tokens."""
    said = _said(exchange)
    words = sound_cost(len(said)) if isinstance(said, bytes) else len(vocabulary.encode(said))
    return words + len(vocabulary.encode(exchange.reply)) + CONTROLS


CONTROLS = 3
"""Of a past turn: `[INST]`, `[/INST]` and `</s>`."""


def sound_cost(pcm_bytes: int) -> int:
    """Tokens of so much sound in one turn."""
    count = -(-pcm_bytes // WINDOW_BYTES)
    return count * WINDOW_TOKENS + 1 if count else 0


def fitting(vocabulary: Vocabulary, history: Sequence[Exchange], room: int) -> Sequence[Exchange]:
    """The newest exchanges that together take `room` tokens at the most, with no gap in them."""
    first = len(history)
    while first > 0:
        room -= cost(vocabulary, history[first - 1])
        if room < 0:
            break
        first -= 1
    return history[first:]


def _said(exchange: Exchange) -> Part:
    return exchange.audio if exchange.text is None else exchange.text
