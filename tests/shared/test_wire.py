from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import EntryGarbled
from shared.wire import Address, Entry, Log, Payload, Take
from tests.shared.support import GARBLED, tokens

HEAD = [b"w", b"0123456789abcdef", b"at", b"1", b"sum", b"0", b"kind"]

UNREADABLE = [
    *([word.encode() for word in words] for words in GARBLED.values()),
    [],
    [*HEAD, b"token"],
    [*HEAD, b"frame", b"text", b"of another log"],
    [*HEAD, b"token", b"text", b"\xff"],
    [*HEAD, b"token", b"text", b"x", b"ids", b"1 two"],
    [*HEAD, b"semantic", b"text", b"x", b"from", b"0", b"upto", b"", b"boundary", b"time"],
    [*HEAD, b"end", b"reason", b"stop", b"tokens", b"9" * 5000, b"chunks", b"1"],
]


def flat(payload: Payload) -> list[bytes]:
    """The fields of an entry as they stand in Redis."""
    return [*HEAD, payload.kind.encode(), *payload.to_fields()]


@pytest.mark.parametrize("payload", [Take("retry", "worker"), *tokens(0, 1)])
def test_an_entry_is_read_as_it_was_written(payload: Payload) -> None:
    found = Entry.from_fields(Log.TEXT, b"3-17", flat(payload))
    assert found == Entry(Address(3, 17), "0123456789abcdef", 1, payload)


@pytest.mark.parametrize("fields", UNREADABLE)
def test_an_entry_that_cannot_be_read_says_of_which_turn_it_is(fields: list[bytes]) -> None:
    with pytest.raises(EntryGarbled) as garbled:
        Entry.from_fields(Log.TEXT, b"3-17", fields)
    assert garbled.value.turn == 3
    assert "text" in str(garbled.value) and "3-17" in str(garbled.value)


def test_an_entry_whose_id_is_no_address_is_of_no_turn() -> None:
    with pytest.raises(EntryGarbled) as garbled:
        Entry.from_fields(Log.TEXT, b"18446744073709551615-0", flat(Take()))
    assert garbled.value.turn is None


@given(st.lists(st.tuples(st.sampled_from([b"w", b"kind", b"at", b"text"]) | st.binary(), st.binary())))
def test_whatever_stands_in_a_log_is_an_entry_or_garbled(pairs: list[tuple[bytes, bytes]]) -> None:
    for log in Log:
        try:
            assert Entry.from_fields(log, b"1-0", [word for pair in pairs for word in pair]).address == (1, 0)
        except EntryGarbled as error:
            assert error.turn == 1
