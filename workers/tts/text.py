"""What a voice should say for a semantic chunk: no markup, no pictures, and words for what is no word.

    chunk ─> markup ─> addresses ─> figures ─> symbols ─> what any voice can read

Models write for the eye. A chunk is a piece of such a text, cut anywhere: a mark of emphasis may open in one
and close in the next, so no rule here needs a pair. Words are never dropped and never changed, and a text of
nothing but words and punctuation comes back as it is. No pattern can be made to go over a text twice: what it
costs follows its length, whatever stands in it.
"""

# ruff: noqa: RUF001 (signs that are to be found in texts)

from __future__ import annotations

import html
import re
import unicodedata

from workers.tts import addresses, figures
from workers.tts.words import Words, words_of

# What nearly every chunk is: the words of a European language, and nothing that any rule is for.
_SPECIAL = re.compile(
    r"[^a-zA-ZÀ-ÖØ-öø-ɏ ,.!?'’-]|[.,!?]{2}|\.\w|--|\A *-|\b\w\.|\b(?:vs|approx|Mr|Mrs|Ms|Dr|Prof|St)\.",
    re.IGNORECASE,
)
_STRAY = {
    **dict.fromkeys(map(ord, "*`~[]{}#")),
    **dict.fromkeys(map(ord, "<>=\\^\u00a0\u202f\u2009"), " "),
    ord("|"): ", ",
}
_MARKS = frozenset("-=_*#|:>~`+ \t")  # what a line of a table, a rule or a fence is made of

_TAG = re.compile(
    r"</?(?:a|b|blockquote|br|code|del|details|div|em|font|h[1-6]|hr|i|img|ins|kbd|li|mark|ol|p|pre|s|small|span|"
    r"strong|sub|summary|sup|table|tbody|td|th|thead|tr|u|ul)(?:\s+[\w-]{1,40}=(?:\"[^\"<>]*\"|'[^'<>]*'|[^\s<>\"']*))*"
    r"\s*/?>|<!--|-->",
    re.IGNORECASE,
)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});")
_LINK_END = re.compile(r"\]\((?:[^()\s]|\([^()\s]{0,500}\)){0,500}(?:[ \t]{1,9}\"[^\"()]{0,500}\")?(?:\)|\Z)")
_NOTE = re.compile(r"\[\^\w{1,20}\]|(?<=[.,;:!?])\[\d{1,3}\]")
_ESCAPE = re.compile(r"\\(?=[^\w\s])")
_LINE_HEAD = re.compile(r"[ \t]*(?:>[ \t]*)*(?:#{1,6}[ \t]+|[-*+•‣▪◦·][ \t]+(?:\[[ xX]\][ \t]+)?)?")
_KEYCAP = re.compile("[0-9#*]\ufe0f?\u20e3")
_TIMES = re.compile(r"(?<=\d)[ ]?\*[ ]?(?=\d)")
_SMILEY = re.compile(r"(?<!\S)(?:[:;=]-?[()DPp/|]|<3|\^_*\^|:'\()(?=[\s.,!?]|\Z)")
_ARROW = re.compile(r" ?(?:<?[-=]{1,3}>|[←-⇿⟵-⟿➔-➾]) ?")
_UNDERSCORES = re.compile(r"(?<![^\W_])_+|_+(?![^\W_])")
_SHARP = re.compile(r"(?<=\b[A-G])#(?!\w)")
_SUPERSCRIPT = re.compile(r"(?<=[\w)])(?:\^\{?|(?=[⁰¹²³⁴-⁹]))([\d⁰¹²³⁴-⁹]{1,6}|[a-z](?!\w))\}?")
_LESS_MORE = re.compile(r"(?<=\s)([<>])(?=\s)|([<>])(?=\s?\d)")
_DOTS = re.compile(r"\.{4,}")
_REPEATED = re.compile(r"([,;:!?…])\1+|([!?])[!?]*\2[!?]*")
_DASHES = re.compile(r" ?-{2,} ?")
_SLASHED = re.compile(r"(?<=[^\W\d_])/(?=[^\W\d_])")
_BETWEEN = re.compile(r" / (?=\S)")
_EMPTY = re.compile(r"\([\s.,;:]*\)")
_PAUSES = re.compile(r",(?: ?,)+")
_COMMA_BEFORE = re.compile(r" ?, ?(?=[.!?:;…])")
_LEADING = re.compile(r"\A(\s*)(?:,\s*)+")
_SPACES = re.compile(r"[ \t]{2,}")
_SPACE_BEFORE = re.compile(r" (?=[,.](?:\s|\Z))")

