"""Checks of one field that came from a client: each takes the value as parsed and answers it as it is used.

Owns what is a number, a text, a choice; knows no message. A check raises `ClientError` with a message that
says what was expected and what came instead, cut to `SHOWN` characters; the caller puts the field's name
in front.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from shared.errors import ClientError
from shared.wire import Address

Check = Callable[[object], object]

SHOWN = 40
"""How many characters of what a client sent an error message repeats."""
MAX_INT = 2**53 - 1
"""The largest integer that every client can count to exactly."""


def unfit(expected: str, value: object, *, code: str = "bad_message") -> ClientError:
    """The error for a value that is not what was expected."""
    return ClientError(code, f"expected {expected}, got {shown(value)}")


def shown(value: object) -> str:
    """A value in at most `SHOWN` printable characters, or what kind of thing it is."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() if abs(value) >= 2**64:
            return "a number of more than 64 bits"
        case int() | float():
            return str(value)
        case str():
            text = ascii(value[:SHOWN])
            return text if len(value) < SHOWN and len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
        case bytes():
            return f"{len(value)} bytes"
        case dict():
            return "a map"
        case list():
            return "a list"
        case _:
            return "nothing" if value is None else type(value).__name__


def flag(value: object) -> bool:
    """True or false, and nothing that merely passes for it."""
    if not isinstance(value, bool):
        raise unfit("true or false", value)
    return value


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number from `low` to `high`, both included; a boolean is none."""

    low: int
    high: int

    def __call__(self, value: object) -> int:
        """The number."""
        if isinstance(value, bool) or not isinstance(value, int) or not self.low <= value <= self.high:
            raise unfit(f"a whole number from {self.low} to {self.high}", value)
        return value


@dataclass(frozen=True, slots=True)
class Number:
    """A finite number from `low` to `high`, both included; `above`: `low` itself is too little."""

    low: float
    high: float
    above: bool = False

    def __call__(self, value: object) -> float:
        """The number, as a float."""
        # Compared before it is converted: an integer may be too large for a float. NaN fails both.
        if isinstance(value, bool) or not isinstance(value, int | float) or not self._holds(value):
            raise unfit(self._expected, value)
        return float(value)

    def _holds(self, value: float) -> bool:
        return self.low <= value <= self.high and not (self.above and value == self.low)

    @property
    def _expected(self) -> str:
        if self.above:
            return f"a number above {self.low} and up to {self.high}"
        return f"a number from {self.low} to {self.high}"


@dataclass(frozen=True, slots=True)
class String:
    """From `shortest` to `longest` characters, whole ones only; `blank`: white space alone will do."""

    shortest: int
    longest: int
    blank: bool = True

    def __call__(self, value: object) -> str:
        """The string."""
        if not isinstance(value, str):
            raise unfit(self._expected, value)
        if not self.shortest <= len(value) <= self.longest:
            raise self._unfit(f"one of {len(value)}")
        if not _is_utf8(value):
            raise self._unfit("one with half a surrogate pair")
        if not self.blank and not value.strip():
            raise self._unfit("nothing but white space")
        return value

    def _unfit(self, got: str) -> ClientError:
        return ClientError("bad_message", f"expected {self._expected}, got {got}")

    @property
    def _expected(self) -> str:
        return f"a string of {self.shortest} to {self.longest} characters"


def _is_utf8(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the values of an enumeration."""

    options: type[StrEnum]

    def __call__(self, value: object) -> StrEnum:
        """The member of the enumeration."""
        try:
            # Only a string: an enumeration takes its own members too, and looks others up by their hash.
            return self.options(value if isinstance(value, str) else "")
        except ValueError:
            raise unfit(" or ".join(f"'{option}'" for option in self.options), value) from None


def address(value: object) -> Address | None:
    """A place in a log, such as `3-17`; `0-0` is none: the start of what is kept."""
    if value == "0-0":
        return None
    try:
        found = Address.parse(value) if isinstance(value, str) else None
    except ValueError:
        found = None
    if found is None or found.turn == 0:
        raise unfit("an address such as '3-17'", value)
    return found


def base64_audio(value: object) -> bytes:
    """Audio as strict base64: padded, and without a character that is not of its alphabet."""
    if not isinstance(value, str):
        raise unfit("audio in base64", value, code="bad_audio")
    try:
        # Strict as it is, Python up to 3.12 overlooks padding behind a text that needs none.
        if len(value) % 4 or value.endswith("==="):
            raise binascii.Error("Incorrect padding")
        return binascii.a2b_base64(value, strict_mode=True)
    except ValueError as error:
        reason = str(error) if isinstance(error, binascii.Error) else "a character outside of ASCII"
        raise ClientError("bad_audio", f"expected audio in base64: {reason}") from None


def raw_audio(value: object) -> bytes:
    """Audio as the bytes it is."""
    if not isinstance(value, bytes):
        raise unfit("audio as raw bytes", value, code="bad_audio")
    return value
