from __future__ import annotations

import io

from deploy.cli.screen import ERASE, Screen


class Terminal(io.StringIO):
    """A stream that says it is a terminal, 100 columns wide."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_words_go_to_standard_output_and_nothing_else_does() -> None:
    out, err = io.StringIO(), io.StringIO()
    screen = Screen(out, err)
    screen.progress("question.wav", 1.0, 2.0)
    screen.word("Hello")
    screen.note("(reconnected)")
    screen.word(" there.")
    screen.end_answer()
    screen.end_answer()
    assert out.getvalue() == "Hello there.\n"
    assert err.getvalue() == "(reconnected)\n"


def test_on_a_terminal_progress_is_written_over_and_leaves_no_trace() -> None:
    terminal = Terminal()
    screen = Screen(terminal, terminal)
    screen.progress("question.wav", 1.0, 2.0)
    screen.progress("question.wav", 2.0, 2.0)
    screen.word("Hello")
    first, second, words = terminal.getvalue().removeprefix(ERASE).split(ERASE)
    assert first == "question.wav ━━━━━━━━━━━━──────────── 1.0 / 2.0 s"
    assert second.endswith("2.0 / 2.0 s")
    assert words == "Hello"


def test_on_a_terminal_a_note_does_not_stand_in_the_middle_of_the_words() -> None:
    terminal = Terminal()
    screen = Screen(terminal, terminal)
    screen.word("Hello")
    screen.note("(reconnected)")
    screen.word(" there")
    screen.end_answer()
    assert terminal.getvalue() == "Hello\n(reconnected)\n there\n"


def test_a_terminal_breaks_lines_between_words() -> None:
    terminal = Terminal()
    screen = Screen(terminal, terminal)
    for _ in range(60):
        screen.word(" words")
    lines = terminal.getvalue().split("\n")
    assert len(lines) > 1
    assert all(len(line) <= screen.width and line.endswith("words") for line in lines)


def test_what_a_model_says_cannot_move_the_cursor() -> None:
    terminal = Terminal()
    Screen(terminal, terminal).word("\x1b[2Jgone\nnot")
    assert terminal.getvalue() == "\ufffd[2Jgone\nnot"


def test_the_length_of_what_nobody_knows_the_end_of_is_counted() -> None:
    terminal = Terminal()
    Screen(terminal, terminal).progress("listening", 3.25, None)
    assert terminal.getvalue().removeprefix(ERASE).split() == ["listening", "3.2", "s"]


def test_a_terminal_that_shows_ascii_only_gets_ascii_only() -> None:
    class Old(Terminal):
        encoding = "ascii"

    terminal = Old()
    screen = Screen(terminal, terminal)
    screen.progress("question.wav", 1.0, 2.0)
    assert not screen.blocks
    assert terminal.getvalue().isascii()
