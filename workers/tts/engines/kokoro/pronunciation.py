"""How a text is pronounced: words to the phonemes that a checkpoint was trained on, by misaki.

    text ─> its language's rules or dictionary ─> phonemes ─> those that the checkpoint knows

Owns which language needs what, and what happens where that is not installed. Downloads nothing: English word
lists need spaCy's model `en_core_web_sm`, which misaki would fetch by itself: it is asked for them only where
that is installed. Elsewhere espeak-ng's rules, which misaki has for words in no list, do for all words.
"""

# ruff: noqa: RUF001 (texts of nine languages)

from __future__ import annotations

import importlib.metadata
import io
import logging
import re
import threading
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from types import SimpleNamespace
from typing import Any

log = logging.getLogger(__name__)

Speller = Callable[[str], str]
"""Text in, phonemes out."""

ENGLISH_MODEL = "en_core_web_sm"

LISTS_COMMAND = "parley models pull english"
"""What fetches it."""

_SAMPLES = {
    "a": "Hello, how are you?",
    "b": "Hello, how are you?",
    "e": "Hola, ¿cómo estás?",
    "f": "Bonjour, ça va ?",
    "h": "नमस्ते, आप कैसे हैं?",
    "i": "Ciao, come stai?",
    "j": "こんにちは、元気ですか。",
    "p": "Olá, tudo bem?",
    "z": "你好，你今天怎么样？",
}

_ESPEAK = {"e": "es", "f": "fr-fr", "h": "hi", "i": "it", "p": "pt-br"}

_LATIN = re.compile(r"([A-Za-z][A-Za-z' -]*)")

_GOOD_ENDS = (".!?…", ";:", ",—", " ")


class Pronunciation:
    """The pronunciations of some languages, by Kokoro's letters for them. Loads all it needs at once."""

    def __init__(self, letters: Iterable[str], vocabulary: Collection[str]) -> None:
        self._vocabulary = vocabulary
        self._lock = (
            threading.Lock()
        )  # phonemizer's, spaCy's and MeCab's objects are for one thread at a time
        self._spellers: dict[str, Speller] = {}
        for letter in sorted(letters):
            try:
                speller = _load(letter)
                phonemes = speller(_SAMPLES[letter])
            except Exception as error:  # of one language; the others speak
                log.warning(
                    "no voice speaks %r: its pronunciation cannot be loaded: %s", letter, _line(error)
                )
                continue
            if 2 * len(self._known(phonemes)) <= len(phonemes):
                log.warning("no voice speaks %r: the checkpoint does not know its phonemes", letter)
                continue
            self._spellers[letter] = speller
        if self.letters & {"a", "b"} and not _has_word_lists():
            log.info("English by espeak-ng's rules; word lists know better, and come with: %s", LISTS_COMMAND)

    @property
    def letters(self) -> frozenset[str]:
        """The languages that can be pronounced."""
        return frozenset(self._spellers)

    def phonemes(self, letter: str, text: str) -> str:
        """What the checkpoint is given for a text; empty where nothing of it can be said. Thread-safe."""
        with self._lock:
            return self._known(_spelt(self._spellers[letter], " ".join(text.split()))).strip()

    def sample(self, letter: str) -> str:
        """The phonemes of a short sentence."""
        return self.phonemes(letter, _SAMPLES[letter])

    def _known(self, phonemes: str) -> str:
        return "".join(phoneme for phoneme in phonemes if phoneme in self._vocabulary)


def cut(phonemes: str, limit: int) -> Iterator[str]:
    """Phonemes in parts of at most `limit`, each ending where a reader would breathe, if it can."""
    while len(phonemes) > limit:
        end = limit
        for marks in _GOOD_ENDS:
            # A part may be short for the sake of its end, but not tiny.
            last = max(phonemes.rfind(mark, limit // 4, limit) for mark in marks)
            if last >= 0:
                end = last + 1
                break
        part, phonemes = phonemes[:end].strip(), phonemes[end:].strip()
        if part:
            yield part
    if phonemes:
        yield phonemes


def _spelt(speller: Speller, text: str) -> str:
    """The phonemes of a text. What the speller chokes on is left out: one odd character ends no answer."""
    try:
        return speller(text)
    except Exception as error:  # whatever libraries for odd texts raise: KeyError, AssertionError, …
        if len(text) <= 1:
            log.warning("a character cannot be pronounced: %s", type(error).__name__)
            return ""
        middle = len(text) // 2
        return _spelt(speller, text[:middle]) + _spelt(speller, text[middle:])


def _load(letter: str) -> Speller:
    with _quiet():
        match letter:
            case "a" | "b":
                return _english(british=letter == "b")
            case "j":
                from misaki.cutlet import Cutlet

                return _with_english(_first_of(Cutlet()))
            case "z":
                from misaki import zh

                zh.jieba.setLogLevel(logging.WARNING)
                zh.jieba.initialize()
                return _with_english(_first_of(zh.ZHG2P()))
            case _:
                from misaki.espeak import EspeakG2P

                return _first_of(EspeakG2P(language=_ESPEAK[letter]))


def _english(*, british: bool) -> Speller:
    rules = _english_rules(british=british)
    words = _english_words(british, rules)
    if words is None:
        return lambda text: str(rules(SimpleNamespace(text=text))[0])
    return lambda text: str(words(text, preprocess=False)[0])


def _english_words(british: bool, rules: Any) -> Any:
    """misaki's word lists; `None` where the model is not that tells it a noun from a verb."""
    if not _has_word_lists():
        return None
    from misaki.en import G2P

    try:
        return G2P(british=british, fallback=rules, unk="")
    except Exception as error:  # such as a model for another spaCy
        log.warning("English by espeak-ng's rules, for %s does not load: %s", ENGLISH_MODEL, _line(error))
        return None


def _has_word_lists() -> bool:
    """What misaki asks spaCy, which takes seconds to import. Where the answer is no, misaki downloads."""
    try:
        return bool(importlib.metadata.version(ENGLISH_MODEL))
    except importlib.metadata.PackageNotFoundError:
        return False


def _english_rules(*, british: bool) -> Any:
    """misaki's for words in no list. By default its espeak-ng says "(fr)" before a word that it takes for
    French, and the brackets, being phonemes, would be spoken."""
    from misaki.espeak import EspeakFallback
    from phonemizer.backend import EspeakBackend

    rules = EspeakFallback(british=british)
    rules.backend = EspeakBackend(
        language="en-gb" if british else "en-us",
        preserve_punctuation=True,
        with_stress=True,
        tie="^",
        language_switch="remove-flags",
    )
    return rules


def _with_english(own: Speller) -> Speller:
    """For a language whose speller leaves Latin letters as they are, as if they were phonemes."""
    rules = _english_rules(british=False)

    def spell(text: str) -> str:
        pieces = _LATIN.split(text)  # own, English, own, …
        for place, piece in enumerate(pieces):
            if place % 2:
                pieces[place] = f" {rules(SimpleNamespace(text=piece))[0]} "
            elif piece.strip():
                pieces[place] = own(piece)
        return " ".join("".join(pieces).split())

    return spell


def _first_of(speller: Callable[[str], tuple[str, Any]]) -> Speller:
    return lambda text: speller(text)[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """While libraries load, which print and warn about what no user of this one can change."""
    # Its warnings count words and name no text, but there is one for each unusual sentence.
    logging.getLogger("phonemizer").propagate = False
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"
