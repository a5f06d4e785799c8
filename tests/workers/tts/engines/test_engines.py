"""Choosing: an engine by its name, a voice by its name or its language."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from shared.errors import EngineError, SettingsError
from shared.settings import Settings
from shared.text import speakable
from workers.tts.engines import SpeechRequest, Voice, choose_voice, load

VOICES = (
    Voice("anna", "en-US"),
    Voice("ben", "de"),
    Voice("cleo", "en-GB"),
    Voice("cleo", "fr"),
)


def ask(voice: str | None = None, language: str | None = None) -> SpeechRequest:
    return SpeechRequest("abc", 1, 0, "Hello.", voice, language)


@pytest.mark.parametrize(
    ("voice", "language", "chosen"),
    [
        (None, None, VOICES[0]),
        ("ben", None, VOICES[1]),
        (None, "de", VOICES[1]),
        (None, "DE", VOICES[1]),
        (None, "en", VOICES[0]),
        (None, "en-gb", VOICES[2]),
        (None, "fr", VOICES[3]),
        ("cleo", None, VOICES[2]),
        ("cleo", "en", VOICES[2]),
        ("cleo", "fr", VOICES[3]),
    ],
)
def test_a_voice_goes_by_its_name_or_by_its_language(
    voice: str | None, language: str | None, chosen: Voice
) -> None:
    assert choose_voice(VOICES, ask(voice, language)) is chosen


@pytest.mark.parametrize(
    ("voice", "language", "why"),
    [
        ("zoe", None, "no voice 'zoe'"),
        ("Anna", None, "no voice 'Anna'"),
        (None, "it", "no voice speaks the language 'it'"),
        (None, "e", "no voice speaks the language 'e'"),
        (None, "de-AT", "no voice speaks the language 'de-AT'"),
        ("anna", "de", "'anna' does not speak the language 'de'"),
        ("cleo", "en-US", "'cleo' does not speak the language 'en-US'"),
        ("", None, "no voice ''"),
    ],
)
def test_a_voice_or_a_language_that_is_not_there_is_refused_for_good(
    voice: str | None, language: str | None, why: str
) -> None:
    with pytest.raises(EngineError, match=why) as refused:
        choose_voice(VOICES, ask(voice, language))
    assert not refused.value.retryable


@pytest.mark.parametrize("text", ["a", "…7", "«я»", "。你", "ก!", "½"])
def test_a_letter_or_a_digit_of_any_script_is_something_to_say(text: str) -> None:
    assert speakable(text)


@pytest.mark.parametrize("text", ["", " ", "...", " — ", "!?", "😀", "\0", "\ud800", "*_#"])
def test_signs_alone_are_nothing_to_say(text: str) -> None:
    assert not speakable(text)


@pytest.mark.parametrize(
    ("asked", "taken", "why"),
    [
        ("espeak", "espeak", "asks for it"),
        ("scripted", "scripted", "asks for it"),
    ],
)
def test_an_engine_is_loaded_by_its_name_and_says_why(asked: str, taken: str, why: str) -> None:
    engine, reason = load(asked, Settings())
    assert engine.name == taken
    assert taken in reason and why in reason and "\n" not in reason
    assert engine.voices()[0].name == engine.default_voice


def test_an_engine_that_does_not_exist_is_a_bad_setting() -> None:
    with pytest.raises(SettingsError, match="TTS_ENGINE is 'piper'; expected auto, kokoro, espeak or"):
        load("piper", Settings())


def test_auto_without_weights_is_espeak_and_says_how_to_get_them(tmp_path: Path) -> None:
    engine, reason = load("auto", Settings(kokoro_model=str(tmp_path)))
    assert engine.name == "espeak"
    assert reason == "espeak, the embedded engine: no weights of Kokoro here (parley models pull kokoro)"


def test_auto_without_the_packages_is_espeak_and_says_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "misaki", None)
    engine, reason = load("auto", Settings(kokoro_model=str(tmp_path)))
    assert engine.name == "espeak"
    assert reason.endswith("the packages of the models are not installed (make models)")


def test_auto_with_weights_is_kokoro_and_says_what_it_computes_on(kokoro_folder: Path) -> None:
    engine, reason = load("auto", Settings(kokoro_model=str(kokoro_folder), device="cpu"))
    assert engine.name == "kokoro"
    assert reason == "kokoro (CPU): its weights are here"


def test_kokoro_asked_for_by_name_never_falls_back(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="parley models pull kokoro"):
        load("kokoro", Settings(kokoro_model=str(tmp_path)))


def test_a_missing_package_is_one_line_that_says_what_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kokoro", None)
    with pytest.raises(EngineError, match="needs the package 'kokoro', which is not installed: make models"):
        load("kokoro", Settings(kokoro_model=str(tmp_path)))
