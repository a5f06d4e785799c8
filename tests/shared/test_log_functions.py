"""Every verdict of the log's Functions, row by row of the table in `log.lua`, on each kind of server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import hiredis
import msgpack
import pytest

from shared.hold import new_conversation
from shared.keys import log_key, session_key
from shared.wire import Log
from tests.raw import Raw
from tests.shared.calls import END, TTL_MS, LogCalls, token

W1, W2, EDGE = "1111", "2222", "eeee"


@pytest.fixture
def log(raw: Raw) -> LogCalls:
    """An empty log."""
    conversation = new_conversation()
    return LogCalls(raw, log_key(conversation, Log.TEXT), session_key(conversation))


@contextmanager
def at_maxmemory(raw: Raw) -> Iterator[None]:
    """The server refuses what needs memory."""
    raw.ask("CONFIG", "SET", "maxmemory", 1)
    try:
        yield
    finally:
        raw.ask("CONFIG", "SET", "maxmemory", 0)


# ---- append


def test_entries_get_contiguous_ids_from_the_turns_start(log: LogCalls) -> None:
    assert log.append(1, 0, W1, token("a"), token("b")) == ("OK", 2)
    assert log.append(1, 2, W1, END) == ("OK", 3)
    assert log.append(2, 0, W2, token("c")) == ("OK", 1)
    assert log.entries() == [
        ("1-0", W1, "token"),
        ("1-1", W1, "token"),
        ("1-2", W1, "end"),
        ("2-0", W2, "token"),
    ]


def test_an_entry_is_flat_and_readable(log: LogCalls, raw: Raw) -> None:
    log.append(1, 0, W1, ("token", ("text", "Hello", "ids", "7 12")))
    ((_, flat),) = raw.ask("XRANGE", log.key, "1", "1")
    assert flat[:4] == [b"w", W1.encode(), b"kind", b"token"]
    assert flat[4] == b"at" and flat[6] == b"sum"
    assert flat[8:] == [b"text", b"Hello", b"ids", b"7 12"]


def test_turns_may_be_left_out(log: LogCalls) -> None:
    assert log.append(7, 0, W1, END) == ("OK", 1)
    assert log.append(9, 0, W1, END) == ("OK", 1)


def test_an_older_turn_is_closed(log: LogCalls) -> None:
    log.append(2, 0, W1, token("a"))
    assert log.append(1, 0, W1, token("b")) == ("CLOSED", 0)
    assert log.append(1, 5, W2, END) == ("CLOSED", 0)
    assert log.entries() == [("2-0", W1, "token")]


def test_a_turn_cannot_begin_before_the_last_is_final(log: LogCalls) -> None:
    log.append(1, 0, W1, token("a"))
    assert log.append(2, 0, W1, token("b")) == ("BUSY", 0)
    assert log.append(2, 3, W2, token("b")) == ("BUSY", 0)
    assert log.entries() == [("1-0", W1, "token")]


def test_a_turn_that_redis_forgot_is_wanted_from_its_start(log: LogCalls) -> None:
    assert log.append(1, 3, W1, token("d")) == ("GAP", 0)
    log.append(1, 0, W1, END)
    assert log.append(2, 3, W1, token("d")) == ("GAP", 0)
    assert log.entries() == [("1-0", W1, "end")]


def test_a_gap_is_named_by_its_first_place(log: LogCalls) -> None:
    log.append(1, 0, W1, token("a"), token("b"))
    assert log.append(1, 3, W1, token("d")) == ("GAP", 2)
    assert log.append(1, 2, W1, token("c"), token("d")) == ("OK", 4)


def test_the_same_append_again_is_a_duplicate(log: LogCalls) -> None:
    log.append(1, 0, W1, token("a"), token("b"))
    log.append(1, 2, W1, token("c"))
    assert log.append(1, 0, W1, token("a"), token("b")) == ("DUP", 2)
    assert log.append(1, 2, W1, token("c")) == ("DUP", 3)
    assert len(log.entries()) == 3


def test_a_retried_end_is_a_duplicate_and_not_closed(log: LogCalls) -> None:
    log.append(1, 0, W1, token("a"), END)
    assert log.append(1, 0, W1, token("a"), END) == ("DUP", 2)
    assert log.append(1, 1, W1, END) == ("DUP", 2)
    log.close(1, EDGE)
    assert log.append(1, 1, W1, END) == ("DUP", 2)


def test_a_duplicate_is_told_from_what_others_wrote_since(log: LogCalls) -> None:
    log.append(1, 0, W1, token("a"))
    log.take(1, W2)
    log.append(1, 2, W2, token("b"))
    assert log.append(1, 0, W1, token("a")) == ("DUP", 1)
    assert log.append(1, 0, W1, token("a"), token("b")) == ("DUP", 1)
    assert log.append(1, 1, W1, token("b")) == ("TAKEN", 0)


@pytest.mark.parametrize(
    "other",
    [
        ("token", ("text", "b")),
        ("token", ("text", "a", "ids", "1")),
        ("token", ()),
        ("token", ("texT", "a")),
        ("semantic", ("text", "a")),
    ],
)
def test_another_payload_is_no_duplicate(log: LogCalls, other: tuple[str, tuple[str, ...]]) -> None:
    log.append(1, 0, W1, token("a"))
    assert log.append(1, 0, W1, other) == ("TAKEN", 0)
    assert log.append(1, 0, W2, token("a")) == ("TAKEN", 0)
    log.append(1, 1, W1, END)
    assert log.append(1, 0, W1, other) == ("CLOSED", 0)


@pytest.mark.parametrize("tag", [W1, W2])
@pytest.mark.parametrize("last", ["end", "closed"])
def test_nothing_is_appended_after_a_final_entry(log: LogCalls, last: str, tag: str) -> None:
    log.append(1, 0, W1, token("a"))
    if last == "end":
        log.append(1, 1, W1, END)
    else:
        log.close(1, W1)
    assert log.append(1, 2, tag, token("b")) == ("CLOSED", 0)
    assert log.append(1, 9, tag, token("b")) == ("CLOSED", 0)
    assert log.append(1, 2, tag, END) == ("CLOSED", 0)
    assert len(log.entries()) == 2


def test_only_the_writer_of_the_tail_appends(log: LogCalls) -> None:
    log.append(1, 0, W1, token("a"))
    for seq in (0, 1, 2):
        assert log.append(1, seq, W2, token("b")) == ("TAKEN", 0)
    log.take(1, W2)
    for seq in (1, 2, 3):
        assert log.append(1, seq, W1, token("b")) == ("TAKEN", 0)
    assert log.append(1, 2, W2, token("b")) == ("OK", 3)


def test_a_turn_is_full_at_its_bound_but_may_end(log: LogCalls) -> None:
    assert log.append(1, 0, W1, token("123456"), max_bytes=10) == ("OK", 1)
    assert log.append(1, 1, W1, token("12345"), max_bytes=10) == ("FULL", 1)
    assert log.append(1, 1, W1, token("1"), token("1234"), max_bytes=10) == ("FULL", 1)
    assert log.append(1, 1, W1, token("1234"), max_bytes=10) == ("OK", 2)
    assert log.append(1, 2, W1, token("1"), END, max_bytes=10) == ("FULL", 2)
    assert log.append(1, 2, W1, END, max_bytes=10) == ("OK", 3)
    assert log.append(2, 0, W1, token("1234567890"), max_bytes=10) == ("OK", 1)
    assert log.sums() == [6, 10, 14, 10]


def test_the_bound_holds_for_all_writers_of_a_turn_together(log: LogCalls) -> None:
    log.append(1, 0, W1, token("123456"), max_bytes=10)
    log.take(1, W2)
    assert log.append(1, 2, W2, token("12345"), max_bytes=10) == ("FULL", 2)
    assert log.close(1, W2, owner=True) == ("OK", 2)


def test_what_was_full_is_still_a_duplicate(log: LogCalls) -> None:
    log.append(1, 0, W1, token("1234567890"), max_bytes=10)
    assert log.append(1, 0, W1, token("1234567890"), max_bytes=5) == ("DUP", 1)


@pytest.mark.parametrize("refused", ["GAP", "BUSY", "TAKEN", "CLOSED", "FULL"])
def test_several_entries_are_written_all_or_none(log: LogCalls, refused: str) -> None:
    log.append(1, 0, W1, token("a"))
    turn, seq, tag, max_bytes = 1, 1, W1, 100
    match refused:
        case "GAP":
            seq = 2
        case "BUSY":
            turn, seq = 2, 0
        case "TAKEN":
            tag = W2
        case "CLOSED":
            log.close(1, EDGE)
        case "FULL":
            max_bytes = 2
    before = log.entries()
    assert log.append(turn, seq, tag, token("b"), token("c"), END, max_bytes=max_bytes)[0] == refused
    assert log.entries() == before


def test_an_edge_without_its_lease_may_write_and_a_stale_one_may_not(log: LogCalls, raw: Raw) -> None:
    assert log.append(1, 0, EDGE, token("a"), of_edge=True) == ("OK", 1)
    raw.ask("SET", log.session, EDGE)
    assert log.append(1, 1, EDGE, token("b"), of_edge=True) == ("OK", 2)
    raw.ask("SET", log.session, "another")
    assert log.append(1, 2, EDGE, token("c"), of_edge=True) == ("TAKEN", 0)
    assert log.append(1, 1, EDGE, token("b"), of_edge=True) == ("TAKEN", 0)
    assert len(log.entries()) == 2


def test_the_time_to_live_is_set_at_a_turns_start_and_at_each_64th_entry(log: LogCalls, raw: Raw) -> None:
    log.append(1, 0, W1, token("a"))
    assert 0 < log.ttl_ms() <= TTL_MS
    raw.ask("PERSIST", log.key)
    for seq in range(1, 64):
        log.append(1, seq, W1, token("a"))
        assert log.ttl_ms() == -1
    log.append(1, 64, W1, token("a"))
    assert 0 < log.ttl_ms() <= TTL_MS
    raw.ask("PERSIST", log.key)
    log.append(1, 65, W1, *[token("a")] * 63)
    assert log.ttl_ms() == -1
    log.append(1, 128, W1, token("a"), END)
    assert 0 < log.ttl_ms() <= TTL_MS
    raw.ask("PERSIST", log.key)
    log.append(2, 0, W1, token("a"))
    assert 0 < log.ttl_ms() <= TTL_MS


# ---- take


def test_a_take_begins_a_turn(log: LogCalls) -> None:
    assert log.take(1, W1) == ("OK", 1)
    assert log.append(1, 1, W1, token("a"), END) == ("OK", 3)
    assert log.entries() == [("1-0", W1, "take"), ("1-1", W1, "token"), ("1-2", W1, "end")]


def test_a_take_makes_the_tail_the_takers(log: LogCalls) -> None:
    log.append(1, 0, W1, token("a"))
    assert log.take(1, W2) == ("OK", 2)
    assert log.append(1, 1, W1, token("b")) == ("TAKEN", 0)
    assert log.append(1, 2, W2, token("b")) == ("OK", 3)


def test_a_take_again_is_a_duplicate_while_the_tail_is_the_takers(log: LogCalls) -> None:
    log.take(1, W1)
    assert log.take(1, W1) == ("DUP", 1)
    log.append(1, 1, W1, token("a"))
    assert log.take(1, W1) == ("DUP", 2)
    assert len(log.entries()) == 2


def test_a_late_take_does_not_take_the_turn_from_its_next_owner(log: LogCalls) -> None:
    log.take(1, W1)
    log.append(1, 1, W1, *[token("a")] * 100)
    log.take(1, W2)
    assert log.take(1, W1) == ("TAKEN", 0)
    # What the first writer still has in flight would stand where a second take of its own had put the tail.
    for seq in (101, 102, 103):
        assert log.append(1, seq, W1, token("b"))[0] == "TAKEN"
    assert log.append(1, 102, W2, token("b")) == ("OK", 103)


def test_the_same_tag_may_take_another_turn(log: LogCalls) -> None:
    log.take(1, W1)
    log.close(1, EDGE)
    assert log.take(2, W1) == ("OK", 1)


def test_what_is_final_or_past_cannot_be_taken(log: LogCalls) -> None:
    log.append(3, 0, W1, END)
    for turn, tag in ((3, W2), (3, W1), (2, W2)):
        assert log.take(turn, tag) == ("CLOSED", 0)
    log.close(3, EDGE)
    assert log.take(3, W2) == ("CLOSED", 0)
    assert len(log.entries()) == 2


def test_the_next_turn_cannot_be_taken_before_the_last_is_final(log: LogCalls) -> None:
    log.take(1, W1)
    assert log.take(2, W2) == ("BUSY", 0)
    log.close(1, EDGE)
    assert log.take(2, W2) == ("OK", 1)


def test_a_take_counts_no_bytes_and_sets_the_time_to_live(log: LogCalls, raw: Raw) -> None:
    log.append(1, 0, W1, token("abc"))
    raw.ask("PERSIST", log.key)
    log.take(1, W2)
    assert 0 < log.ttl_ms() <= TTL_MS
    log.append(1, 2, W2, token("de"))
    assert log.sums() == [3, 3, 5]


# ---- close


def test_a_close_lands_before_the_first_entry(log: LogCalls) -> None:
    assert log.close(1, EDGE) == ("OK", 0)
    assert log.append(1, 0, W1, token("a")) == ("CLOSED", 0)
    assert log.take(1, W1) == ("CLOSED", 0)
    assert log.entries() == [("1-0", EDGE, "closed")]


def test_a_close_lands_in_the_middle_and_stops_the_writer(log: LogCalls) -> None:
    log.append(1, 0, W1, token("a"))
    assert log.close(1, EDGE) == ("OK", 1)
    assert log.append(1, 1, W1, token("b")) == ("CLOSED", 0)


def test_a_close_lands_after_the_end(log: LogCalls) -> None:
    log.append(1, 0, W1, token("a"), END)
    assert log.close(1, EDGE, "heard") == ("OK", 2)
    assert [kind for _, _, kind in log.entries()] == ["token", "end", "closed"]


@pytest.mark.parametrize("tag", [EDGE, W1])
def test_a_turn_is_closed_once(log: LogCalls, tag: str) -> None:
    log.append(1, 0, W1, token("a"))
    log.close(1, EDGE)
    assert log.close(1, tag, "abandoned", owner=True) == ("DUP", 1)
    assert log.close(1, tag) == ("DUP", 1)
    assert len(log.entries()) == 2


def test_a_close_of_an_older_turn_has_nothing_to_do(log: LogCalls) -> None:
    log.append(2, 0, W1, token("a"))
    assert log.close(1, EDGE) == ("CLOSED", 0)
    assert log.entries() == [("2-0", W1, "token")]


def test_a_close_supersedes_an_older_turn_that_is_open(log: LogCalls, raw: Raw) -> None:
    log.append(1, 0, W1, token("a"))
    assert log.close(2, EDGE) == ("OK", 0)
    assert log.entries() == [("1-0", W1, "token"), ("1-1", EDGE, "closed"), ("2-0", EDGE, "closed")]
    ((_, flat),) = raw.ask("XRANGE", log.key, "1-1", "1-1")
    assert flat[8:] == [b"reason", b"superseded"]
    assert log.append(1, 1, W1, token("b")) == ("CLOSED", 0)


def test_a_close_waits_for_what_its_caller_has_read(log: LogCalls) -> None:
    assert log.close(1, EDGE, seen=0) == ("GAP", 0)
    log.append(1, 0, W1, token("a"), token("b"))
    assert log.close(1, EDGE, seen=2) == ("GAP", 2)
    assert log.close(2, EDGE, seen=0) == ("GAP", 0)
    assert log.close(1, EDGE, seen=1) == ("OK", 2)
    assert log.close(1, EDGE, seen=5) == ("DUP", 2)
    assert log.entries()[-1] == ("1-2", EDGE, "closed") and len(log.entries()) == 3


def test_a_close_leaves_an_older_turn_that_is_final_alone(log: LogCalls) -> None:
    log.append(1, 0, W1, END)
    assert log.close(2, EDGE) == ("OK", 0)
    assert log.entries() == [("1-0", W1, "end"), ("2-0", EDGE, "closed")]


def test_a_stale_edge_closes_nothing(log: LogCalls, raw: Raw) -> None:
    log.append(1, 0, W1, token("a"))
    raw.ask("SET", log.session, "another")
    assert log.close(1, EDGE, of_edge=True) == ("TAKEN", 0)
    raw.ask("SET", log.session, EDGE)
    assert log.close(1, EDGE, of_edge=True) == ("OK", 1)


def test_an_edge_whose_lease_ran_out_may_close(log: LogCalls) -> None:
    assert log.close(1, EDGE, of_edge=True) == ("OK", 0)


def test_a_writer_that_lost_the_turn_does_not_fail_it_for_the_next(log: LogCalls) -> None:
    log.take(1, W1)
    log.take(1, W2)
    assert log.close(1, W1, "failed", owner=True) == ("TAKEN", 0)
    assert log.close(1, W2, "failed", owner=True) == ("OK", 2)


def test_a_close_sets_the_time_to_live(log: LogCalls, raw: Raw) -> None:
    log.append(1, 0, W1, token("a"))
    raw.ask("PERSIST", log.key)
    log.close(1, EDGE)
    assert 0 < log.ttl_ms() <= TTL_MS


# ---- pushes


def test_each_entry_is_pushed_once_as_it_stands(log: LogCalls, raw: Raw, server_urls: dict[str, str]) -> None:
    port = raw.ask("CONFIG", "GET", "port")[1].decode()
    (url,) = (each for each in server_urls.values() if each.endswith(port))
    with Raw(url) as pushed:
        pushed.ask("SSUBSCRIBE", log.key)
        log.take(1, W1)
        log.take(1, W1)
        frame = b"\x00\xff\r\n" * 20_000
        log.append(1, 1, W1, token("a"), ("token", ("text", frame)))
        log.append(1, 1, W1, token("a"), ("token", ("text", frame)))
        log.append(1, 9, W1, token("b"))
        log.close(2, EDGE)
        log.close(2, EDGE)
        written = raw.ask("XRANGE", log.key, "-", "+")
        assert len(written) == 5
        for entry in written:
            kind, channel, data = pushed.read()
            assert (kind, channel) == (b"smessage", log.key.encode())
            assert msgpack.unpackb(data, raw=True) == entry
        assert pushed.ask("PING") == [b"pong", b""]


# ---- maxmemory


def test_at_maxmemory_a_turn_cannot_grow_but_can_be_closed(log: LogCalls, raw: Raw) -> None:
    log.append(1, 0, W1, token("a"))
    with at_maxmemory(raw):
        with pytest.raises(hiredis.ReplyError, match="OOM"):
            log.append(1, 1, W1, token("b"))
        with pytest.raises(hiredis.ReplyError, match="OOM"):
            log.append(1, 1, W1, END)
        with pytest.raises(hiredis.ReplyError, match="OOM"):
            log.take(1, W2)
        assert log.close(1, EDGE) == ("OK", 1)
        assert log.close(3, EDGE) == ("OK", 0)
        assert log.close(3, EDGE) == ("DUP", 0)
    assert log.append(4, 0, W1, token("b")) == ("OK", 1)
