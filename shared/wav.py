"""The head of a RIFF/WAVE file, read and written, and how the samples behind it are encoded.

Knows nothing of streams: who feeds the bytes, and in what slices, is `shared.audio`'s. Layout and codes are
those of Microsoft's "Multiple channel audio data and WAVE files" (mmreg.h).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Self

import numpy as np
from numpy.typing import NDArray

from shared.errors import AudioError

Samples = NDArray[np.float32]
"""Mono samples, shape (n,), from -1 to `HIGHEST`."""

HIGHEST = np.float32(32767 / 32768)
"""The highest sample that PCM16 has; the lowest is -1."""

LOWEST_RATE, HIGHEST_RATE = 8_000, 192_000
MAX_CHANNELS = 32

MAX_HEADER_BYTES = 64 << 10
"""How far in front of the samples other chunks may reach (tags, fillers of a page or two)."""

ENDLESS_BYTES = 0x7FFF_0000
"""From here on a size was not known when it was written; programs that write to a pipe put
0x7FFFFFFF less the header, 0x80000000, 0xFFFFFFFF, or 0."""

_PCM, _FLOAT, _EXTENSIBLE = 0x0001, 0x0003, 0xFFFE


class Kind(Enum):
    """What the bytes of a sample are, all little-endian."""

    U8 = "u1"
    S16 = "<i2"
    S24 = "s24"
    S32 = "<i4"
    F32 = "<f4"
    F64 = "<f8"

    @property
    def width(self) -> int:
        """Bytes of a sample."""
        return 3 if self is Kind.S24 else np.dtype(self.value).itemsize


_KINDS = {
    (_PCM, 8): Kind.U8, (_PCM, 16): Kind.S16, (_PCM, 24): Kind.S24, (_PCM, 32): Kind.S32,
    (_FLOAT, 32): Kind.F32, (_FLOAT, 64): Kind.F64,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Encoding:
    """How samples stand in bytes: `channels` of `kind` side by side, `rate` times a second."""

    kind: Kind
    rate: int
    channels: int = 1

    def __post_init__(self) -> None:
        if not LOWEST_RATE <= self.rate <= HIGHEST_RATE:
            raise AudioError(
                f"a sample rate of {self.rate} Hz; expected one from {LOWEST_RATE} to {HIGHEST_RATE}"
            )
        if not 1 <= self.channels <= MAX_CHANNELS:
            raise AudioError(f"{self.channels} channels; expected 1 to {MAX_CHANNELS}")

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of every channel."""
        return self.kind.width * self.channels

    def decode(self, data: bytes) -> Samples:
        """Whole sample frames as mono samples, channels averaged, floats beyond full scale clipped.

        Raises `AudioError` for a float that is no number, or infinite.
        """
        samples = _unit(data, self.kind)
        if self.channels > 1:
            samples = samples.reshape(-1, self.channels).mean(axis=1, dtype=np.float32)
        return samples


@dataclass(frozen=True, slots=True)
class Header:
    """What stands in front of the samples. They begin `start` bytes into the file and are `data_bytes` long,
    or go on for ever (`None`); `after_bytes` of other chunks follow them."""

    encoding: Encoding
    start: int
    data_bytes: int | None
    after_bytes: int

    @classmethod
    def read(cls, data: bytes) -> Self | None:
        """The header at the start of a file; `None` while its first samples are not in sight.

        Raises `AudioError` for what is no WAV file, and for encodings other than PCM and float.
        """
        if not looks_like_wav(data):
            raise AudioError("a WAV file was expected, and its bytes do not begin as one")
        encoding = None
        for name, start, size in _chunks(data):
            if name == b"fmt ":
                if len(data) < start + min(size, 40):
                    return None
                encoding = _encoding(data[start : start + min(size, 40)])
            elif name == b"data":
                if encoding is None:
                    raise AudioError("a WAV file whose samples come before their format")
                return cls(encoding, start, *_extent(data, start, size))
        if len(data) > MAX_HEADER_BYTES:
            raise AudioError(f"a WAV file without samples in its first {MAX_HEADER_BYTES} bytes")
        return None


def looks_like_wav(data: bytes) -> bool:
    """Whether these bytes begin as a WAV file does, as far as they go."""
    return data[:4] == b"RIFF"[: len(data)] and data[8:12] == b"WAVE"[: max(0, len(data) - 8)]


def to_wav(pcm: bytes, rate: int) -> bytes:
    """A WAV file of PCM16 mono."""
    return (
        struct.pack(
            "<4sI4s4sIHHIIHH4sI",
            b"RIFF", 36 + len(pcm), b"WAVE",
            b"fmt ", 16, _PCM, 1, rate, 2 * rate, 2, 16,
            b"data", len(pcm),
        )
        + pcm
    )  # fmt: skip


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and size of each chunk whose own head is in sight."""
    place = 12
    while place + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, place)
        yield name, place + 8, size
        place += 8 + size + size % 2  # chunks begin at even places


def _encoding(fmt: bytes) -> Encoding:
    if len(fmt) < 16:
        raise AudioError("a WAV file whose format is cut short")
    code, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", fmt)
    if code == _EXTENSIBLE and len(fmt) >= 26:
        (code,) = struct.unpack_from("<H", fmt, 24)  # the first two bytes of the sub-format's GUID
    kind = _KINDS.get((code, bits))
    if kind is None:
        raise AudioError(f"a WAV file of format {code:#06x} with {bits} bits; expected PCM or float")
    return Encoding(kind, rate, channels)


def _extent(data: bytes, start: int, size: int) -> tuple[int | None, int]:
    if size == 0 or size >= ENDLESS_BYTES:
        return None, 0
    (riff_bytes,) = struct.unpack_from("<I", data, 4)
    after = 8 + riff_bytes - start - size
    return size, after if 0 < after < ENDLESS_BYTES else 0


def _unit(data: bytes, kind: Kind) -> Samples:
    match kind:
        case Kind.U8:
            return np.frombuffer(data, np.uint8).astype(np.float32) * np.float32(1 / 128) - np.float32(1)
        case Kind.S16:
            return np.frombuffer(data, "<i2").astype(np.float32) * np.float32(1 / 2**15)
        case Kind.S24:
            wide = np.zeros((len(data) // 3, 4), np.uint8)
            wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
            return _from_32_bits(wide.view("<i4").ravel())
        case Kind.S32:
            return _from_32_bits(np.frombuffer(data, "<i4"))
        case Kind.F32 | Kind.F64:
            return _bounded(np.frombuffer(data, kind.value))


def _from_32_bits(values: NDArray[np.int32]) -> Samples:
    samples: Samples = values.astype(np.float32) * np.float32(1 / 2**31)
    return np.minimum(samples, HIGHEST, out=samples)


def _bounded(values: NDArray[np.floating]) -> Samples:
    peak = np.abs(values).max(initial=0)
    if not peak <= HIGHEST:
        if not np.isfinite(peak):  # a single NaN makes the peak one
            raise AudioError("samples that are not a number, or infinite")
        values = np.clip(values, -1, HIGHEST)
    samples: Samples = values.astype(np.float32, copy=False)
    return samples
