"""The latencies of one turn, as this session measured them. Pure: whoever marks a moment says when it was."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Stopwatch:
    """Moments of one turn, on one monotonic clock in seconds; `None` for what did not happen here.

    `utterance_end`: its last byte was read from the socket. The `first_*`: that was written to the socket.
    `made`: the last frame was there.
    """

    utterance_end: float | None = None
    first_token: float | None = None
    first_word: float | None = None
    first_audio: float | None = None
    made: float | None = None

    @property
    def first_token_ms(self) -> float | None:
        """From the end of the utterance to the first token."""
        return self._since_end(self.first_token)

    @property
    def first_word_ms(self) -> float | None:
        """From the end of the utterance to the first semantic chunk."""
        return self._since_end(self.first_word)

    @property
    def first_audio_ms(self) -> float | None:
        """From the end of the utterance to the first frame."""
        return self._since_end(self.first_audio)

    @property
    def total_ms(self) -> float | None:
        """From the end of the utterance to the last frame made."""
        return self._since_end(self.made)

    def _since_end(self, moment: float | None) -> float | None:
        if self.utterance_end is None or moment is None:
            return None
        return (moment - self.utterance_end) * 1000


def in_ms(latency_ms: float | None) -> str:
    """A latency for a line of the log."""
    return "-" if latency_ms is None else f"{latency_ms:.1f} ms"
