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
STRUCK, PLAIN = "\x1b[2;9m", "\x1b[0m"
"""Dim and struck out, and as usual again."""


class Screen:
    """Two streams that may be one terminal."""

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        self._passing = False
        self._column = 0
        self._state = ""
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
            text = harmless(text)
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

    def state(self, text: str) -> None:
        """What goes on now; may be said again and again. On a terminal it passes, and stands in no answer."""
        if self._err.isatty():
            if not self._column:
                self.passing(text)
        elif text != self._state:
            self.note(f"({text})")
        self._state = text

    def interrupted(self, heard: str, unheard: str, heard_ms: float) -> None:
        """The user spoke over the answer: what of it was heard, and what was not."""
        said = f'(interrupted after {heard_ms / 1000:.1f} s: "{harmless(heard)}"'
        if not heard_ms:
            said = "(interrupted before anything was heard"
        if not unheard.strip():
            self.note(f"{said})")
        elif self._err.isatty():
            self.note(f"{said}) {STRUCK}{harmless(unheard).strip()}{PLAIN}")
        else:
            self.note(f'{said}; not heard: "{harmless(unheard).strip()}")')

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


def harmless(text: str) -> str:
    """Without what would move the cursor or worse: the words come from a model."""
    return "".join(each if each.isprintable() or each in "\n\t" else "\ufffd" for each in text)
