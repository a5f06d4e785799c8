"""The packages of the model engines, which the base installation does without.

Knows which are there, and says in one line what installs one that is not. Imports none of them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

from shared.errors import EngineError

COMMAND = "make models"
"""What installs them: the extras `models` and `openai` of this project, at the pinned versions."""


def installed(*names: str) -> bool:
    """Whether all of these top-level packages are there. Imports none of them: it costs next to nothing."""
    return all(importlib.util.find_spec(name) is not None for name in names)


@contextmanager
def needed_for(setting: str, *names: str) -> Iterator[None]:
    """Around the making of an engine that needs these, and what they need themselves. A missing package is
    one line, before anything is imported where it is one of these. Raises `EngineError`.
    """
    try:
        for name in names:
            if not installed(name):
                raise ModuleNotFoundError(name=name)
        yield
    except ModuleNotFoundError as error:
        raise EngineError(
            f"{setting} needs the package {error.name!r}, which is not installed: {COMMAND} installs it"
        ) from error
