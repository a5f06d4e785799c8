from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.configuration import Configuration
from edge.intake import PIECE_BYTES, Intake
from edge.protocols.native import InputFormat
from shared.audio import to_wav
from shared.errors import AudioError, ClientError
from shared.wire import Chunk

PCM16 = Configuration(input_format=InputFormat.PCM16)


def pcm(start: int, samples: int) -> bytes:
    """Samples that say where they lie."""
    return (np.arange(start, start + samples) % 30_000).astype("<i2").tobytes()


def joined(chunks: Iterable[Chunk]) -> bytes:
    return b"".join(chunk.pcm for chunk in chunks)


def started(configuration: Configuration = PCM16, max_utterance_s: float = 60.0) -> Intake:
    intake = Intake(max_utterance_s)
    intake.start(configuration)
    return intake


def test_slices_are_put_one_after_the_other() -> None:
    intake = started()
    first = intake.take(pcm(0, 320), None, begins=True)
    second = intake.take(pcm(320, 320), None, begins=False)
    assert first + second == [Chunk(0, pcm(0, 320)), Chunk(320, pcm(320, 320))]
    assert intake.finish() == []
    assert intake.position == 640


def test_places_go_on_counting_over_utterances() -> None:
    intake = started()
    intake.take(pcm(0, 100), None, begins=True)
    intake.finish()
    intake.start(PCM16)
    assert intake.take(pcm(0, 100), None, begins=True) == [Chunk(100, pcm(0, 100))]


def test_a_long_slice_becomes_several_entries() -> None:
    intake = started()
    chunks = intake.take(pcm(0, 100_000), None, begins=True)
    assert all(len(chunk.pcm) <= PIECE_BYTES for chunk in chunks)
    assert joined(chunks) == pcm(0, 100_000)
    places = [chunk.offset_samples for chunk in chunks]
    assert places == [i * PIECE_BYTES // 2 for i in range(len(chunks))]


def test_floats_and_other_rates_come_out_as_the_same_length_of_sound() -> None:
    intake = started(Configuration(input_sample_rate=48_000))
    sound = np.sin(np.arange(48_000) * 2 * np.pi * 440 / 48_000).astype("<f4")
    chunks: list[Chunk] = []
    for start in range(0, 48_000, 960):
        chunks += intake.take(sound[start : start + 960].tobytes(), None, begins=start == 0)
    chunks += intake.finish()
    assert len(joined(chunks)) == 32_000
    assert intake.position == 16_000


def test_a_wav_header_is_obeyed_whatever_the_format_says() -> None:
    intake = started(Configuration(input_sample_rate=44_100))
    chunks = intake.take(to_wav(pcm(0, 1600), 16_000), None, begins=True)
    assert joined(chunks) == pcm(0, 1600)


@pytest.mark.parametrize("data", [b"\0", b"\0\0\0"])
def test_bytes_that_are_no_audio_are_refused_and_change_nothing(data: bytes) -> None:
    intake = started()
    with pytest.raises(AudioError):
        intake.take(data, None, begins=True)
    assert intake.position == 0
    assert intake.take(pcm(0, 10), None, begins=True) == [Chunk(0, pcm(0, 10))]


def test_an_utterance_is_full_at_its_longest_and_the_rest_is_passed_over_but_counted() -> None:
    intake = started(max_utterance_s=0.1)
    chunks = intake.take(pcm(0, 2000), None, begins=True)
    assert joined(chunks) == pcm(0, 1600)
    assert intake.full
    assert intake.finish() == []
    assert intake.position == 2000


def test_an_utterance_that_is_not_full_says_so() -> None:
    intake = started(max_utterance_s=0.1)
    intake.take(pcm(0, 1599), None, begins=True)
    assert not intake.full
    intake.take(pcm(1599, 1), None, begins=False)
    assert intake.full


def test_a_slice_that_is_here_already_adds_nothing() -> None:
    intake = started()
    intake.take(pcm(0, 1000), 0, begins=True)
    assert intake.take(pcm(200, 300), 200, begins=False) == []
    assert intake.position == 1000


def test_of_a_slice_that_overlaps_only_the_new_part_is_taken() -> None:
    intake = started()
    intake.take(pcm(0, 1000), 0, begins=True)
    assert intake.take(pcm(800, 400), 800, begins=False) == [Chunk(1000, pcm(1000, 200))]


def test_a_gap_inside_an_utterance_is_refused_and_says_where_to_go_on() -> None:
    intake = started()
    intake.take(pcm(0, 1000), 0, begins=True)
    with pytest.raises(ClientError, match="go on at 1000") as refused:
        intake.take(pcm(1200, 100), 1200, begins=False)
    assert refused.value.code == "bad_audio"
    assert intake.take(pcm(1000, 100), 1000, begins=False) == [Chunk(1000, pcm(1000, 100))]


def test_between_utterances_places_may_jump_ahead() -> None:
    intake = started()
    intake.take(pcm(0, 1000), 0, begins=True)
    intake.finish()
    intake.start(PCM16)
    assert intake.take(pcm(5000, 100), 5000, begins=True) == [Chunk(5000, pcm(5000, 100))]


def test_an_utterance_that_stands_in_the_log_already_adds_nothing_when_it_is_sent_again() -> None:
    intake = Intake(60.0, position=1000)
    intake.start(PCM16)
    assert intake.take(pcm(0, 1000), 0, begins=True) == []
    assert intake.position == 1000


def test_an_utterance_goes_on_in_another_session_and_its_length_is_not_forgotten() -> None:
    intake = Intake(0.1, position=3000)
    intake.resume(PCM16, samples=1500)
    assert intake.take(pcm(2900, 150), 2900, begins=False) == [Chunk(3000, pcm(3000, 50))]
    assert intake.take(pcm(3050, 100), 3050, begins=False) == [Chunk(3050, pcm(3050, 50))]
    assert intake.full


@given(
    data=st.data(),
    cuts=st.lists(st.integers(0, 4000), max_size=12),
    rate=st.sampled_from([16_000, 48_000, 24_000]),
)
def test_no_sample_is_lost_or_doubled_however_often_the_client_sends_it(
    data: st.DataObject, cuts: list[int], rate: int
) -> None:
    """Sessions end anywhere; each next one is sent the rest from where the log stands, or from before."""
    factor = rate // 16_000 if rate % 16_000 == 0 else 1.5
    configuration = Configuration(input_format=InputFormat.PCM16, input_sample_rate=rate)
    total = 4000
    sound = pcm(0, int(total * factor))
    intake = started(configuration)
    begins = True
    places: list[tuple[int, int]] = []
    for cut in [*cuts, total]:
        back = data.draw(st.integers(0, intake.position))
        start = intake.position - back
        if cut <= start:
            continue
        piece = sound[int(start * factor) * 2 : int(cut * factor) * 2]
        chunks = intake.take(piece, start, begins=begins)
        places += [(chunk.offset_samples, len(chunk.pcm) // 2) for chunk in chunks]
        begins = False
        if data.draw(st.booleans()):
            position = intake.position
            intake = Intake(60.0, position)
            intake.resume(configuration, position)
    rest = sound[int(intake.position * factor) * 2 :]
    chunks = intake.take(rest, intake.position, begins=begins) if rest else []
    chunks += intake.finish()
    places += [(chunk.offset_samples, len(chunk.pcm) // 2) for chunk in chunks]
    end = 0
    for place, samples in places:
        assert place == end
        end += samples
    assert abs(end - total) <= 2
