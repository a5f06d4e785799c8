"""What the names of voices say."""

from __future__ import annotations

import pytest

from shared.errors import EngineError
from workers.tts.engines import SpeechRequest, Voice, choose_voice
from workers.tts.engines.kokoro.voices import LANGUAGES, catalogue

RELEASED = (
    "af_alloy af_aoede af_bella af_heart af_jessica af_kore af_nicole af_nova af_river af_sarah af_sky "
    "am_adam am_echo am_eric am_fenrir am_liam am_michael am_onyx am_puck am_santa bf_alice bf_emma "
    "bf_isabella bf_lily bm_daniel bm_fable bm_george bm_lewis ef_dora em_alex em_santa ff_siwis "
    "hf_alpha hf_beta hm_omega hm_psi if_sara im_nicola jf_alpha jf_gongitsune jf_nezumi jf_tebukuro "
    "jm_kumo pf_dora pm_alex pm_santa zf_xiaobei zf_xiaoni zf_xiaoxiao zf_xiaoyi zm_yunjian zm_yunxi "
    "zm_yunxia zm_yunyang "
).split()


def test_all_54_voices_of_the_released_checkpoint_have_a_language() -> None:
    voices = catalogue(RELEASED, LANGUAGES)
    assert sorted(voice.name for voice in voices) == sorted(RELEASED) and len(voices) == 54
    assert voices[0] == Voice("af_heart", "en-US")
    assert {voice.language for voice in voices} == set(LANGUAGES.values())


def test_a_voice_sets_its_language() -> None:
    languages = {voice.name: voice.language for voice in catalogue(RELEASED, LANGUAGES)}
    assert languages["bm_george"] == "en-GB"
    assert languages["pm_santa"] == "pt-BR"
    assert languages["zm_yunxi"] == "zh"


@pytest.mark.parametrize(
    ("language", "name"),
    [(None, "af_heart"), ("en", "af_heart"), ("en-GB", "bf_emma"), ("pt", "pf_dora"), ("ja", "jf_alpha")],
)
def test_a_language_alone_is_spoken_by_the_favourite_of_it(language: str | None, name: str) -> None:
    voices = catalogue(RELEASED, LANGUAGES)
    assert choose_voice(voices, SpeechRequest("abc", 1, 0, "Hello", language=language)).name == name


def test_a_voice_with_another_language_than_its_own_is_refused() -> None:
    voices = catalogue(RELEASED, LANGUAGES)
    with pytest.raises(EngineError, match="'hm_omega' does not speak the language 'en-US'"):
        choose_voice(voices, SpeechRequest("abc", 1, 0, "Hello", "hm_omega", "en-US"))


def test_without_the_favourites_the_first_by_name_speaks() -> None:
    names = [voice.name for voice in catalogue(["em_santa", "em_alex", "bm_lewis"], LANGUAGES)]
    assert names == ["bm_lewis", "em_alex", "em_santa"]


def test_voices_that_cannot_be_pronounced_or_named_are_left_out() -> None:
    names = [voice.name for voice in catalogue(["jf_alpha", "xf_who", "", "ef_dora"], {"e", "x"})]
    assert names == ["ef_dora"]
