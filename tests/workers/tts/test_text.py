"""What a voice is given to say: no markup, no pictures, words for symbols, and every word as it was."""

# ruff: noqa: E501, RUF001 (signs as models write them, one case a line)

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.text import speakable
from workers.tts.text import spoken_form
from workers.tts.words import words_of

LANGUAGES = ("en-US", "en-GB", "es", "fr", "pt-BR", "hi", "de", "nl", "it", "ja", "zh", "ru")


def said(text: str, language: str = "en-US") -> str:
    """The spoken form, however it is spaced at its ends."""
    return spoken_form(text, language).strip()


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("This is **very** *nice*, __really__ ~~not~~.", "This is very nice, really not."),
        ("## A heading\nAnd text.", "A heading.\nAnd text."),
        ("- milk\n* eggs\n", "milk.\neggs."),
        ("- [x] done", "done"),
        ("1. Eggs", "1. Eggs"),
        ("> A quote", "A quote"),
        ("Run `make run` now.", "Run make run now."),
        ("```python\nprint\n```\n", "print"),
        ("See [the page](https://x.org/a_(b)) now.", "See the page now."),
        ("![A cat](cat.png) sleeps.", "A cat sleeps."),
        ("| Name | Age |\n|------|:---:|\n| Ann | 3 |\n", "Name, Age.\n\nAnn, 3."),
        ("One.\n\n---\n\nTwo.", "One.\n\n\n\nTwo."),
        ("True.[1] Also.[^note]", "True. Also."),
        ("a \\* b", "a b"),
        ("<b>Bold</b> and <a href=\"x y\">link</a>.", "Bold and link."),
        ("Fish &amp; chips &lt;here&gt;", "Fish and chips here"),
        ("snake_case and __init__", "snake case and init"),
    ],
)  # fmt: skip
def test_markup_is_not_spoken(written: str, spoken: str) -> None:
    assert said(written) == spoken


@pytest.mark.parametrize(
    ("chunks", "spoken"),
    [
        (("This is **very", " nice** indeed."), ("This is very", "nice indeed.")),
        (("Click [here,", " please](https://x.org)."), ("Click here,", "please.")),
        (("So `make", " run` it."), ("So make", "run it.")),
        (("Look <b>up", " now</b>."), ("Look up", "now.")),
    ],
)
def test_what_opens_in_one_chunk_and_closes_in_the_next_is_not_spoken_either(
    chunks: tuple[str, str], spoken: tuple[str, str]
) -> None:
    assert tuple(map(said, chunks)) == spoken


@pytest.mark.parametrize(
    "picture",
    ["😀", "👍🏽", "👩‍👩‍👧", "🇩🇪", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "1️⃣", "❤️", "☀", "✅", "🤷🏽‍♀️", "♪", "™", "\u200b", "\ufeff", "\x07", "\ue000"],
)  # fmt: skip
def test_pictures_and_what_is_no_character_leave_nothing(picture: str) -> None:
    assert said(picture) == ""
    assert said(f"Good {picture} morning.") == "Good morning."
    assert said(f"Morning. {picture}") == "Morning."


def test_joiners_that_are_spelling_stay_and_hyphens_that_are_not_go() -> None:
    assert spoken_form("क्‍ष", "hi") == "क्‍ष"
    assert said("so\u00adft 𝗯𝗼𝗹𝗱\u00a0and①") == "soft bold and1"


