from __future__ import annotations

import asyncio
import struct
from pathlib import Path

import pytest

from deploy.cli.recording import Recording, Unusable
from shared.audio import to_wav
from tests.conftest import AUDIO

TONE = struct.pack("<800h", *range(0, 8000, 10))


async def whole(recording: Recording, slice_ms: float = 20) -> list[bytes]:
    return [each async for each in recording.slices(slice_ms)]


async def test_a_recording_is_heard_sample_for_sample_and_as_fast_as_it_was_spoken(tmp_path: Path) -> None:
    path = tmp_path / "question.wav"
    path.write_bytes(to_wav(TONE, 16_000))
    recording = Recording.read(path)
    started = asyncio.get_running_loop().time()
    slices = await whole(recording)
    assert asyncio.get_running_loop().time() - started >= 0.05
    assert [len(each) for each in slices] == [640, 640, 320]
    assert b"".join(slices) == TONE


async def test_a_recording_of_another_rate_is_heard_at_16_khz(tmp_path: Path) -> None:
    path = tmp_path / "question.wav"
    path.write_bytes(to_wav(TONE, 8000))
    recording = Recording.read(path)
    assert recording.rate == 16_000
    assert recording.length_s == pytest.approx(0.1, abs=0.001)


def test_the_real_recording_is_eleven_seconds_long() -> None:
    assert Recording.read(AUDIO / "jfk.wav").length_s == pytest.approx(11.0)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"# a text", "do not begin as one"),
        (b"", "no bytes"),
        (to_wav(TONE, 16_000)[:20], "middle of its header"),
        (to_wav(b"", 16_000), "no sound in it"),
        (to_wav(TONE, 4000), "4000 Hz"),
    ],
)
def test_a_file_that_is_no_recording_is_refused_in_one_line(content: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "question.wav"
    path.write_bytes(content)
    with pytest.raises(Unusable, match=why) as caught:
        Recording.read(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="No such file"):
        Recording.read(tmp_path / "question.wav")
    with pytest.raises(Unusable, match="directory"):
        Recording.read(tmp_path)


def test_a_file_without_an_end_is_not_read_to_it() -> None:
    with pytest.raises(Unusable, match="larger than 256 MiB"):
        Recording.read(Path("/dev/zero"))
