"""What a person sees of a conversation: words on standard output, everything else on standard error.

So `parley talk question.wav > answer.txt` leaves nothing but the answer in the file. On a terminal, what
passes (progress, waiting) is one line that is written over; elsewhere it is not written at all.
"""

from __future__ import annotations

import shutil
import sys
from typing import TextIO

BAR_CELLS = 24
ERASE = "\r\x1b[K"


class Screen:
    """Two streams that may be one terminal."""

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        self._passing = False
        self._column = 0
        self.blocks = _can_show(self._err, "█")
        """Whether more than ASCII can be shown."""

    @property
    def width(self) -> int:
        """Columns of a line, on a terminal or elsewhere."""
        return shutil.get_terminal_size((100, 24)).columns if self._err.isatty() else 100

    def progress(self, what: str, done_s: float, whole_s: float | None) -> None:
        """How far something has come, in seconds."""
        if whole_s is None:
            self.passing(f"{what} {done_s:6.1f} s")
            return
        filled = min(BAR_CELLS, int(done_s / whole_s * BAR_CELLS))
        full, empty = ("━", "─") if self.blocks else ("=", "-")
        self.passing(f"{what} {full * filled}{empty * (BAR_CELLS - filled)} {done_s:.1f} / {whole_s:.1f} s")

    def passing(self, text: str) -> None:
        """A line that the next one takes the place of."""
        if self._err.isatty():
            self._err.write(f"{ERASE}{text[: self.width - 1]}")
            self._err.flush()
            self._passing = True

    def word(self, text: str) -> None:
        """A piece of the answer, right after the one before; a terminal's lines break between words."""
        self._clear()
        if self._out.isatty():
            text = _harmless(text)
            if text[:1] == " " and self._column + len(text) > self.width:
                text = f"\n{text[1:]}"
        self._write(text)

    def end_answer(self) -> None:
        """The answer is over: what comes next begins on a line of its own."""
        self._clear()
        if self._column:
            self._write("\n")

    def note(self, text: str) -> None:
        """A line that stays."""
        self._clear()
        if self._column and self._out.isatty():
            self._write("\n")
        self._err.write(f"{text}\n")
        self._err.flush()

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()
        _, newline, after = text.rpartition("\n")
        self._column = len(after) if newline else self._column + len(text)

    def _clear(self) -> None:
        if self._passing:
            self._err.write(ERASE)
            self._err.flush()
            self._passing = False


def _can_show(stream: TextIO, text: str) -> bool:
    try:
        text.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _harmless(text: str) -> str:
    """Without what would move the cursor or worse: the words come from a model."""
    return "".join(each if each.isprintable() or each in "\n\t" else "\ufffd" for each in text)
