from __future__ import annotations

import json

import pytest

from edge.configuration import Configuration
from edge.endpointing import ServerVad, Silence
from edge.protocols.native import AudioChunk, Configure, InputFormat, Pacing, TurnDetection
from shared.errors import ClientError
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


@pytest.mark.parametrize(
    "configuration",
    [
        Configuration(turn_detection=ServerVad(threshold=0.6, prefix_padding_ms=100.0, min_speech_ms=0.0)),
        Configuration(turn_detection=ServerVad(silence_ms=Silence.AUTO), silence_ms=Silence.AUTO),
        Configuration(silence_ms=Silence.AUTO, echo_cancelled=False),
    ],
)
def test_how_ends_of_utterances_are_found_survives_json(configuration: Configuration) -> None:
    raw = json.loads(json.dumps(configuration.dump()))
    assert Configuration.load(raw) == configuration
    assert Configuration.load(raw).vad == configuration.vad


def test_the_silence_that_was_named_last_holds_wherever_it_was_named() -> None:
    configuration = Configuration().changed(Configure(silence_ms=800.0))
    assert configuration.vad is None
    by_name = configuration.changed(Configure(turn_detection=ServerVad(silence_ms=600.0)))
    assert by_name.vad == ServerVad(silence_ms=600.0)
    assert by_name.changed(Configure(silence_ms=700.0)).vad == ServerVad(silence_ms=700.0)
    both = Configure(turn_detection=ServerVad(silence_ms=600.0), silence_ms=Silence.AUTO)
    assert configuration.changed(both).vad == ServerVad(silence_ms=Silence.AUTO)


def test_the_client_may_say_again_where_utterances_end() -> None:
    listening = Configuration(turn_detection=ServerVad())
    assert listening.changed(Configure(speed=1.5)).vad == ServerVad()
    assert listening.changed(Configure(turn_detection=TurnDetection.NONE)).vad is None
    assert listening.dump()["turn_detection"] != Configuration().dump()["turn_detection"] == "none"


@pytest.mark.parametrize(
    "asked",
    [
        Configure(turn_detection=ServerVad(pause_ms=501.0)),
        Configure(turn_detection=ServerVad(silence_ms=Silence.AUTO, pause_ms=501.0)),
        Configure(turn_detection=ServerVad(), silence_ms=199.0),
    ],
)
def test_a_pause_that_is_longer_than_the_silence_is_refused(asked: Configure) -> None:
    with pytest.raises(ClientError, match=r"^configure.turn_detection: pause_ms is ") as refused:
        Configuration().changed(asked)
    assert refused.value.code == "bad_message"


def test_a_pause_as_long_as_the_silence_is_none_but_allowed() -> None:
    vad = ServerVad(silence_ms=300.0, pause_ms=300.0)
    assert Configuration().changed(Configure(turn_detection=vad)).vad == vad


def test_a_setting_of_another_version_is_passed_over() -> None:
    raw = {"voice": "anna", "mood": "sunny", "input_format": "opus"}
    assert Configuration.load(raw) == Configuration(voice="anna")
