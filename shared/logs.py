"""Logging, one line a record: the time, the level, the process, the ids of what it is about, the message.

Owns the format and the context that ids come from. Knows nothing of what is logged; callers never log audio,
text or tokens.
"""

from __future__ import annotations

import contextvars
import logging
import os
import sys
import traceback
from types import TracebackType
from typing import Self

_conversation: contextvars.ContextVar[str] = contextvars.ContextVar("conversation", default="")
_turn: contextvars.ContextVar[int | None] = contextvars.ContextVar("turn", default=None)

# These tell at INFO what our own lines tell better, or say it twice.
_QUIET = (
    "asyncio", "httpcore", "httpcore2", "httpx", "httpx2", "mistral_common", "openai", "redis", "rq",
    "uvicorn", "uvicorn.access", "uvicorn.error", "websockets",
)  # fmt: skip
_FRAMES = 8


def configure(level: str, process: str) -> None:
    """Send every record of at least `level` to stderr; `process` names this process in each line.

    Under Honcho the process is named as Honcho names it, as `llm.2`. Called again, it replaces what it set.
    """
    root = logging.getLogger()
    for before in [each for each in root.handlers if isinstance(each.formatter, _OneLine)]:
        root.removeHandler(before)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine(os.environ.get("HONCHO_PROCESS_NAME") or process))
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


class bind:
    """Name the conversation and turn that the records of this task, and of tasks it starts, are about.

    It holds from the call on; as a context manager it ends with the block. What is not given stays as it was.
    """

    def __init__(self, *, conversation: str | None = None, turn: int | None = None) -> None:
        self._conversation = None if conversation is None else _conversation.set(conversation)
        self._turn = None if turn is None else _turn.set(turn)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._turn is not None:
            _turn.reset(self._turn)
        if self._conversation is not None:
            _conversation.reset(self._conversation)


class _OneLine(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__(datefmt="%H:%M:%S")
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        time = f"{self.formatTime(record, self.datefmt)}.{int(record.msecs):03d}"
        message = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            message += f" | {_one_line(record.exc_info[1])}"
        # A line break inside a message would let what a client sent look like a record of its own.
        message = message.replace("\r", "\\r").replace("\n", "\\n")
        return f"{time} {record.levelname:<7} {self._process}{_ids()}: {message}"


def _ids() -> str:
    conversation, turn = _conversation.get(), _turn.get()
    return (f" {conversation}" if conversation else "") + (f"#{turn}" if turn is not None else "")


def _one_line(error: BaseException) -> str:
    """The error and the way to it, innermost first, and so for its cause."""
    way = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)][-_FRAMES:]
    places = " < ".join(
        f"{os.path.basename(code.co_filename)}:{line} {code.co_name}" for code, line in reversed(way)
    )
    text = f"{type(error).__name__}: {error} [{places}]"
    if isinstance(error, BaseExceptionGroup):
        text += "".join(f" | within: {_one_line(each)}" for each in error.exceptions)
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return f"{text} | from {_one_line(cause)}" if cause is not None else text
