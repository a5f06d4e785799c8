"""What is worth speaking, and which languages are meant: all who deal with voices must agree on it."""

from __future__ import annotations


def speakable(text: str) -> bool:
    """Whether a letter or digit, of any script, is in `text`."""
    return any(map(str.isalnum, text))


def speaks(language: str, asked: str) -> bool:
    """Whether who speaks `language` speaks what was `asked` for, both BCP 47 tags: `en` means every kind of
    English, `en-GB` only that one.
    """
    language, asked = language.lower(), asked.lower()
    return language == asked or language.startswith(f"{asked}-")
