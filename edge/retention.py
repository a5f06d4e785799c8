"""Which turns each log of a conversation keeps when another begins. Pure.

`audio` holds what a speech model may be given back: as many past turns as hold `HISTORY_AUDIO_S` of input.
`text` holds their answers, and for a while those of older ones, for a client that resumes without an address
and for people; `speech` is only played. Knows no Redis: what stands in `audio` is told to it, entry by entry.
"""

from __future__ import annotations

from shared.audio import INPUT_RATE
from shared.wire import Chunk, Log, Payload, UtteranceEnd

PAST_AUDIO_TURNS = 64
"""However little was said in each: typed turns and single words are a handful of entries."""

PAST_TEXT_TURNS = 128
"""Twice as many as any history reaches back: about 3 MB of long answers."""

PAST_SPEECH_TURNS = 1


class Retention:
    """What was said in the past turns of one conversation, in samples at 16 kHz, as far as it is known."""

    def __init__(self) -> None:
        self._began: dict[int, int] = {}
        self._said: dict[int, int] = {}

    def note(self, turn: int, payload: Payload) -> None:
        """An entry stands in `audio`. It takes a turn's first `chunk` and its `end` to know what was said."""
        match payload:
            case Chunk(offset_samples=place):
                self._began.setdefault(turn, place)
            case UtteranceEnd(input_samples=place):
                self._said[turn] = place - self._began.get(turn, place)

    def first_turns(self, turn: int, audio_s: float) -> dict[Log, int]:
        """The first turn that each log keeps now that `turn` begins, with `audio_s` of input before it.

        A turn of which nothing is known counts as silent: rather one is kept too many.
        """
        for known in (self._began, self._said):
            for old in [each for each in known if each < turn - PAST_AUDIO_TURNS]:
                del known[old]
        return {
            Log.AUDIO: self._first_audio(turn, audio_s),
            Log.TEXT: max(1, turn - PAST_TEXT_TURNS),
            Log.SPEECH: max(1, turn - PAST_SPEECH_TURNS),
        }

    def _first_audio(self, turn: int, audio_s: float) -> int:
        left = audio_s * INPUT_RATE
        for past in range(turn - 1, max(0, turn - 1 - PAST_AUDIO_TURNS), -1):
            left -= self._said.get(past, 0)
            if left < 0:
                return past + 1
        return max(1, turn - PAST_AUDIO_TURNS)
