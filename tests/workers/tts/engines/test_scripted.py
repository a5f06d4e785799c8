"""The scripted voice: when its audio is due, how long it is, and whose it says it is."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import EngineError
from shared.settings import Settings
from workers.tts.engines import SpeechRequest
from workers.tts.engines.scripted import BLOCK, Place, Scripted, expected, hash_of, whose

ASK = SpeechRequest("abc", 3, 2, " I can hear you.")
FRAME_BYTES = 4800


def voice(wait_ms: float = 0.0) -> Scripted:
    return Scripted(Settings(script_tts_ms=wait_ms))


async def timed(engine: Scripted, request: SpeechRequest) -> tuple[bytes, float]:
    """The speech, and when it was there."""
    return await engine.synthesize_speech(request), time.monotonic()


async def test_the_whole_tone_comes_as_one_piece() -> None:
    async with aclosing(voice().synthesize_speech_streaming(ASK)) as pieces:
        assert [piece async for piece in pieces] == [expected("abc", 3, 2, ASK.text, 60.0)]
    assert await voice().synthesize_speech(ASK) == expected("abc", 3, 2, ASK.text, 60.0)


@pytest.mark.parametrize(
    ("text", "speed", "ms"),
    [("a", 1.0, 60), (ASK.text, 1.0, 960), (ASK.text, 2.0, 480), (ASK.text, 0.5, 1920), ("日本", 1.0, 120)],
)
async def test_its_length_follows_the_characters_and_the_speed(text: str, speed: float, ms: float) -> None:
    pcm = await voice().synthesize_speech(replace(ASK, text=text, speed=speed))
    assert len(pcm) == 48 * ms


@pytest.mark.parametrize("text", ["", " ", "...", "😀", "\ud800"])
async def test_a_text_without_a_letter_or_digit_yields_nothing_and_takes_no_time(text: str) -> None:
    asked = time.monotonic()
    assert await voice(60_000).synthesize_speech(replace(ASK, text=text)) == b""
    assert time.monotonic() - asked < 30
    assert expected("abc", 3, 2, text, 60.0) == b""


async def test_a_chunk_is_due_by_the_clock_and_never_earlier() -> None:
    engine = voice(20.0)
    for _ in range(10):
        asked = time.monotonic()
        _, there = await timed(engine, ASK)
        assert there - asked >= 0.02


async def test_one_conversation_waits_for_itself_and_not_for_others() -> None:
    engine = voice(100.0)
    asked = time.monotonic()
    requests = [
        SpeechRequest(conversation, 1, chunk, "a") for conversation in "abcdefgh" for chunk in (0, 1, 2)
    ]
    there = [at - asked for _, at in await asyncio.gather(*(timed(engine, each) for each in requests))]
    for first, second, third in zip(there[0::3], there[1::3], there[2::3], strict=True):
        assert first >= 0.1 and second - first >= 0.099 and third - second >= 0.099
    assert (
        sum(there[2::3]) < 8 * 2 * 0.3
    )  # one after another they would need 2.4 s, and half of it on average


async def test_a_reader_that_leaves_makes_room_for_the_next_chunk() -> None:
    engine = voice(50.0)
    first = asyncio.create_task(engine.synthesize_speech(ASK))
    second = asyncio.create_task(engine.synthesize_speech(replace(ASK, chunk=3)))
    await asyncio.sleep(0)
    first.cancel()
    async with asyncio.timeout(30):
        assert whose(await second).chunk == 3
    assert first.cancelled()


@pytest.mark.parametrize(("name", "language"), [("alto", None), (None, "fr"), ("tone", "de")])
async def test_a_voice_that_it_does_not_have_is_refused(name: str | None, language: str | None) -> None:
    with pytest.raises(EngineError):
        await voice().synthesize_speech(replace(ASK, voice=name, language=language))


async def test_its_two_voices_sound_an_octave_apart() -> None:
    tone, hum = [
        np.frombuffer(await voice().synthesize_speech(replace(ASK, voice=name)), "<i2")
        for name in ("tone", "hum")
    ]
    peaks = [int(np.argmax(np.abs(np.fft.rfft(samples[:19_200])))) for samples in (tone, hum)]
    assert peaks[0] == 2 * peaks[1]
    assert 0 < np.abs(tone).max() < 3100
    by_language = await voice().synthesize_speech(replace(ASK, language="de"))
    assert np.array_equal(np.frombuffer(by_language, "<i2"), hum)


@given(
    conversation=st.text(max_size=40).filter(lambda text: text.isprintable()),
    turn=st.integers(1, 2**24 - 1),
    chunk=st.integers(0, 2**16 - 1),
    start=st.integers(0, 13_500),
    length=st.integers(2 * BLOCK - 1, 2400),
)
def test_any_few_milliseconds_say_whose_they_are(
    conversation: str, turn: int, chunk: int, start: int, length: int
) -> None:
    pcm = expected(conversation, turn, chunk, "eleven char", 60.0)
    piece = pcm[2 * start : 2 * (start + length)]
    assert whose(piece) == Place(hash_of(conversation), turn, chunk, start)


def test_every_frame_says_whose_it_is_also_a_short_last_one() -> None:
    pcm = expected("abc", 1, 0, "Hi", 60.5)
    frames = [pcm[place : place + FRAME_BYTES] for place in range(0, len(pcm), FRAME_BYTES)]
    assert [len(frame) // 2 for frame in frames] == [2400, 504]
    assert [whose(frame).offset_samples for frame in frames] == [0, 2400]


@given(
    one=st.tuples(st.sampled_from(["abc", "abd"]), st.integers(1, 3), st.integers(0, 3)),
    other=st.tuples(st.sampled_from(["abc", "abd"]), st.integers(1, 3), st.integers(0, 3)),
    cut=st.integers(60, 2340),
    shift=st.integers(-300, 300),
)
def test_a_frame_that_is_put_together_is_from_nobody(
    one: tuple[str, int, int], other: tuple[str, int, int], cut: int, shift: int
) -> None:
    first, second = (expected(*key, "twelve chars", 60.0) for key in (one, other))
    frame = first[4800 : 4800 + 2 * cut] + second[4800 + 2 * (cut + shift) : 9600 + 2 * shift]
    if one == other and shift == 0:
        assert whose(frame).offset_samples == 2400
    else:
        with pytest.raises(ValueError, match="of the scripted voice"):
            whose(frame)


@pytest.mark.parametrize("samples", [0, 1, 39])
def test_less_than_a_block_says_nothing(samples: int) -> None:
    with pytest.raises(ValueError, match="no speech"):
        whose(expected("abc", 1, 0, "Hello!", 60.0)[: 2 * samples])


@pytest.mark.parametrize("seed", range(5))
def test_other_sound_is_from_nobody(seed: int) -> None:
    noise = np.random.default_rng(seed).integers(-32768, 32767, 2400).astype("<i2").tobytes()
    for pcm in (noise, bytes(4800)):
        with pytest.raises(ValueError, match="no speech"):
            whose(pcm)
