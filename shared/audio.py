"""The sound itself: bytes of a client into PCM16 at 16 kHz, and from one sample rate to another.

Owns rates, formats and what a decoder has to carry from one slice to the next. Knows nothing of turns,
utterances or who sends what. PCM16 is signed, little-endian and mono everywhere.
"""

from __future__ import annotations

import numpy as np
import soxr

from shared.errors import AudioError
from shared.wav import HIGHEST, Encoding, Header, Kind, Samples, looks_like_wav, to_wav

__all__ = [
    "FRAME_MS",
    "FRAME_SAMPLES",
    "INPUT_RATE",
    "MAX_DELAY_MS",
    "OUTPUT_RATE",
    "SAMPLE_BYTES",
    "InputDecoder",
    "Resampler",
    "duration_ms",
    "to_wav",
]

INPUT_RATE = 16_000
"""What speech models hear, in samples a second."""

OUTPUT_RATE = 24_000
"""What voices speak, in samples a second."""

FRAME_MS = 100
FRAME_SAMPLES = OUTPUT_RATE * FRAME_MS // 1000
SAMPLE_BYTES = 2

MAX_DELAY_MS = 120.0
"""How far the output of a resampler may lie behind its input: 118 ms from 8 kHz, 41 from 44.1 and 48."""

_RAW_KINDS = {"f32le": Kind.F32, "pcm16": Kind.S16}


class InputDecoder:
    """The audio of a client, slice by slice, as PCM16 mono at 16 kHz.

    `format` is `f32le`, `pcm16` or `wav`; `sample_rate` (Hz) holds for the first two. A slice that begins
    with the header of a WAV file starts that file, whatever `format` says; the file may go on over the next
    slices, cut anywhere, and what stands in it behind its samples is passed over. After it, `format` holds
    again. Raises `AudioError` for an unknown format or rate.
    """

    def __init__(self, format: str, sample_rate: int) -> None:
        raw = None if format == "wav" else _RAW_KINDS.get(format)
        if raw is None and format != "wav":
            raise AudioError(f"input format {format!r}; expected f32le, pcm16 or wav")
        self._raw = None if raw is None else Encoding(raw, sample_rate)
        self._as_it_is = self._raw == Encoding(Kind.S16, INPUT_RATE)
        self._head = b""
        self._file: _File | None = None
        self._resampler: Resampler | None = None

    @property
    def behind_samples(self) -> int:
        """How much of what was fed is not out yet, in samples at 16 kHz: `flush` returns as much."""
        return 0 if self._resampler is None else self._resampler.behind_samples

    def feed(self, data: bytes) -> bytes:
        """What a slice adds: PCM16 mono 16 kHz, less what the resampler still holds back.

        Raises `AudioError` for bytes that are no audio, or none at all; the next slice is read as if the bad
        one had not been there.
        """
        if not data:
            raise AudioError("no bytes of audio")
        if self._head or (data[:1] == b"R" and self._begins_file(data)):
            return self._begin_file(self._head + data)
        if self._file is not None:
            return self._go_on(self._file, data)
        if self._raw is None:
            raise AudioError("a WAV file was expected, and its bytes do not begin as one")
        if len(data) % self._raw.frame_bytes:
            raise AudioError(
                f"{len(data)} bytes, which are no whole number of {self._raw.frame_bytes}-byte samples"
            )
        return data if self._as_it_is and self._resampler is None else self._convert(self._raw, data)

    def flush(self) -> bytes:
        """The rest, at the end of an utterance; the decoder is then as new.

        Raises `AudioError` when all there was of a WAV file is a part of its header.
        """
        rest = b"" if self._resampler is None else self._resampler.flush()
        cut_short, self._head, self._file, self._resampler = bool(self._head), b"", None, None
        if cut_short:
            raise AudioError("a WAV file that ends in the middle of its header")
        return rest

    def _begins_file(self, data: bytes) -> bool:
        # A few bytes may be sound by chance, twelve are not: fewer are a file only where one is due.
        return looks_like_wav(data) and (len(data) >= 12 or (self._raw is None and self._file is None))

    def _begin_file(self, data: bytes) -> bytes:
        self._head = b""
        header = Header.read(data)
        if header is None:
            self._head = data
            return b""
        self._file = _File(header)
        return self._go_on(self._file, data[header.start :])

    def _go_on(self, file: _File, data: bytes) -> bytes:
        pcm = self._convert(file.encoding, file.take(data))
        if file.over:
            self._file = None
        return pcm

    def _convert(self, encoding: Encoding, data: bytes) -> bytes:
        """Whole sample frames as PCM16 at 16 kHz; first what is left of another rate before."""
        samples = None if encoding.kind is Kind.S16 and encoding.channels == 1 else encoding.decode(data)
        before = b""
        if self._resampler is not None and self._resampler.rate_in != encoding.rate:
            before, self._resampler = self._resampler.flush(), None
        if encoding.rate == INPUT_RATE:
            return before + (data if samples is None else _to_pcm16(samples))
        if self._resampler is None:
            self._resampler = Resampler(encoding.rate, INPUT_RATE)
        return before + self._resampler.convert(_from_pcm16(data) if samples is None else samples)


