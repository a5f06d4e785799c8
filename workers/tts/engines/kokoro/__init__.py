"""Kokoro-82M: text in, speech out, in nine languages. Costs nothing until `Kokoro` is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workers.tts.engines.kokoro.engine import Kokoro

__all__ = ["Kokoro"]


def __getattr__(name: str) -> Any:
    if name != "Kokoro":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from workers.tts.engines.kokoro.engine import Kokoro

    return Kokoro
