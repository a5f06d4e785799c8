"""Where a reply is cut into semantic chunks: speak early, but not ugly.

Owns the rules by which a growing text becomes pieces worth speaking. It is pure: text and times come in,
pieces go out. Knows nothing of models, voices, logs, tasks or clocks: times are milliseconds on any one
clock, which the caller reads.

    tokens -> feed -> the pending text -> a stop, a clause, the clock or the length cuts it -> pieces

What ends a piece:

- A stop ("!", "?", "…", danda, the CJK stops) at once, right after its character: a quote or bracket that
  closes behind it, and the space, open the next piece.
- A full stop at once as well, unless the next character must tell. After a digit it ends the sentence if
  white space follows, but not the number of a list ("2. Eggs"); after a single letter or an abbreviation
  ("U.S.", "Dr.") only if the line ends there.
- A comma, semicolon or colon after a letter, or a dash: a clause. The first piece of a reply may be one of
  any length; later ones have `CLAUSE_CHARS` at least, and wait while more than `BACKLOG_MS` of speech is
  still to be heard: then sentences are kept whole, for they sound better so.
- The clock, for the first piece only: `FIRST_WORDS_MS` after the first token, the words that are whole.
- The length: `MAX_CHARS`, a bound that holds always.

In a web or mail address any mark waits for white space. Text without a letter or digit is never spoken
alone: it opens the next piece, or is the last one. (Only a run of such text that is longer than `MAX_CHARS`
is a piece before that.) The pieces joined are the reply, character for character.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from shared.text import speakable

FIRST_WORDS_MS = 250.0
"""How long after the first token whole words are spoken without waiting for a clause."""
CLAUSE_CHARS = 12
"""The shortest clause that is spoken by itself after the first piece."""
BACKLOG_MS = 1000.0
"""Speech still to be heard: with more than this, clauses wait for their sentence."""
MS_PER_CHAR = 60.0
"""How long a character takes to be spoken, about."""
MAX_CHARS = 250
"""The longest piece."""


class Boundary(StrEnum):
    """What ended a piece."""

    SENTENCE_END = "sentence_end"
    CLAUSE_BREAK = "clause_break"
    TIME = "time"
    MAX_LENGTH = "max_length"
    END_OF_STREAM = "end_of_stream"


@dataclass(frozen=True, slots=True)
class Piece:
    """A semantic chunk: characters `from_` to `upto` (exclusive) of the reply; `boundary` is a `Boundary`.

    Without a letter or digit in it (`speakable`), it is there for the record and has nothing to be voiced.
    """

    text: str
    from_: int
    upto: int
    boundary: str


class Chunker:
    """Cuts one reply. Feed it each token, tick it at `deadline_ms`, finish it when the reply has ended.

    Each call returns the pieces that it completed, in order. The cost of a call follows the length of the new
    text, not of the reply.
    """

    def __init__(self) -> None:
        self._reply: list[str] = []
        self._pending = ""  # the end of the reply that is not cut yet, at most MAX_CHARS
        self._from = 0  # where the pending text begins: the characters spoken
        self._clause = 0  # where the last clause that waits ends in the pending text; 0: there is none
        self._first_token_ms: float | None = None
        self._first_piece_ms: float | None = None
        self._found: list[Piece] = []  # by `rebuild`, for the next call

    @classmethod
    def rebuild(cls, tokens: Iterable[tuple[str, float]], spoken: Iterable[tuple[Piece, float]]) -> Chunker:
        """The chunker as it stood after all `tokens`, of whose pieces those in `spoken` are known.

        Both come with their times, on one clock, and in order. It goes on exactly after the last piece
        spoken: what more should have been cut by then is cut again, alike, and returned by the next call.
        """
        chunker = cls()
        for piece, at_ms in spoken:
            chunker._note(piece, at_ms)
            chunker._reply.append(piece.text)
        known = chunker._from
        found: list[Piece] = []
        for text, at_ms in tokens:
            found += chunker.feed(text[known:], at_ms)
            known = max(0, known - len(text))
        chunker._found = found
        return chunker

    @property
    def reply(self) -> str:
        """All that was fed."""
        return "".join(self._reply)

    @property
    def deadline_ms(self) -> float | None:
        """When `tick` will have a piece if nothing is fed before; `None` if time alone brings none.

        In the past only after `rebuild`: then tick at once.
        """
        if self._found:
            return self._first_token_ms
        due = self._due()
        return due and due[0]

    def feed(self, text: str, now_ms: float) -> list[Piece]:
        """Append a token to the reply. Any split of the text is as good as another; it may be empty."""
        pieces = self._take_found()
        if self._first_token_ms is None:
            self._first_token_ms = now_ms
        self._reply.append(text)
        for char in text:
            pieces += self._mark(boundary_after(self._pending, char), now_ms)
            if len(self._pending) == MAX_CHARS:
                pieces.append(self._cut(self._longest(char), Boundary.MAX_LENGTH, now_ms))
            self._pending += char
            pieces += self._mark(boundary_after(self._pending), now_ms)
        return pieces + self.tick(now_ms)

    def tick(self, now_ms: float) -> list[Piece]:
        """Let time pass."""
        pieces = self._take_found()
        due = self._due()
        if due is not None:
            due_ms, upto, boundary = due
            if now_ms >= due_ms:
                pieces.append(self._cut(upto, boundary, now_ms))
        return pieces

    def finish(self) -> list[Piece]:
        """The reply has ended: all the rest, whatever it is."""
        pieces = self._take_found()
        if self._pending:
            upto = self._from + len(self._pending)
            pieces.append(Piece(self._pending, self._from, upto, Boundary.END_OF_STREAM))
            self._pending, self._from, self._clause = "", upto, 0
        return pieces

    def _mark(self, boundary: Boundary | None, now_ms: float) -> list[Piece]:
        """The pending text ends in `boundary`: cut it there, or if it is a clause that must wait, note it."""
        if boundary is None:
            return []
        if boundary is Boundary.CLAUSE_BREAK and self._first_piece_ms is not None:
            if len(self._pending) < CLAUSE_CHARS:
                return []
            if now_ms < self._clauses_from_ms(self._first_piece_ms):
                self._clause = len(self._pending)
                return []
        return [self._cut(len(self._pending), boundary, now_ms)]

    def _due(self) -> tuple[float, int, Boundary] | None:
        """When time alone will cut the pending text, where, and as what."""
        if self._first_piece_ms is not None:
            if self._clause:
                return self._clauses_from_ms(self._first_piece_ms), self._clause, Boundary.CLAUSE_BREAK
        elif self._first_token_ms is not None and (words := _whole_words(self._pending)):
            return self._first_token_ms + FIRST_WORDS_MS, words, Boundary.TIME
        return None

    def _clauses_from_ms(self, first_piece_ms: float) -> float:
        """When no more than `BACKLOG_MS` of what was spoken will be left to hear."""
        return first_piece_ms + self._from * MS_PER_CHAR - BACKLOG_MS

    def _longest(self, following: str) -> int:
        """Where to cut the pending text, which is full: after a clause, else a word, else anywhere."""
        return self._clause or _whole_words(self._pending + following) or MAX_CHARS

    def _cut(self, length: int, boundary: Boundary, now_ms: float) -> Piece:
        piece = Piece(self._pending[:length], self._from, self._from + length, boundary)
        self._pending = self._pending[length:]
        self._note(piece, now_ms)
        return piece

    def _note(self, piece: Piece, at_ms: float) -> None:
        self._from = piece.upto
        self._clause = 0
        if self._first_piece_ms is None:
            self._first_piece_ms = at_ms

    def _take_found(self) -> list[Piece]:
        found, self._found = self._found, []
        return found


def boundary_after(text: str, following: str = "") -> Boundary | None:
    """What the last character of `text` ends, with `following` behind it ("": nothing came yet).

    `None` if it ends nothing, if that cannot be told without the next character, or if there is nothing to
    be spoken in `text`. The last character is judged by the text alone, however it was cut into tokens.
    """
    mark = text[-1:]
    if mark not in _MARKS:
        return None
    before = text[:-1]
    if not speakable(before):
        return None
    if _IN_ADDRESS.search(text) and not following.isspace():
        return None
    if mark in _STOPS:
        return Boundary.SENTENCE_END
    if mark in _FULL_STOPS:
        return Boundary.SENTENCE_END if _full_stop_ends(before, following) else None
    ends = _dash_ends(mark, before, following) if mark in _DASHES else _ends_in_letter(before)
    return Boundary.CLAUSE_BREAK if ends else None


_STOPS = "!?…" + "।॥" + "。｡！？" + "؟۔" + "։።፧။។" + "‼⁇⁈⁉"  # noqa: RUF001
_FULL_STOPS = ".．"  # noqa: RUF001
_CLAUSE_MARKS = ",;:" + "，、､；：" + "،؛"  # noqa: RUF001
_DASHES = {"—": 0, "–": 1, "-": 2}  # on how many sides a space must be, for it to be one  # noqa: RUF001
_MARKS = frozenset([*_STOPS, *_FULL_STOPS, *_CLAUSE_MARKS, *_DASHES])
_APOSTROPHES = "'’"  # noqa: RUF001

_IN_ADDRESS = re.compile(r"(?:https?:|www\.|@)\S*\Z", re.IGNORECASE)
_LIST_NUMBER = re.compile(r"(?:\A|\n)\W*\d{1,3}\Z")  # opens the piece, or a line
_WHOLE_WORDS = re.compile(r".*[^\s.．](?=\s)", re.DOTALL)  # noqa: RUF001

# Abbreviations with a full stop that are no words without it: "no.", "sat." and "may." end a sentence. The
# dotted ones ("e.g.", "p.m.", "z.B.") need no place here: each of their full stops follows a single letter.
_ABBREVIATIONS = frozenset(
    """
    mr mrs ms dr prof rev hon st mt sr jr gen col capt cmdr lt sgt gov sen rep ph vs etc approx dept inc ltd
    corp ave blvd vol jan feb apr jun jul aug sep sept oct nov dec
    fr hr nr bzw ca evtl ggf inkl usw mme mlle sra srta dra ud uds núm pág sig dott avv dhr mevr bijv enz
    """.split()
)


def _full_stop_ends(before: str, following: str) -> bool:
    if before[-1].isdigit():
        return following.isspace() and not _LIST_NUMBER.search(before)
    word = _last_word(before)
    letters = [char for char in word if not _is_combining(char)]
    single = len(letters) == 1 and letters[0].isalpha()
    if single or word.casefold() in _ABBREVIATIONS:
        return following == "\n"
    return True


def _dash_ends(mark: str, before: str, following: str) -> bool:
    """No dash is in "well-known" and "Mon–Fri"; one is in "Yes—I", "Yes – I", "Yes - I" and "Yes -- I"."""  # noqa: RUF002
    before = before.rstrip(mark)  # a dash may be typed as several
    words = before.rstrip(" ")
    spaces = (words != before) + following.isspace()
    return _ends_in_letter(words) and spaces >= _DASHES[mark]


def _last_word(text: str) -> str:
    start = len(text)
    while start and _in_word(text[start - 1]):
        start -= 1
    return text[start:].strip(_APOSTROPHES)


def _in_word(char: str) -> bool:
    return char.isalnum() or char in _APOSTROPHES or _is_combining(char)


def _ends_in_letter(text: str) -> bool:
    """Whether the last character is a letter; vowel signs and accents belong to the one before them."""
    for char in reversed(text):
        if not _is_combining(char):
            return char.isalpha()
    return False


def _is_combining(char: str) -> bool:
    return unicodedata.category(char).startswith("M")


def _whole_words(text: str) -> int:
    """Where the last whole word ends; 0: nowhere, or there is nothing to be spoken before.

    A word is whole when white space follows: a token may be a piece of a word, and after a mark a word may go
    on as well ("don't", "3.5", "well-known"). A full stop that ended no sentence keeps its word with the next
    one ("Dr. Jones", "2. Eggs").
    """
    words = _WHOLE_WORDS.match(text)
    return words.end() if words and speakable(words.group()) else 0
