from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.configuration import Configuration
from edge.intake import Intake, Slice
from edge.protocols.native import InputFormat
from shared.audio import to_wav
from shared.errors import AudioError, ClientError

PCM16 = Configuration(input_format=InputFormat.PCM16)


def pcm(start: int, samples: int) -> bytes:
    """Samples that say where they lie."""
    return (np.arange(start, start + samples) % 30_000).astype("<i2").tobytes()


def joined(slices: Iterable[Slice]) -> bytes:
    return b"".join(each.pcm for each in slices)


def started(configuration: Configuration = PCM16, position: int = 0) -> Intake:
    intake = Intake(position)
    intake.start(configuration)
    return intake


def test_slices_are_put_one_after_the_other() -> None:
    intake = started()
    assert intake.take(pcm(0, 320), None, may_jump=True) == Slice(0, pcm(0, 320))
    assert intake.take(pcm(320, 320), None, may_jump=False) == Slice(320, pcm(320, 320))
    assert intake.finish() == Slice(640, b"")
    assert intake.position == 640


def test_places_go_on_counting_over_utterances() -> None:
    intake = started()
    intake.take(pcm(0, 100), None, may_jump=True)
    intake.finish()
    intake.start(PCM16)
    assert intake.take(pcm(0, 100), None, may_jump=True) == Slice(100, pcm(0, 100))


def test_floats_and_other_rates_come_out_as_the_same_length_of_sound() -> None:
    intake = started(Configuration(input_sample_rate=48_000))
    sound = np.sin(np.arange(48_000) * 2 * np.pi * 440 / 48_000).astype("<f4")
    slices: list[Slice] = []
    for start in range(0, 48_000, 960):
        slices.append(intake.take(sound[start : start + 960].tobytes(), None, may_jump=start == 0))
    slices.append(intake.finish())
    assert len(joined(slices)) == 32_000
    assert intake.position == 16_000


def test_a_wav_header_is_obeyed_whatever_the_format_says() -> None:
    intake = started(Configuration(input_sample_rate=44_100))
    assert intake.take(to_wav(pcm(0, 1600), 16_000), None, may_jump=True).pcm == pcm(0, 1600)


@pytest.mark.parametrize("data", [b"\0", b"\0\0\0"])
@pytest.mark.parametrize("offset", [None, 0, 700])
def test_bytes_that_are_no_audio_are_refused_and_change_nothing(data: bytes, offset: int | None) -> None:
    intake = started()
    with pytest.raises(AudioError):
        intake.take(data, offset, may_jump=True)
    assert intake.position == 0
    assert intake.take(pcm(0, 10), None, may_jump=True) == Slice(0, pcm(0, 10))


def test_a_slice_that_is_here_already_adds_nothing() -> None:
    intake = started()
    intake.take(pcm(0, 1000), 0, may_jump=True)
    assert intake.take(pcm(200, 300), 200, may_jump=False).pcm == b""
    assert intake.position == 1000


def test_of_a_slice_that_overlaps_only_the_new_part_is_taken() -> None:
    intake = started()
    intake.take(pcm(0, 1000), 0, may_jump=True)
    assert intake.take(pcm(800, 400), 800, may_jump=False) == Slice(1000, pcm(1000, 200))


def test_a_gap_inside_an_utterance_is_refused_and_says_where_to_go_on() -> None:
    intake = started()
    intake.take(pcm(0, 1000), 0, may_jump=True)
    with pytest.raises(ClientError, match="go on at 1000") as refused:
        intake.take(pcm(1200, 100), 1200, may_jump=False)
    assert refused.value.code == "bad_audio"
    assert intake.take(pcm(1000, 100), 1000, may_jump=False) == Slice(1000, pcm(1000, 100))


def test_between_utterances_places_may_jump_ahead() -> None:
    intake = started()
    intake.take(pcm(0, 1000), 0, may_jump=True)
    intake.finish()
    intake.start(PCM16)
    assert intake.take(pcm(5000, 100), 5000, may_jump=True) == Slice(5000, pcm(5000, 100))
    assert intake.position == 5100


def test_what_was_still_in_the_decoder_before_a_jump_does_not_come_out_behind_it() -> None:
    intake = started(Configuration(input_format=InputFormat.PCM16, input_sample_rate=48_000))
    loud, silent = pcm(0, 4800), bytes(9600)
    intake.take(loud, 0, may_jump=True)
    after = intake.take(silent, 8000, may_jump=True)
    assert after.place == 8000
    assert not any(after.pcm)
    rest = intake.finish()
    assert rest.place + len(rest.pcm) // 2 == intake.position == 8000 + 1600


def test_an_utterance_that_stands_in_the_log_already_adds_nothing_when_it_is_sent_again() -> None:
    intake = started(position=1000)
    assert intake.take(pcm(0, 1000), 0, may_jump=True).pcm == b""
    assert intake.position == 1000


def test_an_utterance_goes_on_in_another_session() -> None:
    intake = started(position=3000)
    assert intake.take(pcm(2900, 150), 2900, may_jump=False) == Slice(3000, pcm(3000, 50))
    assert intake.take(pcm(3050, 100), 3050, may_jump=False) == Slice(3050, pcm(3050, 100))


@given(
    data=st.data(),
    cuts=st.lists(st.integers(0, 4000), max_size=12),
    rate=st.sampled_from([16_000, 48_000, 24_000]),
    may_jump=st.booleans(),
)
def test_no_sample_is_lost_or_doubled_however_often_the_client_sends_it(
    data: st.DataObject, cuts: list[int], rate: int, may_jump: bool
) -> None:
    """Sessions end anywhere; each next one is sent the rest from where the log stands, or from before."""
    factor = rate // 16_000 if rate % 16_000 == 0 else 1.5
    configuration = Configuration(input_format=InputFormat.PCM16, input_sample_rate=rate)
    total = 4000
    sound = pcm(0, int(total * factor))
    intake = started(configuration)
    slices: list[Slice] = []
    for cut in [*cuts, total]:
        back = data.draw(st.integers(0, intake.position))
        start = intake.position - back
        if cut <= start:
            continue
        piece = sound[int(start * factor) * 2 : int(cut * factor) * 2]
        slices.append(intake.take(piece, start, may_jump=may_jump))
        if data.draw(st.booleans()):
            intake = started(configuration, intake.position)
    rest = sound[int(intake.position * factor) * 2 :]
    if rest:
        slices.append(intake.take(rest, intake.position, may_jump=may_jump))
    slices.append(intake.finish())
    end = 0
    for each in slices:
        assert each.place == end
        end += len(each.pcm) // 2
    assert abs(end - total) <= 2