_LATIN = {"e.g.": "for example", "i.e.": "that is", "vs.": "versus", "approx.": "approximately"}
_ABBREVIATED = re.compile(r"(?<![\w.])(?:e\.g\.|i\.e\.|vs\.|approx\.)(?=[\s,])", re.IGNORECASE)
_TITLE = re.compile(r"(?<!\w)(Mr|Mrs|Ms|Dr|Prof|St)\.(?=[ \t]+[A-Z])")
_INITIALS = re.compile(r"(?<![\w.])(?:[A-Z]\.){2,12}(?=[ \t,;:)])")


def spoken_form(text: str, language: str) -> str:
    """What is to be given to a voice of `language` (a BCP 47 tag) for a chunk of a reply.

    Words for symbols are known in en, es, fr, pt, hi, de, nl, it, ja and zh; for other languages symbols and
    figures are left to the voice. The same text always gives the same.
    """
    if not _SPECIAL.search(text):
        return text
    words = words_of(language)
    spoken = _without_markup(_characters(_without_tags(text)), words)
    spoken = addresses.said(spoken, words)
    if words is not None:
        if words.english:
            spoken = _without_abbreviations(spoken)
        spoken = figures.said(_without_signs(spoken, words), words)
        spoken = _with_symbols(spoken, words)
    return _tidy(spoken, text)


def _without_tags(text: str) -> str:
    if "<" in text or "-->" in text:
        text = _TAG.sub(" ", text)
    return _ENTITY.sub(lambda m: html.unescape(m[0]), text) if "&" in text else text


class _Table(dict[int, str | int]):
    """What becomes of a character, found when it is first seen."""

    def __missing__(self, code: int) -> str | int:
        self[code] = found = _character(chr(code))
        return found


def _character(char: str) -> str | int:
    """The character, or what stands for it; 0xFFFC for a picture, which joins to the one before."""
    category = unicodedata.category(char)
    if char in "\n\t°№\u200c\u200d\u00a0\u202f\u2009" or "\u2190" <= char <= "\u21ff" or "➔" <= char <= "➾":
        return char
    if char in "\r\v\f\u2028\u2029\x85":
        return "\n"
    if category == "Zs":
        return " "
    if char in "\ufe0e\ufe0f\u20e3" or category in ("Cs", "Co", "Cn") or "\U0001f3fb" <= char <= "\U0001f3ff":
        return ""
    if category == "Cf":
        # Signs that Arabic and Syriac write before a number are read; all others only lay the text out.
        return char if 0x600 <= ord(char) <= 0x8E2 and char != "\u061c" else ""
    if category == "Cc":
        return " "
    plain = unicodedata.normalize("NFKC", char)
    if category == "So":
        return plain if plain[0] == "°" or (plain[0].isalnum() and char not in "™℠") else " "
    # Letters that are bold or italic by their code, and numbers in circles.
    return plain if "\U0001d400" <= char <= "\U0001d7ff" or "\u2460" <= char <= "\u24ff" else char


_CHARACTERS = _Table()


