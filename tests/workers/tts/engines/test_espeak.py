"""The real library: that it speaks, in every language, what it is given, and stops when nobody listens."""

from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.audio import OUTPUT_RATE, duration_ms
from shared.errors import EngineError
from workers.tts.engines import SpeechRequest, Voice
from workers.tts.engines.espeak import MAX_TEXT, MUTE, Espeak, _library, _Speaking

PATIENCE_S = 20.0

# Where "1 2 3" is not read, for the dictionary has no numbers.
GREETINGS = {"chr-US-Qaaa-x-west": "ᎣᏏᏲ", "cv": "салам", "sjn": "mae govannen"}


@pytest.fixture(scope="module")
def espeak() -> Espeak:
    return Espeak()


def ask(
    text: str, voice: str | None = None, language: str | None = None, speed: float = 1.0
) -> SpeechRequest:
    return SpeechRequest("abc", 1, 0, text, voice, language, speed)


def samples_of(pcm: bytes) -> NDArray[np.int64]:
    return np.frombuffer(pcm, "<i2").astype(np.int64)


def sound_ms(pcm: bytes) -> float:
    """From the first to the last sample that can be heard."""
    heard = np.flatnonzero(np.abs(samples_of(pcm)) > 100)
    return float(heard[-1] - heard[0]) * 1000 / OUTPUT_RATE if len(heard) else 0.0


def silence_ms(pcm: bytes) -> tuple[float, float]:
    """At the head and at the end."""
    heard = np.flatnonzero(np.abs(samples_of(pcm)) > 30)
    return heard[0] * 1000 / OUTPUT_RATE, (len(pcm) / 2 - 1 - heard[-1]) * 1000 / OUTPUT_RATE


async def test_hello_sounds_as_long_and_as_loud_as_a_spoken_word(espeak: Espeak) -> None:
    pcm = await espeak.synthesize_speech(ask("Hello"))
    assert 350 < sound_ms(pcm) < 550
    loud = samples_of(pcm)
    assert 1500 < np.sqrt(np.mean(loud**2)) < 6000
    assert 8000 < np.abs(loud).max() < 32767


