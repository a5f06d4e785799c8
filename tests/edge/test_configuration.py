from __future__ import annotations

import json

from edge.configuration import Configuration
from edge.protocols.native import AudioChunk, Configure, InputFormat, Pacing
from shared.wire import Open


def test_a_configure_changes_what_it_names_and_nothing_else() -> None:
    configuration = Configuration().changed(Configure(voice="anna", speed=1.5))
    assert configuration == Configuration(voice="anna", speed=1.5)
    assert configuration.changed(Configure(interrupt=False)) == Configuration(
        voice="anna", speed=1.5, interrupt=False
    )


def test_an_empty_text_goes_back_to_the_default() -> None:
    configuration = Configuration(voice="anna", language="en", prompt="Be brief.")
    assert configuration.changed(Configure(voice="", language="", prompt="")) == Configuration()


def test_an_utterance_overrides_voice_prompt_and_speed_for_itself() -> None:
    configuration = Configuration(voice="anna")
    own = configuration.for_utterance(AudioChunk(b"\0\0", voice="ben", prompt="Rhyme.", speed=0.8))
    assert own == Configuration(voice="ben", prompt="Rhyme.", speed=0.8)
    assert configuration.for_utterance(AudioChunk(b"\0\0")) == configuration


def test_a_language_that_the_voice_does_not_speak_gives_way_to_the_voice_s() -> None:
    def speaks(voice: str, language: str) -> bool:
        return (voice, language) == ("anna", "en")

    fitting, foreign = Configuration(voice="anna", language="en"), Configuration(voice="anna", language="it")
    assert fitting.in_its_language(speaks) == fitting
    assert foreign.in_its_language(speaks) == Configuration(voice="anna")
    assert Configuration(language="it").in_its_language(speaks) == Configuration(language="it")


def test_an_opening_holds_what_the_workers_need() -> None:
    configuration = Configuration(voice="anna", prompt="Be brief.", seed=7, temperature=0.0)
    assert configuration.opening(text="hello") == Open(
        voice="anna", prompt="Be brief.", seed=7, temperature=0.0, text="hello"
    )


def test_a_configuration_survives_json() -> None:
    configuration = Configuration(
        voice="anna", input_format=InputFormat.WAV, pacing=Pacing.NONE, interrupt=False, silence_ms=300.0
    )
    raw = json.loads(json.dumps(configuration.dump()))
    assert raw["pacing"] == "none"
    assert Configuration.load(raw) == configuration


def test_a_setting_of_another_version_is_passed_over() -> None:
    raw = {"voice": "anna", "mood": "sunny", "input_format": "opus"}
    assert Configuration.load(raw) == Configuration(voice="anna")
