"""Who finds the ends of utterances, as a client asks for it: the checks of those settings of `configure`."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from edge.endpointing import ServerVad, Silence
from edge.protocols.fields import Check, Choice, Number, unfit
from shared.errors import ClientError


class TurnDetection(StrEnum):
    """Who finds the ends of utterances: the client, or the server by voice activity."""

    NONE = "none"
    SERVER_VAD = "server_vad"


def turn_detection(value: object) -> ServerVad | TurnDetection:
    """A map with `type` and the settings of voice activity detection, or the type alone.

    What a map leaves out is at its default, whatever was set before.
    """
    given = value if isinstance(value, dict) else {"type": value}
    if _TYPE(given.get("type")) is TurnDetection.NONE:
        return TurnDetection.NONE
    values: dict[str, Any] = {}
    for name, check in SERVER_VAD.items():
        if given.get(name) is not None:
            try:
                values[name] = check(given[name])
            except ClientError as error:
                raise ClientError(error.code, f"{name}: {error.message}") from None
    return ServerVad(**values)


def silence_ms(value: object) -> float | Silence:
    """A number of milliseconds, or `auto`."""
    if value == Silence.AUTO:
        return Silence.AUTO
    if isinstance(value, str):
        raise unfit("'auto' or a number of milliseconds", value)
    return SILENCE_MS(value)


_TYPE = Choice(TurnDetection)
SILENCE_MS = Number(100.0, 10_000.0)
SERVER_VAD: dict[str, Check] = {
    "threshold": Number(0.0, 1.0, above=True),
    "prefix_padding_ms": Number(0.0, 2000.0),
    "silence_ms": silence_ms,
    "pause_ms": Number(50.0, 10_000.0),
    "min_speech_ms": Number(0.0, 2000.0),
}
"""The settings in a map, beside its `type`."""
