"""The voices of a checkpoint: what their names say, and which one speaks where none is asked for.

Knows nothing of how a voice sounds: a name's first letter is its language, its second whether it is a woman's
or a man's (`bm_george`: British, male).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from workers.tts.engines import Voice

LANGUAGES = {
    "a": "en-US",
    "b": "en-GB",
    "e": "es",
    "f": "fr",
    "h": "hi",
    "i": "it",
    "j": "ja",
    "p": "pt-BR",
    "z": "zh",
}
"""By the letter that Kokoro gives each."""

FAVOURITES = ("af_heart", "bf_emma", "ef_dora", "ff_siwis", "hf_alpha", "if_sara", "jf_alpha", "pf_dora",
              "zf_xiaobei")  # fmt: skip
"""Of each language the voice that speaks it where none is named: the one that was trained on most, or the
first of equals (by the list of voices beside the released weights)."""


def letter_of(name: str) -> str:
    """The letter of a voice's language; any string, for a name that follows no rule."""
    return name[:1]


def catalogue(names: Iterable[str], letters: Collection[str]) -> tuple[Voice, ...]:
    """The voices whose language is among `letters`: language by language, and in each the favourite first.

    American English leads, where the checkpoint has it, and so `af_heart` is the default.
    """

    def place(name: str) -> tuple[int, bool, str]:
        return list(LANGUAGES).index(letter_of(name)), name not in FAVOURITES, name

    spoken = [name for name in names if letter_of(name) in LANGUAGES and letter_of(name) in letters]
    return tuple(Voice(name, LANGUAGES[letter_of(name)]) for name in sorted(spoken, key=place))
