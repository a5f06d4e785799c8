"""What was said before in a conversation, as a speech model is given it.

Owns what a past turn is. Knows no engine: what an exchange costs in tokens is the engine's to say.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Exchange:
    """One past turn: what the user said, and as much of the reply as was heard.

    `audio` is PCM16 mono 16 kHz, empty for a typed turn, whose words are `text`. `reply` is empty where
    nothing of the answer was heard.
    """

    turn: int
    audio: bytes
    text: str | None
    reply: str
