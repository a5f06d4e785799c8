from __future__ import annotations

import io

from deploy.cli.screen import ERASE, PLAIN, STRUCK, Screen


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


def test_what_was_heard_of_an_answer_and_what_was_not() -> None:
    def shown(heard: str, unheard: str, heard_ms: float, err: io.StringIO) -> str:
        Screen(io.StringIO(), err).interrupted(heard, unheard, heard_ms)
        return err.getvalue()

    whole = ("Hello.", " How are\x1b[2J you?", 1234.0)
    assert shown(*whole, err=Terminal()) == (
        f'(interrupted after 1.2 s: "Hello.") {STRUCK}How are\ufffd[2J you?{PLAIN}\n'
    )
    assert shown(*whole, err=io.StringIO()) == (
        '(interrupted after 1.2 s: "Hello."; not heard: "How are\ufffd[2J you?")\n'
    )
    assert shown("Hello.", "", 1234.0, err=Terminal()) == '(interrupted after 1.2 s: "Hello.")\n'
    assert shown("", "", 0.0, err=Terminal()) == "(interrupted before anything was heard)\n"


def test_a_state_passes_on_a_terminal_and_is_a_line_elsewhere_and_stands_in_no_answer() -> None:
    plain, terminal = io.StringIO(), Terminal()
    for out in (plain, terminal):
        screen = Screen(out, out)
        for state in ("hearing", "thinking", "thinking"):
            screen.state(state)
        screen.word("Hello")
        screen.state("speaking")
        screen.word(".")
    assert plain.getvalue() == "(hearing)\n(thinking)\nHello(speaking)\n."
    assert terminal.getvalue() == f"{ERASE}hearing{ERASE}thinking{ERASE}thinking{ERASE}Hello."
