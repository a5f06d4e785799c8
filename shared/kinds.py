"""What a setting may be: how its text is read, how its value is shown, and the words for what was expected.

Knows no setting. A `parse` raises `ValueError` for a text that it cannot read.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROLES = ("edge", "redis", "llm", "tts", "jobs")
"""The roles of the Procfile, in its order."""

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96}@[\w.-]{1,100}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Kind:
    """`expected` completes the sentence "expected …", `bounds` is short for it in a table; the value of a
    `secret` is shown to nobody."""

    expected: str
    bounds: str
    parse: Callable[[str], Any]
    show: Callable[[Any], str] = str
    secret: bool = False


def whole(low: int, high: int) -> Kind:
    """A whole number within bounds, both allowed."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"\d{1,15}", text, re.ASCII) or not low <= int(text) <= high:
            raise ValueError
        return int(text)

    return Kind(f"a whole number from {low} to {high}", f"{low} to {high}", parse)


def number(low: float, high: float, unit: str) -> Kind:
    """A number within bounds, both allowed, in `unit`."""

    def parse(text: str) -> float:
        value = float(text)
        if not (math.isfinite(value) and low <= value <= high):
            raise ValueError
        return value

    bounds = f"{low:g} to {high:g} {unit}"
    return Kind(f"a number from {bounds}", bounds, parse, lambda value: f"{value:g}")


def one_of(*words: str) -> Kind:
    """One of some lower-case words."""

    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError
        return text.lower()

    return Kind(f"{', '.join(words[:-1])} or {words[-1]}", ", ".join(words), parse)


def _matching(pattern: str, expected: str, bounds: str) -> Kind:
    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError
        return text

    return Kind(expected, bounds, parse)


def _parse_flag(text: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if text.lower() not in words:
        raise ValueError
    return words[text.lower()]


def _parse_list(text: str, pattern: str) -> tuple[str, ...]:
    items = tuple(item.strip() for item in text.split(",") if item.strip())
    if not all(re.fullmatch(pattern, item) for item in items):
        raise ValueError
    return items


def _parse_strings(text: str) -> tuple[str, ...]:
    strings = json.loads(text)
    if not (isinstance(strings, list) and strings and all(isinstance(each, str) for each in strings)):
        raise ValueError
    return tuple(strings)


def _parse_redis_url(text: str) -> str:
    from urllib.parse import urlsplit  # here, for it costs 4 ms that only a process with a REDIS_URL need pay

    url = urlsplit(text)
    if url.scheme == "unix" and url.path:
        return text
    if url.scheme in ("redis", "rediss") and url.hostname and url.port != 0:  # .port raises out of range
        return text
    raise ValueError


def _parse_http_url(text: str) -> str:
    from urllib.parse import urlsplit

    url = urlsplit(text)
    if url.scheme in ("http", "https") and url.hostname and url.port != 0 and not url.query:
        return text.rstrip("/")
    raise ValueError


def _parse_model(text: str) -> str:
    """A hub's name needs its revision: weights that change under a running service are another service."""
    if _HUB_NAME.fullmatch(text) or Path(text).is_absolute() or text.startswith("."):
        return text
    raise ValueError


def _parse_secret(text: str) -> str:
    if not re.fullmatch(r"[!-~]{1,500}", text):
        raise ValueError
    return text


def _parse_concurrency(text: str) -> str:
    for item in text.split(","):
        role, _, count = item.partition("=")
        if item != "all=1" and (role not in ROLES or not re.fullmatch(r"\d{1,3}", count, re.ASCII)):
            raise ValueError
    return text


def mask_password(text: str) -> str:
    """The text without the password of a URL in it."""
    return re.sub(r"(?<=://)([^@/]*?):[^/]*@", r"\1:***@", text)


FLAG = Kind("1 or 0", "1, 0", _parse_flag, lambda value: "1" if value else "0")
PORT = whole(1, 65535)
FOLDER = Kind("a folder", "a folder", Path)
HOST = _matching(r"[^\s/]+", "a host name or an address", "a name or an address")
NAME = _matching(
    r"[A-Za-z0-9._-]{1,100}", "at most 100 letters, digits, '.', '_' and '-'", "letters, digits, . _ -"
)
MODEL = Kind(
    "ORGANISATION/NAME@REVISION, or a folder (as /models/voxtral or ./voxtral)",
    "NAME@REVISION, a folder",
    _parse_model,
)
MODEL_NAME = _matching(r"[^\s\x00-\x1f]{1,200}", "the name of a model", "a name")
HTTP_URL = Kind("a URL as http://host:8000/v1", "http://, https://", _parse_http_url, mask_password)
SECRET = Kind("a key without spaces", "a key", _parse_secret, lambda _: "set", secret=True)
STRINGS = Kind(
    'a JSON list of strings, as ["Hello", "!"]',
    '["TEXT", …]',
    _parse_strings,
    lambda strings: json.dumps(strings, ensure_ascii=False),
)
REDIS_URL = Kind(
    "a URL as redis://:password@host:6379/0, rediss://host or unix:///path",
    "redis://, rediss://, unix://",
    _parse_redis_url,
    mask_password,
)
CONCURRENCY = Kind(
    f"role=count with commas between them, a role being {', '.join(ROLES)}",
    "ROLE=COUNT,…",
    _parse_concurrency,
)
ORIGINS = Kind(
    "origins with commas between them, as https://example.org,http://localhost:3000",
    "ORIGIN,…",
    lambda text: _parse_list(text.lower(), r"https?://[^/\s,?#@]+"),
    ",".join,
)
API_KEYS = Kind(
    "keys with commas between them, each 8 to 128 letters, digits and any of !#$%&'*+.^_`|~-",
    "KEY,… (8 to 128 long)",
    # The characters of a token in RFC 9110: a key also travels as the name of a WebSocket subprotocol.
    lambda text: _parse_list(text, r"[A-Za-z0-9!#$%&'*+.^_`|~-]{8,128}"),
    lambda keys: "1 key" if len(keys) == 1 else f"{len(keys)} keys",
    secret=True,
)
