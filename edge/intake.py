"""The client's audio as it comes in: decoded, and put in its place.

Counts the conversation's whole input in samples at 16 kHz, whatever rate the client sends at. Does no I/O and
knows no turn; whoever takes slices says whether an utterance is open.

A slice that says where it lies (`offset_samples`) may overlap what is here already: the overlap is dropped.
It may jump ahead between utterances, for a client may count its silence; a gap inside one is refused, because
words would be missing from it.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge.configuration import Configuration
from shared.audio import SAMPLE_BYTES, InputDecoder
from shared.errors import ClientError

ROUNDING_SAMPLES = 2
"""What a client that counts at another rate may be off by."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Input that was not here before: PCM16 mono at 16 kHz, and the place of its first sample."""

    place: int
    pcm: bytes


class Intake:
    """All input of one conversation. `position` is where it stands: the place of the next sample."""

    def __init__(self, position: int = 0) -> None:
        self.position = position
        self.start(Configuration())

    def start(self, configuration: Configuration) -> None:
        """What comes now has nothing to do with what came before, and is in the format that holds now."""
        self._configuration = configuration
        self._decoder = self._new_decoder()
        self._decoded = self.position

    def take(self, data: bytes, offset: int | None, *, may_jump: bool) -> Slice:
        """What a slice of input adds. `may_jump`: no utterance is open, so it may lie ahead of what is here.

        Raises `ClientError` `bad_audio` for a gap where there must be none, and `AudioError` for bytes that
        are no audio; neither changes anything.
        """
        decoder, start = self._decoder, self._decoded
        expected = start + decoder.behind_samples
        if offset is not None and abs(offset - expected) > ROUNDING_SAMPLES:
            here = max(expected, self.position)
            if offset <= here:
                start = offset - decoder.behind_samples
            elif may_jump:
                decoder, start = self._new_decoder(), offset
            else:
                raise ClientError(
                    "bad_audio", f"{offset - here} samples are missing before {offset}; go on at {here}"
                )
        pcm = decoder.feed(data)
        if decoder is not self._decoder:
            self._decoder, self.position = decoder, start
        self._decoded = start
        return self._new(pcm)

    def finish(self) -> Slice:
        """What the decoder still holds at the end of an utterance.

        Raises `AudioError` when all there was of a WAV file is a part of its header.
        """
        return self._new(self._decoder.flush())

    def _new_decoder(self) -> InputDecoder:
        return InputDecoder(self._configuration.input_format.value, self._configuration.input_sample_rate)

    def _new(self, pcm: bytes) -> Slice:
        known = max(0, self.position - self._decoded)
        self._decoded += len(pcm) // SAMPLE_BYTES
        slice_ = Slice(self.position, pcm[known * SAMPLE_BYTES :])
        self.position = max(self.position, self._decoded)
        return slice_
