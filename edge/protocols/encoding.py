"""A message as bytes on the wire and as a map in memory: JSON or msgpack, and how much of either is believed.

Owns the two encodings and the limits under which untrusted bytes are parsed: length before anything else,
then structure, so that a small message cannot become a large object. Knows no type of message.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NoReturn

import msgpack

from shared.errors import ClientError

MAX_DEPTH = 8
"""How deep maps and lists may lie in each other. The deepest message of the protocol has two levels."""
MAX_CONTAINERS = 64
"""How many maps and lists one msgpack message may hold, and how many members each."""
MAX_MARKS = 16_384
"""How many of `{`, `[` and `,` one JSON message may hold. It bounds the objects that parsing can make, and
leaves room for a prompt of nothing but commas: the text inside of strings is counted too."""


class Encoding(StrEnum):
    """How the messages of one socket are written: `json` in text frames, `msgpack` in binary ones."""

    JSON = "json"
    MSGPACK = "msgpack"


def parse(data: str | bytes, encoding: Encoding, max_bytes: int) -> dict[str, object]:
    """The map that one frame of a socket holds; a text frame is `str`, a binary one `bytes`.

    Numbers and texts in it are as the client wrote them: infinite, or with half a surrogate pair. Raises
    `ClientError`: `too_large` above `max_bytes`, else `bad_message`.
    """
    size = _size(data)
    if size > max_bytes:
        raise ClientError("too_large", f"a message of {size} bytes; at most {max_bytes} are taken")
    if encoding is Encoding.JSON:
        if not isinstance(data, str):
            raise _bad("a binary frame; this socket speaks JSON in text frames")
        message = _parse_json(data)
    else:
        if not isinstance(data, bytes):
            raise _bad("a text frame; this socket speaks msgpack in binary frames")
        message = _parse_msgpack(data)
    if not isinstance(message, dict):
        raise _bad(f"expected a map, got {_NAMES.get(type(message), 'something else')}")
    if not _shallow(message, MAX_DEPTH):
        raise _bad(f"maps and lists lie more than {MAX_DEPTH} deep")
    return message


def encode(message: Mapping[str, object], encoding: Encoding) -> str | bytes:
    """The frame for a message: `bytes` values become base64 in JSON and stay raw in msgpack.

    Only for the thread of the event loop: the msgpack buffer is reused. A NaN in JSON is a `ValueError`.
    """
    if encoding is Encoding.JSON:
        return _to_json(message)
    packed: bytes = _pack(message)
    return packed


_CONTAINERS = (dict, list)
_NAMES: dict[type, str] = {
    list: "a list",
    str: "a string",
    bytes: "bytes",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    type(None): "null",
}


def _bad(message: str) -> ClientError:
    return ClientError("bad_message", message)


def _size(data: str | bytes) -> int:
    if isinstance(data, bytes) or data.isascii():
        return len(data)
    return len(data.encode(errors="surrogatepass"))


def _shallow(value: dict[Any, Any] | list[Any], levels: int) -> bool:
    if levels == 0:
        return False
    for member in value.values() if isinstance(value, dict) else value:
        if isinstance(member, _CONTAINERS) and not _shallow(member, levels - 1):
            return False
    return True


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise _bad("the same key twice in one map")
    return members


# ---- JSON


def _refuse_constant(name: str) -> NoReturn:
    raise _bad(f"{name} is not a JSON number")


_JSON = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)


def _few_marks(data: str) -> bool:
    left = MAX_MARKS
    for mark in "{[,":
        at = data.find(mark)  # many times faster over base64 than `count`
        while at >= 0:
            left -= 1
            if left < 0:
                return False
            at = data.find(mark, at + 1)
    return True


def _parse_json(data: str) -> object:
    if not _few_marks(data):
        raise _bad("too many members for a message of this protocol")
    try:
        return _JSON.decode(data)
    except json.JSONDecodeError as error:
        raise _bad(f"not JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise _bad(f"maps and lists lie more than {MAX_DEPTH} deep") from None
    except ValueError:  # Python's own bound for the digits of an integer
        raise _bad("a number with too many digits") from None


_dump = json.JSONEncoder(
    separators=(",", ":"), ensure_ascii=False, check_circular=False, allow_nan=False
).encode


def _to_json(message: Mapping[str, object]) -> str:
    """Base64 needs no escaping, so it is put in behind the encoder's back: half the time of a frame."""
    plain: dict[str, object] = {}
    spliced = ""
    for name, value in message.items():
        if isinstance(value, bytes):
            spliced += f',"{name}":"{binascii.b2a_base64(value, newline=False).decode("ascii")}"'
        else:
            plain[name] = value
    text = _dump(plain)
    if not spliced:
        return text
    return f"{text[:-1]}{spliced if plain else spliced[1:]}}}"


# ---- msgpack


class _Budget:
    """Counts the maps and lists of one message while it is parsed, and checks the keys of its maps."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = MAX_CONTAINERS

    def count(self, members: list[object]) -> list[object]:
        self.left -= 1
        if self.left < 0:
            raise _bad(f"more than {MAX_CONTAINERS} maps and lists")
        return members

    def pairs(self, pairs: list[tuple[str, Any]]) -> dict[str, object]:
        self.count([])
        members = _unique(pairs)
        for key in members:
            if not isinstance(key, str):
                raise _bad("a key of a map is not a string")
        return members


def _refuse_extension(code: int, data: bytes) -> NoReturn:
    raise _bad("msgpack extension types are not taken")


def _parse_msgpack(data: bytes) -> object:
    budget = _Budget()
    try:
        return msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            object_pairs_hook=budget.pairs,
            list_hook=budget.count,
            ext_hook=_refuse_extension,
            max_array_len=MAX_CONTAINERS,
            max_map_len=MAX_CONTAINERS,
            max_ext_len=0,
        )
    except msgpack.ExtraData:
        raise _bad("not msgpack: bytes after the end of the map") from None
    except ValueError as error:  # the root of msgpack's errors, of broken UTF-8 and of exceeded limits
        raise _bad(f"not msgpack: {str(error)[:80] or type(error).__name__}") from None


_pack = msgpack.Packer(use_bin_type=True).pack
