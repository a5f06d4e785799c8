"""Audio of clients, decoded: every format, however it is sliced; rates, rests and what is no audio."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.audio import (
    INPUT_RATE,
    MAX_DELAY_MS,
    OUTPUT_RATE,
    InputDecoder,
    Resampler,
    duration_ms,
    to_wav,
)
from shared.errors import AudioError
from tests.shared.test_wav import chunk, fmt, riff

RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000, 192_000)

FLOATS = st.floats(-1, 1, width=32, allow_subnormal=False)


def tone(rate: int, seconds: float = 0.5, pitch_hz: float = 440.0) -> NDArray[np.float32]:
    return (0.5 * np.sin(2 * np.pi * pitch_hz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def pcm_of(samples: NDArray[np.float32]) -> bytes:
    return np.rint(samples * 32768).astype("<i2").tobytes()


def samples_of(pcm: bytes) -> NDArray[np.float64]:
    return np.frombuffer(pcm, "<i2") / 32768


def noise(count: int, seed: int = 7) -> bytes:
    return np.random.default_rng(seed).integers(-20_000, 20_000, count).astype("<i2").tobytes()


def slices(data: bytes, cuts: Sequence[int], grain: int) -> list[bytes]:
    places = [0, *sorted({cut % (len(data) // grain) for cut in cuts}), len(data) // grain]
    pieces = [data[a * grain : b * grain] for a, b in pairwise(places)]
    return [piece for piece in pieces if piece]


def decode(decoder: InputDecoder, pieces: Sequence[bytes]) -> bytes:
    return b"".join(map(decoder.feed, pieces)) + decoder.flush()


def test_the_log_s_own_format_passes_as_it_is() -> None:
    data = noise(320)
    decoder = InputDecoder("pcm16", INPUT_RATE)
    assert decoder.feed(data) is data
    assert decoder.flush() == b""


@given(st.lists(FLOATS, min_size=1, max_size=300))
def test_floats_become_the_nearest_pcm(values: list[float]) -> None:
    pcm = InputDecoder("f32le", INPUT_RATE).feed(np.array(values, "<f4").tobytes())
    assert np.abs(samples_of(pcm) - values).max() <= 1 / 32768


def test_pcm_through_floats_comes_back_as_it_was() -> None:
    every = np.arange(-32768, 32768).astype("<i2")
    floats = (every / 32768).astype("<f4").tobytes()
    assert InputDecoder("f32le", INPUT_RATE).feed(floats) == every.tobytes()


def test_floats_beyond_full_scale_are_clipped() -> None:
    loud = np.array([1.0, 1.5, 3e38, -1.0, -1.5, -3e38], "<f4").tobytes()
    pcm = np.frombuffer(InputDecoder("f32le", INPUT_RATE).feed(loud), "<i2")
    assert pcm.tolist() == [32767, 32767, 32767, -32768, -32768, -32768]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("among", [0.0, 5.0])
def test_a_float_that_is_no_number_is_refused_and_the_next_slice_is_good(bad: float, among: float) -> None:
    decoder = InputDecoder("f32le", INPUT_RATE)
    with pytest.raises(AudioError, match="not a number"):
        decoder.feed(np.array([among, bad, among], "<f4").tobytes())
    assert len(decoder.feed(tone(INPUT_RATE).tobytes())) == INPUT_RATE


@pytest.mark.parametrize(
    ("format", "data", "why"),
    [
        ("pcm16", b"", "no bytes"),
        ("f32le", b"", "no bytes"),
        ("wav", b"", "no bytes"),
        ("pcm16", b"\0", "1 bytes"),
        ("pcm16", bytes(641), "641 bytes"),
        ("f32le", bytes(6), "6 bytes"),
        ("wav", bytes(640), "WAV file was expected"),
        ("pcm16", riff(fmt(code=6, bits=8), chunk(b"data", bytes(8))), "0x0006"),
    ],
)
def test_bytes_that_are_no_audio_are_refused_with_the_reason(format: str, data: bytes, why: str) -> None:
    decoder = InputDecoder(format, INPUT_RATE)
    with pytest.raises(AudioError, match=why):
        decoder.feed(data)
    assert decoder.feed(to_wav(b"\1\2\3\4", INPUT_RATE)) == b"\1\2\3\4"


@pytest.mark.parametrize(
    ("format", "rate"), [("mp3", 16000), ("pcm16", 7999), ("f32le", 192_001), ("f32le", 0), ("pcm16", -1)]
)
def test_an_unknown_format_or_an_absurd_rate_is_refused(format: str, rate: int) -> None:
    with pytest.raises(AudioError, match=format if format == "mp3" else f"{rate} Hz"):
        InputDecoder(format, rate)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("format", ["pcm16", "f32le"])
def test_every_rate_gives_the_same_tone_at_16_khz(format: str, rate: int) -> None:
    heard = tone(rate)
    data = heard.tobytes() if format == "f32le" else pcm_of(heard)
    got = samples_of(decode(InputDecoder(format, rate), [data]))
    wanted = tone(INPUT_RATE)
    assert abs(len(got) - len(wanted)) <= 1
    inside = slice(800, min(len(got), len(wanted)) - 800)  # without the ends, where the filter rings
    assert np.abs(got[inside] - wanted[inside]).max() < 1e-3


@given(rate=st.sampled_from(RATES), cuts=st.lists(st.integers(0, 10_000), max_size=12))
def test_how_raw_input_is_sliced_makes_no_difference(rate: int, cuts: list[int]) -> None:
    data = noise(9_000)
    whole = decode(InputDecoder("pcm16", rate), [data])
    assert decode(InputDecoder("pcm16", rate), slices(data, cuts, 2)) == whole


WAVS = (
    to_wav(noise(500), INPUT_RATE),
    to_wav(noise(3_000), 44_100),
    riff(
        chunk(b"FLLR", bytes(501)),
        fmt(bits=24, channels=2),
        chunk(b"data", noise(1500)),
        chunk(b"LIST", bytes(33)),
    ),
    riff(fmt(bits=8, rate=8000), chunk(b"data", noise(600)[:-1])),
    riff(fmt(3, 1, 48_000, 32), chunk(b"data", tone(48_000, 0.05).tobytes())),
    riff(fmt(), chunk(b"data", noise(400), 0), size=0),
    riff(fmt(), chunk(b"data", noise(400), 0xFFFFFFFF), size=0xFFFFFFFF),
)


@given(
    data=st.sampled_from(WAVS),
    format=st.sampled_from(["wav", "pcm16", "f32le"]),
    cuts=st.lists(st.integers(12, 10_000), max_size=12),
)
def test_how_a_wav_file_is_sliced_makes_no_difference(data: bytes, format: str, cuts: list[int]) -> None:
    whole = decode(InputDecoder(format, 32_000), [data])
    pieces = slices(data, [12 + cut % (len(data) - 12) for cut in cuts], 1)
    assert len(whole) > 500
    assert decode(InputDecoder(format, 32_000), pieces) == whole


def test_a_wav_file_may_come_byte_by_byte_where_it_is_due() -> None:
    pcm = noise(100)
    data = to_wav(pcm, INPUT_RATE)
    assert decode(InputDecoder("wav", INPUT_RATE), [data[i : i + 1] for i in range(len(data))]) == pcm


def test_a_wav_file_is_obeyed_whatever_the_format_says() -> None:
    pcm = noise(1000)
    assert decode(InputDecoder("f32le", 48_000), [to_wav(pcm, INPUT_RATE)]) == pcm


def test_chunks_behind_the_samples_are_not_heard() -> None:
    pcm = noise(1000)
    data = riff(fmt(), chunk(b"data", pcm), chunk(b"LIST", b"made by nobody"), chunk(b"id3 ", bytes(99)))
    for cut in range(len(pcm), len(data), 7):
        assert decode(InputDecoder("wav", INPUT_RATE), [data[:cut], data[cut:]]) == pcm


def test_padding_that_the_size_of_the_file_leaves_out_is_not_heard() -> None:
    data = riff(fmt(bits=8), chunk(b"data", bytes([128] * 99)), size=4 + 24 + 8 + 99)
    decoder = InputDecoder("pcm16", INPUT_RATE)
    assert decoder.feed(data) == bytes(198)
    assert decoder.feed(b"\1\2") == b"\1\2"


def test_a_file_that_is_longer_than_it_is_said_to_be_ends_where_it_says() -> None:
    pcm = noise(100)
    assert decode(InputDecoder("pcm16", INPUT_RATE), [to_wav(pcm, INPUT_RATE) + noise(50)]) == pcm


def test_a_file_that_is_cut_short_gives_what_there_is_of_it() -> None:
    pcm = noise(100)
    assert decode(InputDecoder("wav", INPUT_RATE), [to_wav(pcm, INPUT_RATE)[:-51]]) == pcm[:-52]


def test_a_file_without_samples_gives_none() -> None:
    assert decode(InputDecoder("wav", INPUT_RATE), [to_wav(b"", INPUT_RATE)]) == b""


def test_a_header_that_never_ends_is_refused_at_the_end_and_forgotten() -> None:
    decoder = InputDecoder("wav", INPUT_RATE)
    assert decoder.feed(to_wav(b"", INPUT_RATE)[:30]) == b""
    with pytest.raises(AudioError, match="in the middle of its header"):
        decoder.flush()
    assert decoder.flush() == b""
    assert decoder.feed(to_wav(b"\1\2", INPUT_RATE)) == b"\1\2"


def test_sound_that_begins_like_a_file_but_is_none_is_sound() -> None:
    data = b"RIFF" + noise(100)
    assert InputDecoder("pcm16", INPUT_RATE).feed(data) == data
    assert InputDecoder("pcm16", INPUT_RATE).feed(b"RIFF") == b"RIFF"


def test_each_slice_may_be_a_file_of_its_own() -> None:
    pcm = noise(3_000)
    files = [to_wav(piece, 48_000) for piece in slices(pcm, range(0, 3_000, 400), 2)]
    assert decode(InputDecoder("wav", 16_000), files) == decode(InputDecoder("pcm16", 48_000), [pcm])


def test_after_a_file_the_configured_format_holds_again() -> None:
    decoder = InputDecoder("f32le", INPUT_RATE)
    assert decoder.feed(to_wav(b"\1\2", INPUT_RATE)) == b"\1\2"
    assert decoder.feed(np.array([0.5], "<f4").tobytes()) == np.array([16384], "<i2").tobytes()
    decoder = InputDecoder("wav", INPUT_RATE)
    assert decoder.feed(to_wav(b"\1\2", INPUT_RATE)) == b"\1\2"
    with pytest.raises(AudioError, match="WAV file was expected"):
        decoder.feed(bytes(640))


def test_another_rate_first_gives_the_rest_of_the_one_before() -> None:
    first, second, third = noise(3_000, 1), noise(4_000, 2), noise(500, 3)
    files = [to_wav(first, 48_000), to_wav(second, 44_100), to_wav(third, INPUT_RATE)]
    alone = [decode(InputDecoder("wav", INPUT_RATE), [file]) for file in files]
    decoder = InputDecoder("wav", INPUT_RATE)
    assert [len(decoder.feed(file)) for file in files][-1] > len(third)
    assert decoder.flush() == b""
    assert decode(decoder, files) == b"".join(alone)


@pytest.mark.parametrize("rate", RATES)
def test_what_is_behind_is_bounded_and_told(rate: int) -> None:
    decoder = InputDecoder("pcm16", rate)
    piece, fed, out, most = bytes(2 * (rate // 50)), 0, 0, 0
    for _ in range(50):
        out += len(decoder.feed(piece)) // 2
        fed += rate // 50
        assert decoder.behind_samples == round(fed * INPUT_RATE / rate) - out
        most = max(most, decoder.behind_samples)
    assert most <= MAX_DELAY_MS * INPUT_RATE / 1000
    behind = decoder.behind_samples
    assert abs(len(decoder.flush()) // 2 - behind) <= 1
    assert decoder.behind_samples == 0


@pytest.mark.parametrize(("rate_in", "rate_out"), [(22_050, OUTPUT_RATE), (44_100, 16_000), (8_000, 16_000)])
def test_a_flushed_resampler_is_as_new(rate_in: int, rate_out: int) -> None:
    used, pcm = Resampler(rate_in, rate_out), noise(5_000)
    first = used.feed(pcm) + used.flush()
    assert used.feed(pcm) + used.flush() == first
    assert used.flush() == b""


def test_half_a_sample_cannot_be_resampled() -> None:
    with pytest.raises(AudioError, match="3 bytes"):
        Resampler(22_050, 24_000).feed(b"\1\2\3")


def test_a_square_wave_at_full_scale_does_not_wrap_around() -> None:
    square = np.where(np.arange(4_800) // 48 % 2, 32767, -32768).astype("<i2")
    resampler = Resampler(48_000, 16_000)
    got = np.frombuffer(resampler.feed(square.tobytes()) + resampler.flush(), "<i2").astype(int)
    ideal = np.where(np.arange(1_600) // 16 % 2, 32767, -32768)
    middle = np.arange(1_600) % 16 == 8
    assert np.abs(got - ideal)[middle].max() < 4_000


def test_durations_follow_from_bytes() -> None:
    assert duration_ms(bytes(4800), OUTPUT_RATE) == 100.0
    assert duration_ms(b"", INPUT_RATE) == 0.0
