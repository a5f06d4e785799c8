"""Web and mail addresses, and names of files, as people say them.

    "https://www.example.com/help?utm_source=x" ─> "example dot com slash help"

Every pattern is bounded, or begins where no other match can: the cost follows the length of the text.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from workers.tts.words import Words

_LABEL = r"[A-Za-z0-9-]{1,63}"
_MAIL = re.compile(rf"(?:mailto:)?(?<![\w.%+-])([\w.%+-]{{1,64}}@{_LABEL}(?:\.{_LABEL}){{1,8}})", re.ASCII)
# Of ASCII only, so that it ends where a text without spaces goes on.
_WEB = re.compile(r"(?<![\w@])(?:https?://|ftp://|www\.)[!#-;=?-_a-~]+", re.IGNORECASE | re.ASCII)
_NAME = re.compile(
    rf"(?<![\w@./-])({_LABEL}(?:\.[a-z0-9-]{{1,63}}){{1,8}})(/[!#-;=?-_a-~]*)?(?!\w)", re.ASCII
)
_AFTER = "".join((".,;:!?", "'*_~)]}|"))
"""What stands behind an address more often than in it."""

_TRACKING = re.compile(r"(?:utm_\w*|\w*clid|mc_[ce]id|ref|ref_src|si|igshid|_ga)", re.IGNORECASE)


def said(text: str, words: Words | None) -> str:
    """The text with its addresses as they are said. Without words, only what nobody says is taken off."""
    text = _WEB.sub(lambda m: _web(m[0], words), text)
    if words is None:
        return text
    text = _MAIL.sub(lambda m: _spelled(m[1], words), text)
    return _NAME.sub(lambda m: _name(m, words), text)


def _web(address: str, words: Words | None) -> str:
    bare = address.rstrip(_AFTER)
    if bare.count("(") > bare.count(")") and address[len(bare) :].startswith(")"):
        bare += ")"
    rest = address[len(bare) :]
    place = re.sub(r"^(?:\w{1,5}://)?(?:www\.)?", "", bare, count=1, flags=re.IGNORECASE)
    if not place:
        return address
    place = place.partition("#")[0]
    path, _, query = place.partition("?")
    kept = [each for each in query.split("&") if each and not _TRACKING.fullmatch(each.partition("=")[0])]
    place = path.rstrip("/") + ("?" + "&".join(kept) if kept else "")
    if words is None:
        return place + rest
    return _spelled(unquote(place), words) + rest


def _name(found: re.Match[str], words: Words) -> str:
    """A host or a file: of labels of two characters and more, of which the last is of letters."""
    *before, last = found[1].split(".")
    looks_so = last.isalpha() and len(last) > 1 and len(before[0]) > 1 and not before[0].isdigit()
    return _web("http://" + found[0], words) if looks_so else found[0]


def _spelled(address: str, words: Words) -> str:
    symbols = words.symbols
    table = {
        ".": words.dot, "/": words.slash, "-": words.dash, "_": words.underscore, "@": words.at,
        "?": words.question, "=": symbols["="], "&": symbols["&"], "+": symbols["+"], "~": symbols["~"],
    }  # fmt: skip
    spelled = "".join(f" {table[char]} " if char in table else char for char in address)
    return " ".join(spelled.split())
