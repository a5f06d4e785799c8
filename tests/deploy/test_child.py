from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from deploy import child


@pytest.mark.parametrize(
    ("returncode", "words", "code"),
    [
        (0, "ended with exit code 0", 0),
        (78, "ended with exit code 78", 78),
        (-signal.SIGKILL, "was killed by SIGKILL", 137),
        (-40, "was killed by signal 40", 168),
    ],
)
def test_an_end_is_told_in_words_and_as_shells_number_it(returncode: int, words: str, code: int) -> None:
    assert child.describe_end(returncode) == words
    assert child.exit_code(returncode) == code


def test_a_child_leads_a_session_of_its_own_and_has_what_it_was_given(tmp_path: Path) -> None:
    print_it = "import os; print(os.getsid(0) == os.getpid(), os.environ['GIVEN'], flush=True)"
    with (tmp_path / "output").open("wb") as output:
        started = child.start(
            [sys.executable, "-c", print_it], environ={**os.environ, "GIVEN": "yes"}, output=output
        )
    assert started.wait() == 0
    assert (tmp_path / "output").read_text() == "True yes\n"
