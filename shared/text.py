"""What is worth speaking: the chunker and every voice must agree on it."""

from __future__ import annotations


def speakable(text: str) -> bool:
    """Whether a letter or digit, of any script, is in `text`."""
    return any(map(str.isalnum, text))