@pytest.mark.parametrize(
    ("written", "language", "spoken"),
    [
        ("https://www.example.com/help?utm_source=x#top.", "en", "example dot com slash help."),
        ("(www.example.com/a-b/?id=5&fbclid=zz)", "en", "(example dot com slash a dash b question mark id equals 5)"),
        ("Write to jane.doe@example.com!", "en", "Write to jane dot doe at example dot com!"),
        ("mailto:a_b@example.co.uk", "en", "a underscore b at example dot co dot uk"),
        ("example.com/x and file.txt.", "en", "example dot com slash x and file dot txt."),
        ("www.beispiel.de/hilfe", "de", "beispiel Punkt de Schrägstrich hilfe"),
        ("ana@ejemplo.es", "es", "ana arroba ejemplo punto es"),
        ("www.exemple.fr", "fr", "exemple point fr"),
        ("ana@exemplo.br", "pt-BR", "ana arroba exemplo ponto br"),
        ("www.esempio.it", "it", "esempio punto it"),
        ("www.voorbeeld.nl", "nl", "voorbeeld punt nl"),
        ("a@udaharan.in", "hi", "a ऐट udaharan डॉट in"),
        ("https://rei.jpを見て", "ja", "rei ドット jpを見て"),
        ("https://www.example.cn。", "zh", "example 点 cn。"),
        ("https://www.example.ru/x", "ru", "example.ru/x"),
        ("The end.Next one, e.g. this", "en", "The end.Next one, for example this"),
    ],
)  # fmt: skip
def test_addresses_are_said_as_people_say_them(written: str, language: str, spoken: str) -> None:
    assert said(written, language) == spoken


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("1,234 and 1,234,567", "1 thousand 234 and 1 million 234 thousand 567"),
        ("1,000,000 or 1,23,456", "1 million or 123456"),
        ("3.14, 0.05 and .5", "3 point 1 4, 0 point 0 5 and .5"),
        ("in 1969, in 2026, 1990s, 1st, 22nd", "in 1969, in 2026, 1990s, 1st, 22nd"),
        ("version 1.5.2", "version 1 dot 5 dot 2"),
        ("$5, $1, $1,200 and $5.99", "5 dollars, 1 dollar, 1 thousand 200 dollars and 5 dollars 99"),
        ("$2.5M, $3 billion, $10k, £5-10, 5 €", "2 point 5 million dollars, 3 billion dollars, 10 thousand dollars, 5 to 10 pounds, 5 euros"),
        ("$9/month, -$5", "9 dollars per month, minus 5 dollars"),
        ("5% or 12.5 %", "5 percent or 12 point 5 percent"),
        ("at 12:30, 9:05, 9:00, 14:00 or 9:00 a.m.", "at 12 30, 9 oh 5, 9 o'clock, 14 hundred or 9 AM"),
        ("10:30 am–11:00 am, 9:00-17:30", "10 30 AM to 11 AM, 9 o'clock to 17 30"),
        ("won 3:1", "won 3 to 1"),
        ("2026-11-24 or 11/24/2026", "November 24, 2026 or November 24, 2026"),
        ("1/2, 3/4, 1 1/2, 5/8, 24/7, 9/10", "1 half, 3 quarters, 1 and 1 half, 5 eighths, 24 7, 9 out of 10"),
        ("call 555-123-4567 or +1 (555) 123-4567", "call 5 5 5, 1 2 3, 4 5 6 7 or plus 1, 5 5 5, 1 2 3, 4 5 6 7"),
        ("+49 30 1234567", "plus 4 9, 3 0, 1 2 3 4 5 6 7"),
        ("3-5 days, 10–20%, 2020-2024, a 747-8", "3 to 5 days, 10 to 20 percent, 2020 to 2024, a 747-8"),
        ("#1 of #many in C#", "number 1 of many in C sharp"),
        ("20°C, 68 °F, 90°", "20 degrees Celsius, 68 degrees Fahrenheit, 90 degrees"),
        ("-5 and GPT-4", "minus 5 and GPT-4"),
        ("2 × 3 = 6, 2*3, 5 + 3", "2 times 3 equals 6, 2 times 3, 5 plus 3"),
        ("x^2 + y³ ≈ 10⁶ ± 2", "x squared plus y cubed about 10 to the power of 6 plus or minus 2"),
        ("a < b > c, ~5, ≥ 3", "a less than b more than c, about 5, at least 3"),
        ("1 km, 5km/h", "1 kilometer, 5 kilometers per hour"),
        ("Settings → Privacy -> On", "Settings, Privacy, On"),
        ("R&D @ home", "R and D at home"),
        ("and/or, a / b", "and or, a, b"),
        ("Wow!!! What?!?! No.....", "Wow! What?! No..."),
        ("i.e. that, Dr. Smith vs. the U.S. Army", "that is that, Dr Smith versus the U S Army"),
        ("Fine :) really ;-)", "Fine really"),
        ("wait -- no ()", "wait — no"),
    ],
)  # fmt: skip
def test_figures_and_symbols_become_english(written: str, spoken: str) -> None:
    assert said(written) == spoken