class _File:
    """The part of a WAV file that is still to come."""

    def __init__(self, header: Header) -> None:
        self.encoding = header.encoding
        self._left = header.data_bytes
        self._after = header.after_bytes
        self._carry = b""

    @property
    def over(self) -> bool:
        """Whether all of the file has been taken."""
        return self._left == 0 and self._after == 0

    def take(self, data: bytes) -> bytes:
        """The whole sample frames that a slice completes."""
        if self._left is not None:
            mine = data[: self._left]
            self._left -= len(mine)
            if self._left == 0:
                # Padding that the file's size leaves out ends with the slice; more than that is counted.
                self._after = max(0, self._after - (len(data) - len(mine)))
            data = mine
        data = self._carry + data
        whole = len(data) - len(data) % self.encoding.frame_bytes
        self._carry = data[whole:]
        return data[:whole]


class Resampler:
    """PCM16 mono from one sample rate (Hz) to another, slice by slice; how it is sliced makes no difference.

    libsoxr's medium quality: flat to 0.93 of the lower band edge, 110 dB below it beyond. Its low quality
    lags half as far but is down by 13 dB at 7 kHz, which is lost to a speech model; nothing waits for the
    lag, for `flush` returns the rest when an utterance ends.
    """

    def __init__(self, rate_in: int, rate_out: int) -> None:
        self.rate_in = rate_in
        self.rate_out = rate_out
        # float32, because libsoxr dithers integers, and so never gives the same twice.
        self._stream = soxr.ResampleStream(rate_in, rate_out, 1, dtype="float32", quality="MQ")
        self._fed = 0
        self._out = 0

    @property
    def behind_samples(self) -> int:
        """How much of what was fed is not out yet, in samples at `rate_out`."""
        return round(self._fed * self.rate_out / self.rate_in) - self._out

    def feed(self, pcm16: bytes) -> bytes:
        """What a slice adds. Raises `AudioError` for half a sample."""
        if len(pcm16) % SAMPLE_BYTES:
            raise AudioError(f"{len(pcm16)} bytes, which are no whole number of PCM16 samples")
        return self.convert(_from_pcm16(pcm16))

    def convert(self, samples: Samples) -> bytes:
        """What a slice adds, given as floats."""
        converted: Samples = self._stream.resample_chunk(samples)
        self._fed += len(samples)
        self._out += len(converted)
        return _clipped(converted)

    def flush(self) -> bytes:
        """What it still holds; it is then as new."""
        rest: Samples = self._stream.resample_chunk(np.zeros(0, np.float32), last=True)
        self._stream.clear()
        self._fed = self._out = 0
        return _clipped(rest)


def duration_ms(pcm16: bytes, rate: int) -> float:
    """How long PCM16 mono lasts at `rate` samples a second."""
    return len(pcm16) / SAMPLE_BYTES * 1000 / rate


def _clipped(samples: Samples) -> bytes:
    # A filter rings: beside a step at full scale it goes beyond.
    return _to_pcm16(np.clip(samples, np.float32(-1), HIGHEST))


def _from_pcm16(pcm16: bytes) -> Samples:
    return np.frombuffer(pcm16, "<i2").astype(np.float32) * np.float32(1 / 32768)


def _to_pcm16(samples: Samples) -> bytes:
    scaled: Samples = samples * np.float32(32768)
    return np.rint(scaled, out=scaled).astype("<i2").tobytes()
