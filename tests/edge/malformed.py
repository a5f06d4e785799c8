"""What is no message, or no frame, and with the messages of the schema all that a client may send.

    broken structure, frames of the other encoding ─> `bad_message`
    a message too large, some bytes of it changed ──> an error of some kind
    what is no frame, or far too large ─────────────> a close code

Each case says what must come of it.
"""

from __future__ import annotations

from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from edge.protocols.native import Encoding
from tests.edge.generated import CODES, LIMIT, Case, messages, pack


def _nested(depth: int) -> object:
    value: object = {"type": "ping"}
    for level in range(depth):
        value = {"type": value} if level % 2 else {"type": [value]}
    return value


_BROKEN: dict[Encoding, list[str | bytes]] = {
    Encoding.JSON: [
        "", " ", "{", "}", "null", "true", "7", '"ping"', "[]", '[{"type":"ping"}]', "\ufeff{}", "{}", "\0",
        '{"type":"ping"} {"type":"ping"}', '{"type":"ping","type":"ping"}', '{"type":"ping",}',
        '{"type":"ping","x":{"a":1,"a":1}}', '{"type":NaN}', '{"type":"ping","x":-Infinity}',
        '{"type":"ping","x":' + "9" * 5000 + "}", "[" * 60_000, '{"a":' * 10_000, "," * 60_000,
        '{"type":"pi\nng"}', "{'type':'ping'}", '{"type":"\\ud8"}', '{"type":null}', '{"type":["ping"]}',
        '{"type":"ping","x":[' + "0," * 20_000 + "0]}",
    ],
    Encoding.MSGPACK: [
        b"", b"\xc1", b"\xc0", b"\x81", b"\x80", b"\x91\x80", b"\xdf\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff", b"\x81" * 5000, b"\x91" * 60_000, b"\xa4ping", b"\x81\xa4type",
        b"\x81\xa1\xff\xc0", b"\x81\x01\x02", b"\x81\xc4\x04type\xa4ping", b"\x81\xa4type\xd6\xff\0\0\0\0",
        b"\x81\xa4type\xc7\x00\x05", b"\x82\xa4type\xa4ping\xa4type\xa4ping", b"\x81\xa4type\xa4ping\x00",
        b"\xdc\x20\x00" + b"\x80" * 8192, b"\x81\xa4type\xa2\xff\xfe", b"\x81\xa4type\xc4\x04ping",
    ],
}  # fmt: skip


def fixed(encoding: Encoding) -> list[Case]:
    """Each of these once: what is no message of the encoding, and what is no frame."""
    return [Case(data, frozenset({"bad_message"}), wrong=True) for data in _BROKEN[encoding]] + [
        Case(data, closes=frozenset({code}), raw=True) for data, code in _UNFIT_FRAMES
    ]


def broken(encoding: Encoding) -> st.SearchStrategy[Case]:
    """What cannot be read as a message of this encoding, or only as one of an unknown type."""
    strange = st.sampled_from(["dance", "", "PING", "ping ", "\u202e", "__class__", "x" * 5000])
    unknown = strange.map(
        lambda kind: Case(pack({"type": kind}, encoding), frozenset({"unknown_type"}), wrong=True)
    )
    other = Encoding.MSGPACK if encoding is Encoding.JSON else Encoding.JSON
    unreadable = st.one_of(
        st.integers(8, 100).map(lambda depth: pack(_nested(depth), encoding)),
        st.sampled_from([pack({"type": "ping"}, other), b"\0\1" if other is Encoding.MSGPACK else ""]),
        st.integers(1, 10).map(lambda place: pack({"type": "ping"}, encoding)[:place]),
    )
    too_large = st.integers(LIMIT, LIMIT + 65_000).map(
        lambda size: Case(pack({"x": "x" * size}, encoding), frozenset({"too_large"}), wrong=True)
    )
    return st.one_of(
        unknown, too_large, unreadable.map(lambda data: Case(data, frozenset({"bad_message"}), wrong=True))
    )


@st.composite
def spoiled(draw: st.DrawFn, encoding: Encoding) -> Case:
    """A message some bytes of which were changed: who knows what it means, but it is answered."""
    case = draw(
        messages(encoding).filter(lambda case: not case.closes and case.answer not in ("pong", "status"))
    )
    text = isinstance(case.data, str)
    data = bytearray(case.data.encode() if isinstance(case.data, str) else case.data)
    for place, byte in draw(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 127)), max_size=3)):
        data[place % len(data)] = byte
    changed: str | bytes = data.decode("utf-8", "replace") if text else bytes(data)
    return case if changed == case.data else Case(changed, frozenset(CODES))


def _frame(code: int, data: bytes, *, fin: bool = True, mask: bool = True) -> bytes:
    return Frame(Opcode(code), data, fin=fin).serialize(mask=mask)


_UNFIT_FRAMES: list[tuple[bytes, int]] = [
    (_frame(1, b"\xff\xfe"), 1007),
    (_frame(1, b'{"type":"ping","x":"\xed\xa0\x80"}'), 1007),
    (_frame(1, b'{"type":"', fin=False) + _frame(0, b'\xc3"}'), 1007),
    (_frame(1, b"{}", mask=False), 1002),
    (bytes([0xC2, 0x81, 0, 0, 0, 0, 0x80]), 1002),  # compressed, which nobody agreed on
    (_frame(0, b"and on"), 1002),
    (_frame(1, b"{", fin=False) + _frame(1, b"}"), 1002),
    (_frame(2, b"\x80", fin=False), 1002),  # never finished: what comes next is no part of it
    (bytes([0x89, 0xFE, 0, 126]) + bytes(4 + 126), 1002),  # a ping too large for one
    (bytes([0x09, 0x80, 0, 0, 0, 0]), 1002),  # a ping in pieces
    (bytes([0x83, 0x80, 0, 0, 0, 0]), 1002),
    (bytes([0x8F, 0x80, 0, 0, 0, 0]), 1002),
    (_frame(8, b"\x03"), 1002),
    (_frame(8, (1005).to_bytes(2, "big")), 1002),
    (_frame(8, (1000).to_bytes(2, "big")), 1000),
    (_frame(8, (4999).to_bytes(2, "big") + b"so long"), 4999),
    (_frame(2, bytes(LIMIT + (64 << 10) + 1)), 1009),
    (bytes([0x82, 0xFF]) + b"\x7f" + b"\xff" * 7 + bytes(4), 1009),
]


def cases(encoding: Encoding) -> st.SearchStrategy[Case]:
    """Anything that a client may send; mostly messages, and now and then what ends the socket."""
    kinds = [messages(encoding)] * 12 + [broken(encoding)] * 3 + [spoiled(encoding)] * 3
    kinds += [st.sampled_from(fixed(encoding))] * 2
    return st.integers(0, len(kinds) - 1).flatmap(lambda kind: kinds[kind])
