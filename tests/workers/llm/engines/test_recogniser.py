"""The decoder, and where a voice begins."""

from __future__ import annotations

import asyncio
import random
from array import array
from pathlib import Path

import pocketsphinx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import EngineError
from workers.llm.engines.recogniser import SAMPLE_RATE, SECOND_BYTES, Onset, Recogniser


def noise(seconds: float, loudness: float = 30) -> bytes:
    chance = random.Random(1)
    return array("h", (int(chance.gauss(0, loudness)) for _ in range(int(seconds * SAMPLE_RATE)))).tobytes()


def hear(recogniser: Recogniser, pcm: bytes, piece_bytes: int = SECOND_BYTES // 10) -> list[str]:
    recogniser.begin(recogniser.mean_of(pcm))
    for begin in range(0, len(pcm), piece_bytes):
        recogniser.hear(pcm[begin : begin + piece_bytes])
    return recogniser.finish()


def test_words_are_recognised(recogniser: Recogniser, fellow: bytes) -> None:
    assert "fellow" in hear(recogniser, fellow)


@pytest.mark.parametrize("piece_bytes", [320, 7_000, 10 * SECOND_BYTES])
def test_the_words_do_not_depend_on_the_pieces(
    recogniser: Recogniser, fellow: bytes, piece_bytes: int
) -> None:
    assert hear(recogniser, fellow, piece_bytes) == hear(recogniser, fellow)


def test_the_words_do_not_depend_on_what_was_heard_before(recogniser: Recogniser, fellow: bytes) -> None:
    first = hear(recogniser, fellow)
    hear(recogniser, noise(1.0, loudness=900))
    assert hear(recogniser, fellow) == first


def test_an_unfinished_utterance_is_forgotten(recogniser: Recogniser, fellow: bytes) -> None:
    whole = hear(recogniser, fellow)
    recogniser.begin(recogniser.mean_of(fellow))
    recogniser.hear(fellow[: SECOND_BYTES // 2])
    assert hear(recogniser, fellow) == whole


def test_an_utterance_without_audio_has_no_words(recogniser: Recogniser) -> None:
    recogniser.begin(recogniser.mean_of(b""))
    assert recogniser.finish() == []


async def test_the_loop_runs_on_while_a_thread_decodes(recogniser: Recogniser, fellow: bytes) -> None:
    # The wheel's own binding would hold the interpreter for all of it.
    recogniser.begin(recogniser.mean_of(fellow))
    decoding = asyncio.create_task(asyncio.to_thread(recogniser.hear, fellow))
    rounds = 0
    while not decoding.done():
        await asyncio.sleep(0.001)
        rounds += 1
    recogniser.finish()
    assert rounds > 20


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str], fellow: bytes) -> None:
    hear(Recogniser(), fellow)
    assert capfd.readouterr() == ("", "")


def test_a_missing_model_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pocketsphinx, "get_model_path", lambda name: str(tmp_path / name))
    with pytest.raises(EngineError, match=str(tmp_path)):
        Recogniser()
    assert capfd.readouterr() == ("", "")


def onset_of(pcm: bytes, sizes: list[int]) -> tuple[Onset, bytes]:
    onset, passed, begin = Onset(), b"", 0
    while begin < len(pcm):
        size = sizes[begin % len(sizes)]
        passed += onset.feed(pcm[begin : begin + size])
        begin += size
    return onset, passed


@pytest.mark.parametrize("pcm", [b"", bytes(3 * SECOND_BYTES), noise(3), noise(3, 300)])
def test_nothing_passes_where_there_is_no_voice(pcm: bytes) -> None:
    onset, passed = onset_of(pcm, [3200])
    assert (onset.found, passed) == (False, b"")


@pytest.mark.parametrize("before", [b"", bytes(2 * SECOND_BYTES), noise(2), noise(2, 300)])
def test_a_voice_passes_whole_and_what_is_before_it_does_not(before: bytes, fellow: bytes) -> None:
    onset, passed = onset_of(before + fellow, [3200])
    assert onset.found
    assert (before + fellow).endswith(passed)
    # Frames of the detector need not begin where the voice does.
    assert 0 <= len(passed) - len(fellow) + SECOND_BYTES // 4 <= SECOND_BYTES // 2


@given(sizes=st.lists(st.integers(1, 9_000).map(lambda samples: 2 * samples), min_size=1, max_size=5))
def test_where_a_voice_begins_does_not_depend_on_the_pieces(fellow: bytes, sizes: list[int]) -> None:
    speech = noise(1) + fellow[:SECOND_BYTES]
    assert onset_of(speech, sizes)[1] == onset_of(speech, [3200])[1] != b""