async def test_its_pitch_is_a_voice_s(espeak: Espeak) -> None:
    vowel = samples_of(await espeak.synthesize_speech(ask("Aaaah")))[2400:9600]
    spectrum = np.abs(np.fft.rfft((vowel - vowel.mean()) * np.hanning(len(vowel))))
    low = spectrum[: 400 * len(vowel) // OUTPUT_RATE]
    assert 60 < np.argmax(low) * OUTPUT_RATE / len(vowel) < 400
    assert spectrum[: 5000 * len(vowel) // OUTPUT_RATE].sum() > 0.8 * spectrum.sum()


async def test_more_words_take_longer(espeak: Espeak) -> None:
    lengths = [
        sound_ms(await espeak.synthesize_speech(ask(" ".join(["yes"] * count)))) for count in (1, 2, 4, 8)
    ]
    assert lengths == sorted(lengths) and lengths[3] > 4 * lengths[0]


async def test_pieces_come_as_they_are_made_and_hold_whole_samples(espeak: Espeak) -> None:
    async with aclosing(espeak.synthesize_speech_streaming(ask(" I can hear you perfectly."))) as stream:
        pieces = [piece async for piece in stream]
    assert len(pieces) > 10
    assert all(piece and len(piece) % 2 == 0 for piece in pieces)
    assert max(duration_ms(piece, OUTPUT_RATE) for piece in pieces[:-1]) <= 100


@pytest.mark.parametrize(("speed", "factor"), [(0.5, 0.5), (2.0, 2.0), (9.0, 2.0), (0.1, 0.5)])
async def test_speed_shortens_what_is_said(espeak: Espeak, speed: float, factor: float) -> None:
    text = "Hello there my friend, how are you doing on this fine day"
    usual = sound_ms(await espeak.synthesize_speech(ask(text)))
    assert sound_ms(await espeak.synthesize_speech(ask(text, speed=speed))) == pytest.approx(
        usual / factor, rel=0.25
    )


@pytest.mark.parametrize(
    ("text", "pause_ms"),
    [
        (" and then", 8),
        (" and then,", 150),
        (" and then;", 225),
        (" and then.", 300),
        (' "And then."', 350),
        ("(And then.)", 350),
    ],
)
async def test_a_chunk_begins_with_sound_and_ends_with_the_pause_of_its_punctuation(
    espeak: Espeak, text: str, pause_ms: float
) -> None:
    head, end = silence_ms(await espeak.synthesize_speech(ask(text)))
    assert head < 10
    assert end == pytest.approx(pause_ms, abs=15)


async def test_silence_inside_a_text_stays(espeak: Espeak) -> None:
    apart = sound_ms(await espeak.synthesize_speech(ask("One. Two. Three. Four")))
    together = sound_ms(await espeak.synthesize_speech(ask("One Two Three Four")))
    assert apart > together + 600


@pytest.mark.parametrize("text", ["", " ", "...", "!!", " — ", "😀", "\0", "\ud800", '"'])
async def test_a_text_without_a_letter_or_digit_yields_nothing(espeak: Espeak, text: str) -> None:
    assert await espeak.synthesize_speech(ask(text)) == b""


def test_every_language_is_there_and_english_is_the_default(espeak: Espeak) -> None:
    voices = espeak.voices()
    assert voices[0] == Voice("en-US", "en-US") and espeak.default_voice == "en-US"
    assert len(voices) == len(set(voices))
    spoken = {voice.language.partition("-")[0] for voice in voices}
    assert len(spoken) > 110
    assert spoken >= set("en es fr pt hi de nl it ja zh cmn yue no nb ru ar sw".split())


@pytest.mark.parametrize(
    ("language", "name"),
    [
        ("en", "en-US"),
        ("en-GB", "en-GB"),
        ("en-us", "en-US"),
        ("fr", "fr-FR"),
        ("pt", "pt"),
        ("pt-br", "pt-BR"),
        ("es", "es"),
        ("es-MX", "es-419"),
        ("zh", "cmn"),
        ("no", "nb"),
        ("yue", "yue"),
        ("hy", "hy"),
    ],
)
async def test_a_language_alone_is_spoken_by_its_own_voice(espeak: Espeak, language: str, name: str) -> None:
    speaking = next(voice for voice in espeak.voices() if voice.speaks(language))
    assert speaking.name == name
    assert sound_ms(await espeak.synthesize_speech(ask("1 2 3", language=language))) > 300


async def test_each_voice_speaks(espeak: Espeak) -> None:
    for name in dict.fromkeys(voice.name for voice in espeak.voices()):
        pcm = await espeak.synthesize_speech(ask(GREETINGS.get(name, "1 2 3"), name))
        assert sound_ms(pcm) > 200, name


def test_voices_that_are_left_out_have_no_dictionary() -> None:
    known = set(_library()._identifiers.values())
    assert not known & {name.encode() for name in MUTE}


async def test_voices_sound_different(espeak: Espeak) -> None:
    said = [
        await espeak.synthesize_speech(ask("Water, 1 2 3.", name)) for name in ("en-US", "en-GB", "de", "cmn")
    ]
    assert len({round(sound_ms(pcm) / 20) for pcm in said}) == 4


@pytest.mark.parametrize(
    ("voice", "language"),
    [("nobody", None), (None, "tlh"), ("de", "en"), ("en-US", "en-GB"), ("../etc", None)],
)
async def test_a_voice_or_language_that_is_not_there_is_refused(
    espeak: Espeak, voice: str | None, language: str | None
) -> None:
    with pytest.raises(EngineError) as refused:
        await espeak.synthesize_speech(ask("Hello", voice, language))
    assert not refused.value.retryable


@pytest.mark.parametrize(
    "text",
    [
        "a\0b c d",
        "\ud800 hello \udfff",
        "<speak><break time='9999s'/>hello</speak>",
        "a < b && c > d </voice> &lt; &#0;",
        "[[h@'loU]] {audio} \x1b[31m \x07 hello",
        "Hi 😀👩‍👩‍👧 there \U0010ffff \u202e \ufeff",
        "e" + "\u0301" * 400,
        "你好, привет, שלום, مرحبا, नमस्ते",
        "9" * 490,
        "%s%n%d\\n$(ls)`ls`",
    ],
)
async def test_odd_texts_are_spoken_and_leave_the_library_whole(espeak: Espeak, text: str) -> None:
    assert sound_ms(await espeak.synthesize_speech(ask(text))) > 100
    assert 350 < sound_ms(await espeak.synthesize_speech(ask("Hello"))) < 550


@given(st.text(max_size=60), st.sampled_from(["en-US", "cmn", "ja", "ar", "hi", "fr-FR", "ko", "th"]))
@settings(max_examples=150, deadline=None)
def test_any_text_at_all_can_be_given(text: str, voice: str) -> None:
    pcm = asyncio.run(Espeak().synthesize_speech(ask(text, voice)))
    assert len(pcm) % 2 == 0


async def test_what_stands_behind_a_nul_is_said_too(espeak: Espeak) -> None:
    with_nul = sound_ms(await espeak.synthesize_speech(ask("one\0two three four")))
    assert with_nul == pytest.approx(
        sound_ms(await espeak.synthesize_speech(ask("one two three four"))), rel=0.1
    )


async def test_a_long_text_is_said_to_its_end(espeak: Espeak) -> None:
    one = sound_ms(await espeak.synthesize_speech(ask("word " * 20)))
    many = sound_ms(await espeak.synthesize_speech(ask("word " * 400)))
    assert many == pytest.approx(20 * one, rel=0.1)
    without_spaces = await espeak.synthesize_speech(ask("你好" * MAX_TEXT, "cmn"))
    assert sound_ms(without_spaces) > MAX_TEXT * 200


class Held:
    """Holds the library's thread at each piece until `release`; counts the pieces."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.pieces = 0
        self.release = threading.Event()
        put = _Speaking._put

        def held_put(speaking: _Speaking, pcm: bytes) -> bool:
            self.pieces += 1
            wanted = put(speaking, pcm)
            assert self.release.wait(PATIENCE_S)
            return wanted

        patch.setattr(_Speaking, "_put", held_put)


async def test_closing_stops_the_library_at_its_next_piece(
    espeak: Espeak, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        held = Held(patch)
        stream = espeak.synthesize_speech_streaming(ask("wonderful words " * 30))
        assert await anext(stream)
        await stream.aclose()
        held.release.set()
        assert sound_ms(await espeak.synthesize_speech(ask("a"))) > 50
    assert held.pieces < 12


async def test_a_chunk_that_is_given_up_before_its_turn_is_never_begun(espeak: Espeak) -> None:
    streams = [espeak.synthesize_speech_streaming(ask("wonderful words " * 30)) for _ in range(50)]
    waiting = [asyncio.create_task(anext(stream)) for stream in streams]
    await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    for stream in streams:
        await stream.aclose()
    async with asyncio.timeout(PATIENCE_S):
        assert sound_ms(await espeak.synthesize_speech(ask("Hello"))) > 350


async def test_conversations_that_speak_at_once_do_not_mix(espeak: Espeak) -> None:
    asked = [
        ask(text, name) for text in ("Hello", "One two three four") for name in ("en-US", "de", "fr-FR")
    ] * 4
    alone = [sound_ms(await espeak.synthesize_speech(each)) for each in asked]
    at_once = await asyncio.gather(*(espeak.synthesize_speech(each) for each in asked))
    assert [sound_ms(pcm) for pcm in at_once] == pytest.approx(alone, rel=0.05, abs=25)


async def test_what_goes_wrong_in_the_library_s_thread_is_raised_to_the_reader(
    espeak: Espeak, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(voice: str) -> None:
        raise EngineError(f"espeak-ng cannot load its voice {voice!r}")

    with monkeypatch.context() as patch:
        patch.setattr(_library(), "_set_voice", lost)
        with pytest.raises(EngineError, match="cannot load its voice 'de'"):
            await espeak.synthesize_speech(ask("Hallo", "de"))
    assert sound_ms(await espeak.synthesize_speech(ask("Hallo", "de"))) > 300


def test_a_loop_that_is_closed_in_the_middle_stops_the_library_and_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def begin() -> _Speaking:
        return _Speaking(_library(), Voice("en-US", "en-US"), 175, "wonderful words " * 30)

    with monkeypatch.context() as patch:
        held = Held(patch)
        loop = asyncio.new_event_loop()
        speaking = loop.run_until_complete(begin())
        loop.close()
        held.release.set()
        speaking._work.result(PATIENCE_S)
    assert held.pieces < 4
    assert sound_ms(asyncio.run(Espeak().synthesize_speech(ask("Hello")))) > 350
