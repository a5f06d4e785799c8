"""Texts of nine languages, as phonemes; and English with and without the model that its word lists need."""

# ruff: noqa: RUF001 (texts and phonemes)

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.checkpoints.kokoro import SYMBOLS
from workers.tts.engines.kokoro import Kokoro, pronunciation
from workers.tts.engines.kokoro.pronunciation import Pronunciation, cut


@pytest.fixture(scope="module")
def spoken(kokoro: Kokoro) -> Pronunciation:
    """All languages, for a checkpoint with every phoneme."""
    return kokoro._pronunciation


@pytest.mark.parametrize(
    ("letter", "text", "phonemes"),
    [
        ("a", "Hello! How are you (today)?", "həlˈO! hˈW ɑɹ ju (tədˈA)?"),
        ("b", "Oh no, a boat.", "ˈQ nˈQ, ə bˈQt."),
        ("e", "¿Cómo estás?", "kˈomo estˈas?"),
        ("f", "Ça va bien.", "sa vˈa bjˈɛ̃."),
        ("h", "नमस्ते", "nəmˈʌsteː"),
        ("i", "Ciao! Come stai?", "ʧˈao! kˌome stˈaj?"),
        ("j", "元気ですか？", "ɡeŋkʲi desɨ ka?"),
        ("p", "Tudo bem?", "tˈudʊ bˈAŋ?"),
        ("z", "你好。", "ni↓xau↓."),
    ],
)
def test_each_language_has_its_own_sounds(
    spoken: Pronunciation, letter: str, text: str, phonemes: str
) -> None:
    assert spoken.phonemes(letter, text) == phonemes


def test_a_foreign_word_brings_no_note_of_its_language(spoken: Pronunciation) -> None:
    assert "(" not in spoken.phonemes("a", "She said déjà vu and went away.")
    assert "(" not in spoken.phonemes("e", "Me gusta el software de Windows.")


def test_english_words_in_japanese_and_chinese_are_english(spoken: Pronunciation) -> None:
    assert spoken.phonemes("z", "我用Python写。") == "wo↓jʊ↘ŋ pˈIθən ɕje↓."
    assert spoken.phonemes("j", "Hello、東京。").startswith("həlˈO")


def test_only_what_the_checkpoint_knows_is_left(spoken: Pronunciation) -> None:
    assert spoken.phonemes("e", "¡Hola!") == "ˈola!"
    few = Pronunciation("e", set(SYMBOLS) - {"ˈ"})
    assert few.phonemes("e", "¡Hola!") == "ola!"


def test_lines_are_one_text(spoken: Pronunciation) -> None:
    assert spoken.phonemes("a", " One\n\ntwo.\t") == spoken.phonemes("a", "One two.")


def test_a_language_whose_package_is_missing_is_left_out_and_said_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "misaki.cutlet", None)
    with caplog.at_level(logging.WARNING):
        some = Pronunciation("ej", SYMBOLS)
    assert some.letters == {"e"}
    [line] = [record.getMessage() for record in caplog.records]
    assert "'j'" in line and "misaki.cutlet" in line


def test_a_language_whose_phonemes_the_checkpoint_does_not_know_is_left_out() -> None:
    assert Pronunciation("eh", set("abcdefghijklmnopqrstuvwxyz")).letters == {"e"}


@hypothesis_settings(max_examples=60)
@given(letter=st.sampled_from("aefhijpz"), text=st.text(max_size=30))
@example("j", "んぁ っ 々々 １２３ 2026年")
@example("z", "１２３ 😀 100% 二〇二六年 ...")
@example("a", "[x](/y/) {z} \u0303\u0303 \x00")
def test_whatever_the_text_it_is_pronounced_or_left_out(
    spoken: Pronunciation, letter: str, text: str
) -> None:
    phonemes = spoken.phonemes(letter, text)
    assert set(phonemes) <= set(SYMBOLS)


def test_a_character_that_breaks_a_speller_costs_itself_and_not_its_neighbours() -> None:
    def fragile(text: str) -> str:
        if "x" in text:
            raise KeyError(text)
        return text.upper()

    assert pronunciation._spelt(fragile, "ab xcd xx e") == "AB CD  E"


