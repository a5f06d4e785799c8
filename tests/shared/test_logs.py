from __future__ import annotations

import asyncio
import io
import logging
import re
import sys
from collections.abc import Iterator

import pytest

from shared import logs

LINE = re.compile(r"\d\d:\d\d:\d\d\.\d{3} (\w+) +([^:]*): (.*)\n")


@pytest.fixture(autouse=True)
def stderr(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What a process that logs as ours do writes on stderr; afterwards logging is as it was."""
    monkeypatch.delenv("HONCHO_PROCESS_NAME", raising=False)
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    root = logging.getLogger()
    level, before = root.level, set(root.handlers)
    logs.configure("info", "llm")
    yield stderr
    for handler in set(root.handlers) - before:
        root.removeHandler(handler)
    root.setLevel(level)


def said(stderr: io.StringIO) -> list[tuple[str, str, str]]:
    """Level, process with ids, and message of each line."""
    lines = [LINE.fullmatch(line) for line in stderr.getvalue().splitlines(keepends=True)]
    assert None not in lines, stderr.getvalue()
    return [(line[1], line[2], line[3]) for line in lines if line]


def test_a_record_is_one_line_with_level_and_process(stderr: io.StringIO) -> None:
    logging.getLogger("x").info("ready in %d ms", 5)
    assert said(stderr) == [("INFO", "llm", "ready in 5 ms")]


def test_records_below_the_level_are_not_written(stderr: io.StringIO) -> None:
    logging.getLogger("x").debug("nothing")
    assert said(stderr) == []


def test_under_honcho_the_process_has_its_name_there(
    monkeypatch: pytest.MonkeyPatch, stderr: io.StringIO
) -> None:
    monkeypatch.setenv("HONCHO_PROCESS_NAME", "llm.2")
    monkeypatch.setattr(sys, "stderr", stderr)
    logs.configure("debug", "llm")
    logging.getLogger("x").debug("hello")
    assert said(stderr) == [("DEBUG", "llm.2", "hello")]


def test_a_line_break_in_a_message_makes_no_second_line(stderr: io.StringIO) -> None:
    logging.getLogger("x").warning("bad name: %s", "a\r\n12:00:00.000 INFO forged: b")
    assert said(stderr) == [("WARNING", "llm", r"bad name: a\r\n12:00:00.000 INFO forged: b")]


def test_records_name_the_conversation_and_turn_they_are_about(stderr: io.StringIO) -> None:
    log = logging.getLogger("x")
    with logs.bind(conversation="abc"):
        log.info("one")
        with logs.bind(turn=3):
            log.info("two")
        log.info("three")
    log.info("four")
    assert [ids for _, ids, _ in said(stderr)] == ["llm abc", "llm abc#3", "llm abc", "llm"]


async def test_what_one_task_binds_stays_with_it_and_the_tasks_it_starts(
    stderr: io.StringIO,
) -> None:
    async def inner() -> None:
        logging.getLogger("x").info("inner")

    async def outer() -> None:
        logs.bind(conversation="abc", turn=1)
        await asyncio.create_task(inner())

    await asyncio.create_task(outer())
    logging.getLogger("x").info("outside")
    assert [ids for _, ids, _ in said(stderr)] == ["llm abc#1", "llm"]


def test_an_exception_is_told_in_the_same_line_with_the_way_to_it(stderr: io.StringIO) -> None:
    def fails() -> None:
        try:
            raise KeyError("lost")
        except KeyError as error:
            raise ValueError("first\nsecond") from error

    try:
        fails()
    except ValueError:
        logging.getLogger("x").exception("turn failed")
    [(level, _, message)] = said(stderr)
    assert level == "ERROR"
    assert re.fullmatch(
        r"turn failed \| ValueError: first\\nsecond \[test_logs\.py:\d+ fails < test_logs\.py:\d+ test_\w+\] "
        r"\| from KeyError: 'lost' \[test_logs\.py:\d+ fails\]",
        message,
    )


def test_each_error_of_a_group_is_told(stderr: io.StringIO) -> None:
    try:
        raise ExceptionGroup("both", [ValueError("one"), KeyError("two")])
    except ExceptionGroup:
        logging.getLogger("x").exception("stopped")
    [(_, _, message)] = said(stderr)
    assert "within: ValueError: one" in message and "within: KeyError: 'two'" in message


def test_libraries_are_quiet_below_warning(stderr: io.StringIO) -> None:
    logging.getLogger("uvicorn.access").info("GET /")
    logging.getLogger("uvicorn.error").warning("odd")
    assert [message for _, _, message in said(stderr)] == ["odd"]