@pytest.mark.parametrize(
    ("written", "language", "spoken"),
    [
        ("24.11.2026, 9:05, 3,5 %", "de", "24. November 2026, 9 Uhr 5, 3 Komma 5 Prozent"),
        ("1.234 € & 5,99 €", "de", "1234 Euro und 5 Euro 99"),
        ("24/11/2026, $5 millones, 3,14", "es", "24 de noviembre de 2026, 5 millones de dólares, 3 coma 14"),
        ("1\u202f234,5 km à 20°C", "fr", "1234 virgule 5 km à 20 degrés Celsius"),
        ("R$ 5,50 e 10%", "pt-BR", "5 reais 50 e 10 por cento"),
        ("3-5 & 2 × 3", "it", "3 a 5 e 2 per 3"),
        ("14:30, #1", "nl", "14 uur 30, nummer 1"),
        ("5%, 2026-11-24", "hi", "5 प्रतिशत, 24 नवंबर 2026"),
        ("5%、9:05、1,234円、3.14", "ja", "5 パーセント、9時5分、1234円、3 点 14"),
        ("5%，3.14，2026-11-24", "zh", "5%，3.14，2026年11月24日"),
        ("24/11/2026", "en-GB", "24 November 2026"),
        ("**5%** and 3.14", "ru", "5% and 3.14"),
    ],
)  # fmt: skip
def test_other_languages_have_their_own_words_and_marks(written: str, language: str, spoken: str) -> None:
    assert said(written, language) == spoken


@pytest.mark.parametrize(
    "nothing", ["**", "***\n", "---", "| --- |", "😀👍🏽", "```", " …", "() []", "<br/>", "#", "\u200d"]
)
def test_a_chunk_of_marks_alone_holds_nothing_to_say(nothing: str) -> None:
    assert not speakable(spoken_form(nothing, "en"))


WORD = st.text(st.characters(categories=["Lu", "Ll", "Lo"], max_codepoint=0xFFFF), min_size=2, max_size=9).filter(
    # Titles and the like lose their full stop.
    lambda word: word.lower() not in {"vs", "mr", "mrs", "ms", "dr", "prof", "st", "approx"}
)  # fmt: skip
MARK = st.sampled_from(
    ["", "", "", ",", ".", "!", "?", ";", ":", "…", "...", "!\n", ".\n\n", " —", "'s", "-mail"]
)


@given(st.lists(st.tuples(WORD, MARK), min_size=1, max_size=12), st.sampled_from(LANGUAGES))
@settings(deadline=None)
def test_words_and_plain_punctuation_come_back_as_they_were(
    words: list[tuple[str, str]], language: str
) -> None:
    text = " " + " ".join(word + mark for word, mark in words)
    assert spoken_form(text, language) == text


@given(st.lists(st.tuples(WORD, st.sampled_from("* ** _ ~~ ` # | > < & = + @ → 😀 ] [ ) ( { } \\ - . , ! ? /".split()))), st.sampled_from(LANGUAGES))  # fmt: skip
@settings(deadline=None)
def test_no_word_is_lost_among_marks(words: list[tuple[str, str]], language: str) -> None:
    text = " ".join(f"{mark} {word} {mark}" for word, mark in words)
    left = spoken_form(text, language).split()
    places = iter(left)
    assert all(any(word in place for place in places) for word, _ in words), left


@given(st.text(max_size=120), st.sampled_from(LANGUAGES))
@settings(deadline=None)
def test_any_text_has_a_spoken_form_and_a_plain_one_has_no_other(text: str, language: str) -> None:
    once = spoken_form(text, language)
    assert once == spoken_form(text, language)
    assert not re.search("[*`~\\[\\]{}\\\\^|\ufe0f\u00ad]", once)
    if not any(char.isalnum() for char in text) and words_of(language) is None:
        assert not speakable(once)


@pytest.mark.parametrize(
    "piece",
    ["*", "_", "`", "[", "](", "](a", "](a](b) ", "(", "a.", "1.", "1,", "1-", "1/", "1:", "1 ", "<b ", '<b a="', "<", "&",
     "&amp", "!?", " ", "\t", "\n", "-", "- ", "|", "> ", "#", "$1", "http://", "www.", "a@", "a-", "x^", "=", "\u200d",
     "👩‍", "+1 ", "(5) ", "555-", "a/", ".", "… ", ", ", "[^a]", "1\u00a0", "°", "A.", "->", "ab.cd/", "a"],
)  # fmt: skip
def test_a_hostile_run_is_done_with(piece: str) -> None:
    # A pattern that tried all ways of matching would never come back.
    assert len(spoken_form(piece * (20_000 // len(piece)) + "x", "en")) < 1_000_000