def test_english_says_at_the_start_what_would_make_it_better(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        Pronunciation("ab", SYMBOLS)
    assert [record.getMessage() for record in caplog.records] == [
        "English by espeak-ng's rules; word lists know better, and come with: parley models pull english"
    ]


def test_nothing_is_ever_fetched_for_english(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: object, **kwargs: object) -> None:
        raise AssertionError("a download was begun")

    monkeypatch.setattr(subprocess, "run", forbidden)
    monkeypatch.setattr("spacy.cli.download", forbidden)
    assert Pronunciation("ab", SYMBOLS).letters == {"a", "b"}


spacy_warns = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # and so does all that it imports


@pytest.fixture
def english_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `en_core_web_sm` that can be imported: a tagger that has learnt nothing."""
    import spacy

    nlp = spacy.blank("en")
    width = {"@architectures": "spacy.HashEmbedCNN.v2", "width": 8, "depth": 1, "embed_size": 16}
    cnn = {"window_size": 1, "maxout_pieces": 2, "subword_features": True, "pretrained_vectors": None}
    nlp.add_pipe("tok2vec", config={"model": width | cnn})
    nlp.add_pipe("tagger").add_label("NN")
    nlp.initialize()
    package = tmp_path / pronunciation.ENGLISH_MODEL
    package.mkdir()
    nlp.to_disk(package / "model")
    (package / "__init__.py").write_text(
        "import pathlib, spacy\n"
        "def load(**settings):\n"
        "    return spacy.load(pathlib.Path(__file__).parent / 'model', **settings)\n"
    )
    about = tmp_path / f"{pronunciation.ENGLISH_MODEL}-3.8.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: en_core_web_sm\nVersion: 3.8.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, pronunciation.ENGLISH_MODEL, raising=False)
    return package


@spacy_warns
def test_with_the_model_installed_english_comes_from_the_word_lists(
    english_model: Path, spoken: Pronunciation, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        listed = Pronunciation("a", SYMBOLS)
    assert not caplog.records
    text = "I have a question about zorblatting."  # the last by the rules, for it is in no list
    assert listed.phonemes("a", text).endswith("kwˈɛsʧᵊn əbˈWt zˈɔɹblæTɪŋ.")
    assert spoken.phonemes("a", text).endswith("kwˈɛsʧən əbˌWt zˈɔɹblæTɪŋ.")
    sys.modules.pop(pronunciation.ENGLISH_MODEL, None)


@spacy_warns
def test_a_model_that_does_not_load_leaves_english_to_the_rules(
    english_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (english_model / "__init__.py").write_text("raise ImportError('made for spaCy 2')\n")
    listed = Pronunciation("a", SYMBOLS)
    assert listed.letters == {"a"}
    assert "made for spaCy 2" in caplog.text
    sys.modules.pop(pronunciation.ENGLISH_MODEL, None)


def test_a_short_text_is_one_part() -> None:
    assert list(cut("həlˈO!", 510)) == ["həlˈO!"]
    assert list(cut("a" * 510, 510)) == ["a" * 510]
    assert list(cut("", 510)) == []


@pytest.mark.parametrize(
    ("phonemes", "parts"),
    [
        ("aaa bbb. ccc, ddd eee", ["aaa bbb.", "ccc, ddd eee"]),
        ("aaa: bbb, ccc, ddd eee", ["aaa:", "bbb, ccc,", "ddd eee"]),
        ("aaa bbb, ccc ddd eee", ["aaa bbb,", "ccc ddd eee"]),
        ("aaa bbb ccc ddd eee", ["aaa bbb ccc", "ddd eee"]),
        ("a" * 20, ["a" * 13, "a" * 7]),
        ("a. " + "b" * 20, ["a. " + "b" * 10, "b" * 10]),  # a part of two phonemes would sound like nothing
    ],
)
def test_a_long_text_is_cut_where_a_reader_would_breathe(phonemes: str, parts: list[str]) -> None:
    assert list(cut(phonemes, 13)) == parts


@given(st.text("ab ,.!", max_size=300), st.integers(4, 60))
def test_nothing_but_spaces_is_lost_by_cutting(phonemes: str, limit: int) -> None:
    parts = list(cut(phonemes, limit))
    assert all(0 < len(part) <= limit for part in parts)
    assert "".join(parts).replace(" ", "") == phonemes.replace(" ", "")
