"""The words that were heard of an answer, out of how long it was listened to. Pure.

Knows neither frames nor clocks: only the texts that were spoken and how long each takes to say.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from unicodedata import east_asian_width

MS_PER_CHARACTER = 60.0
"""How long a character takes to say, about; for a text whose speech is still being made."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """A semantic chunk and the speech made of it so far; `whole` once there is no more to come."""

    text: str
    duration_ms: float
    whole: bool = True


def heard_text(chunks: Iterable[Spoken], heard_ms: float) -> str:
    """The beginning of the reply that `heard_ms` of its speech say, in whole words, without space at its end.

    A chunk that was heard to its end counts whole; one that was cut off, by characters in proportion.
    """
    heard = ""
    left_ms = heard_ms
    for chunk in chunks:
        duration_ms = chunk.duration_ms
        if not chunk.whole:
            duration_ms = max(duration_ms, len(chunk.text) * MS_PER_CHARACTER)
        if left_ms <= 0 and duration_ms > 0:
            break
        if left_ms < duration_ms:
            heard += _whole_words(chunk.text, math.floor(len(chunk.text) * left_ms / duration_ms))
            break
        heard += chunk.text
        left_ms -= duration_ms
    return heard.rstrip() if heard_ms > 0 else ""


def _whole_words(text: str, upto: int) -> str:
    while 0 < upto < len(text) and not _between_words(text[upto - 1], text[upto]):
        upto -= 1
    return text[:upto]


def _between_words(before: str, after: str) -> bool:
    """Whether a word may end here: at a space, or between characters of a script without spaces."""
    return before.isspace() or after.isspace() or (_stands_alone(before) and _stands_alone(after))


def _stands_alone(character: str) -> bool:
    hangul_syllable = "\uac00" <= character <= "\ud7a3"  # wide like the others, but its words have spaces
    return east_asian_width(character) in "WF" and not hangul_syllable
