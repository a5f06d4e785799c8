"""The client's audio on its way into the log: decoded, put in its place, bounded.

Counts the conversation's whole input in samples at 16 kHz, whatever rate the client sends at. Does no I/O and
knows no turn; the session says when an utterance begins and ends.

A chunk that says where it lies (`offset_samples`) may overlap what is here already: the overlap is dropped.
It may jump ahead between utterances, for a client may count its silence; a gap inside one is refused, because
words would be missing from it.
"""

from __future__ import annotations

from collections.abc import Iterator

from edge.configuration import Configuration
from shared.audio import INPUT_RATE, InputDecoder
from shared.errors import ClientError
from shared.wire import Chunk

PIECE_BYTES = 64 << 10
"""What one `chunk` entry holds at the most: two seconds."""

ROUNDING_SAMPLES = 2
"""What a client that counts at another rate may be off by."""


class Intake:
    """All input of one conversation. `position` is where it stands: the place of the next sample."""

    def __init__(self, max_utterance_s: float, position: int = 0) -> None:
        self.position = position
        self._max_samples = int(max_utterance_s * INPUT_RATE)
        self._left = 0
        self._decoder: InputDecoder | None = None
        self._decoded = 0

    def start(self, configuration: Configuration) -> None:
        """A new utterance begins, in the format that holds now."""
        self._left = self._max_samples
        self._continue(configuration)

    def resume(self, configuration: Configuration, samples: int) -> None:
        """An utterance of which `samples` stand in the log, the last of them before `position`, goes on."""
        self._left = max(0, self._max_samples - samples)
        self._continue(configuration)

    @property
    def full(self) -> bool:
        """Whether the utterance has reached its longest."""
        return self._left == 0

    def take(self, data: bytes, offset: int | None, *, begins: bool) -> list[Chunk]:
        """The entries for a slice of input. `begins`: it is the first of its utterance.

        Raises `ClientError` `bad_audio` for a gap, and `AudioError` for bytes that are no audio.
        """
        decoder = self._decoder
        assert decoder is not None, "no utterance was started"
        start = self._place(offset, decoder.behind_samples, begins=begins)
        pcm = decoder.feed(data)
        if begins:
            self.position = max(self.position, start)
        self._decoded = start
        return list(self._pieces(pcm))

    def finish(self) -> list[Chunk]:
        """The entries for what the decoder still holds at the end of the utterance."""
        assert self._decoder is not None, "no utterance was started"
        return list(self._pieces(self._decoder.flush()))

    def _continue(self, configuration: Configuration) -> None:
        self._decoder = InputDecoder(configuration.input_format.value, configuration.input_sample_rate)
        self._decoded = self.position

    def _place(self, offset: int | None, behind: int, *, begins: bool) -> int:
        """Where the next sample out of the decoder lies; `behind` samples are in it, and come out first."""
        if offset is None:
            return self._decoded
        if begins:
            return offset
        expected = self._decoded + behind
        if abs(offset - expected) <= ROUNDING_SAMPLES:
            return self._decoded
        here = max(expected, self.position)
        if offset > here:
            raise ClientError(
                "bad_audio", f"{offset - here} samples are missing before {offset}; go on at {here}"
            )
        return offset - behind

    def _pieces(self, pcm: bytes) -> Iterator[Chunk]:
        known = max(0, self.position - self._decoded) * 2
        self._decoded += len(pcm) // 2
        new = pcm[known:]
        taken = new[: self._left * 2]
        self._left -= len(taken) // 2
        for start in range(0, len(taken), PIECE_BYTES):
            piece = taken[start : start + PIECE_BYTES]
            yield Chunk(self.position, piece)
            self.position += len(piece) // 2
        # What lies beyond the longest utterance is passed over, but it was input: places go on counting.
        self.position += (len(new) - len(taken)) // 2