def _characters(text: str) -> str:
    """Without pictures and what is no character."""
    text = _KEYCAP.sub(" ", text)
    if "\u200d" in text or "\u200c" in text:
        # Between letters these are spelling; between pictures they make one of two.
        text = re.sub("[\u200c\u200d]", lambda m: m[0] if _joins(text, m.start()) else "", text)
    return text.translate(_CHARACTERS)


def _joins(text: str, at: int) -> bool:
    before = text[at - 1 : at]
    return bool(before) and before != "\ufe0f" and unicodedata.category(before)[0] in "LM"


def _without_markup(text: str, words: Words | None) -> str:
    """Without Markdown, whose lines become sentences where they have no end of their own."""
    text = _ESCAPE.sub("", _NOTE.sub("", text)).replace("![", "[")
    if "](" in text:
        text = _LINK_END.sub("", text)
    text = "".join(map(_line, text.splitlines(keepends=True)))
    if words is not None:
        text = _TIMES.sub(f" {words.symbols['×']} ", text)
    return _ARROW.sub(", ", _SMILEY.sub("", text))


def _line(line: str) -> str:
    bare = line.strip()
    if bare and (set(bare) <= _MARKS or (bare.startswith("```") and bare.lstrip("`").isalnum())):
        return line[len(line.rstrip()) :]
    head = _LINE_HEAD.match(line)
    rest = line[head.end() :] if head and head.group().strip() else line
    row = bare.startswith("|")
    if rest is line and not row:
        return line
    if row:
        rest = rest.strip().strip("|").strip() + rest[len(rest.rstrip()) :]
    said = rest.rstrip()
    ended = said == rest or not said.rstrip("*_`~# ")[-1:].isalnum()
    return rest if ended else f"{said}.{rest[len(said) :]}"


def _without_abbreviations(text: str) -> str:
    text = _ABBREVIATED.sub(lambda m: _LATIN[m[0].lower()], text)
    text = _TITLE.sub(r"\1", text)
    return _INITIALS.sub(lambda m: " ".join(m[0].replace(".", "")), text)


def _without_signs(text: str, words: Words) -> str:
    """With words for the signs that mean something only where they stand."""
    text = _SHARP.sub(" sharp", text)
    return _SUPERSCRIPT.sub(lambda m: _power(m[1], words), text)


def _power(exponent: str, words: Words) -> str:
    exponent = unicodedata.normalize("NFKC", exponent)
    named = {"2": words.squared, "3": words.cubed}.get(exponent)
    return f" {named or f'{words.power} {exponent}'} "


def _with_symbols(text: str, words: Words) -> str:
    symbols = words.symbols
    text = _LESS_MORE.sub(lambda m: f" {symbols[m[1] or m[2]]} ", text)
    text = re.sub(r"~\s?(?=\d)", f"{symbols['~']} ", text)
    text = re.sub(r"(?<=[\w)\]]) {0,2}={1,3} ?(?=[\w(\[])", f" {symbols['=']} ", text)
    text = re.sub("[&≠≈±×÷≤≥]", lambda m: f" {symbols[m[0]]} ", text)
    return _SLASHED.sub(" ", text.replace("@", f" {words.at} "))


def _tidy(text: str, original: str) -> str:
    """Without stray marks, and with each pause once."""
    text = _UNDERSCORES.sub("", text).replace("_", " ")
    text = text.translate(_STRAY)
    text = _REPEATED.sub(_once, _EMPTY.sub("", _DOTS.sub("...", text)))
    text = _BETWEEN.sub(", ", _DASHES.sub(" — ", text))
    if text == original:
        return text
    text = _SPACES.sub(" ", text)
    text = _SPACE_BEFORE.sub("", text)
    text = _COMMA_BEFORE.sub("", _PAUSES.sub(",", text))
    return text if original.lstrip()[:1] == "," else _LEADING.sub(r"\1", text)


def _once(found: re.Match[str]) -> str:
    """ "!!!" is "!", and "?!?!" is "?!"."""
    return found[1] or "".join(dict.fromkeys(found[0]))
