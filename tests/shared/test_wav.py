"""Heads of WAV files: read whatever the program that wrote them, and written."""

from __future__ import annotations

import io
import struct
import wave

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import AudioError
from shared.wav import Encoding, Header, Kind, to_wav

GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")


def chunk(name: bytes, body: bytes, size: int | None = None) -> bytes:
    return name + struct.pack("<I", len(body) if size is None else size) + body + bytes(len(body) % 2)


def fmt(code: int = 1, channels: int = 1, rate: int = 16000, bits: int = 16) -> bytes:
    block = channels * bits // 8
    return chunk(b"fmt ", struct.pack("<HHIIHH", code, channels, rate, rate * block, block, bits))


def riff(*chunks: bytes, size: int | None = None) -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


def test_what_is_written_is_read_by_others() -> None:
    pcm = np.arange(-400, 400, dtype="<i2").tobytes()
    with wave.open(io.BytesIO(to_wav(pcm, 24000))) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 24000)
        assert file.readframes(10_000) == pcm


def test_what_others_write_is_read() -> None:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(3)
        file.setframerate(44100)
        file.writeframes(bytes(600))
    assert Header.read(buffer.getvalue()) == Header(Encoding(Kind.S24, 44100, 2), 44, 600, 0)


def test_the_samples_are_found_behind_other_chunks_of_odd_length() -> None:
    data = riff(chunk(b"JUNK", bytes(29)), fmt(), chunk(b"LIST", b"abc"), chunk(b"data", b"\1\2\3\4"))
    header = Header.read(data)
    assert header is not None
    assert data[header.start :] == b"\1\2\3\4"
    assert (header.data_bytes, header.after_bytes) == (4, 0)


def test_chunks_behind_the_samples_are_counted() -> None:
    header = Header.read(riff(fmt(), chunk(b"data", bytes(10)), chunk(b"LIST", bytes(20))))
    assert header is not None
    assert (header.data_bytes, header.after_bytes) == (10, 28)


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF - 36, 0x80000000, 0xFFFFFFFF])
def test_a_size_that_its_writer_did_not_know_means_that_the_file_goes_on(size: int) -> None:
    header = Header.read(riff(fmt(), chunk(b"data", b"", size), size=0xFFFFFFFF))
    assert header == Header(Encoding(Kind.S16, 16000), 44, None, 0)


def test_an_extensible_header_names_its_kind_behind() -> None:
    extra = struct.pack("<HHIH", 22, 32, 4, 3) + GUID_TAIL
    body = struct.pack("<HHIIHH", 0xFFFE, 1, 48000, 192000, 4, 32) + extra
    header = Header.read(riff(chunk(b"fmt ", body), chunk(b"data", bytes(8))))
    assert header is not None
    assert header.encoding == Encoding(Kind.F32, 48000)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"RIFX" + bytes(40), "not begin as one"),
        (b"RIFF\0\0\0\0AVI " + bytes(40), "not begin as one"),
        (riff(fmt(code=7, bits=8), chunk(b"data", bytes(8))), "0x0007"),
        (riff(fmt(bits=12), chunk(b"data", bytes(8))), "12 bits"),
        (riff(fmt(channels=0), chunk(b"data", bytes(8))), "0 channels"),
        (riff(fmt(channels=33), chunk(b"data", bytes(8))), "33 channels"),
        (riff(fmt(rate=7999), chunk(b"data", bytes(8))), "7999 Hz"),
        (riff(fmt(rate=192001), chunk(b"data", bytes(8))), "192001 Hz"),
        (riff(chunk(b"fmt ", bytes(14)), chunk(b"data", bytes(8))), "cut short"),
        (riff(chunk(b"data", bytes(8)), fmt()), "before their format"),
        (riff(fmt(), chunk(b"JUNK", bytes(70_000))), "first 65536 bytes"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(data: bytes, why: str) -> None:
    with pytest.raises(AudioError, match=why):
        Header.read(data)


def test_a_header_is_not_there_before_its_last_byte() -> None:
    data = riff(chunk(b"JUNK", bytes(30)), fmt(), chunk(b"data", bytes(8)))
    start = data.index(b"data") + 8
    assert all(Header.read(data[:cut]) is None for cut in range(start))
    assert Header.read(data[:start]) is not None


@given(st.binary(max_size=200), st.integers(0, 60))
def test_garbage_behind_a_good_beginning_is_refused_or_waited_for(garbage: bytes, keep: int) -> None:
    data = riff(fmt(), chunk(b"data", bytes(8)))[:keep] + garbage
    try:
        header = Header.read(data)
    except AudioError:
        return
    assert header is None or 12 < header.start <= len(data)


@pytest.mark.parametrize(
    ("kind", "dtype", "scale", "middle"),
    [
        (Kind.U8, "u1", 128, 128),
        (Kind.S16, "<i2", 2**15, 0),
        (Kind.S32, "<i4", 2**31, 0),
        (Kind.F32, "<f4", 1, 0),
        (Kind.F64, "<f8", 1, 0),
    ],
)
def test_each_kind_has_the_same_scale(kind: Kind, dtype: str, scale: int, middle: int) -> None:
    wanted = np.array([-1, -0.5, 0, 0.25, 0.5, 0.75])
    data = (wanted * scale + middle).astype(dtype).tobytes()
    assert Encoding(kind, 16000).decode(data).tolist() == wanted.tolist()


def test_three_bytes_a_sample_have_the_same_scale() -> None:
    values = [-(2**23), -(2**22), 0, 2**21, 2**22]
    data = b"".join(value.to_bytes(3, "little", signed=True) for value in values)
    assert Encoding(Kind.S24, 16000).decode(data).tolist() == [-1, -0.5, 0, 0.25, 0.5]


def test_channels_are_averaged() -> None:
    data = np.array([[0.5, -0.5, 0.75], [0.25, 0.25, 0.25]], "<f4").tobytes()
    assert Encoding(Kind.F32, 16000, 3).decode(data).tolist() == [0.25, 0.25]
