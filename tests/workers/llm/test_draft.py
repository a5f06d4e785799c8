"""A draft cuts what is held as if it had come at once when it is wanted, and hands everything out once."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.settings import DEFAULT_SCRIPT
from shared.wire import Address, Entry, Payload, ReplyEnd, Semantic, Token
from workers.llm.chunker import BACKLOG_MS, FIRST_WORDS_MS, MS_PER_CHAR
from workers.llm.draft import AT_ONCE, Draft


def draft(*payloads: Payload) -> Draft:
    """A draft of a reply of which these stand in the log."""
    return Draft([Entry(Address(1, seq), "w", 0, payload) for seq, payload in enumerate(payloads)], 0.0)


def add(reply: Draft, texts: Iterable[str], first_ms: float = 0.0, step_ms: float = 0.0) -> None:
    for place, text in enumerate(texts):
        reply.add(Token(text, (place,)), first_ms + place * step_ms)


def taken(reply: Draft) -> list[list[Payload]]:
    """All that is to be written now, append by append."""
    appends = []
    while payloads := reply.take():
        appends.append(payloads)
    return appends


def spoken(appends: Iterable[Iterable[Payload]]) -> list[tuple[str, str]]:
    return [
        (payload.text, payload.boundary)
        for append in appends
        for payload in append
        if isinstance(payload, Semantic)
    ]


def test_the_first_append_ends_with_the_first_chunk() -> None:
    reply = draft()
    add(reply, DEFAULT_SCRIPT)
    reply.end("stop")
    reply.want(0.0)
    first, *rest = taken(reply)
    assert [payload.kind for payload in first] == ["token", "token", "semantic"]
    assert sum(len(append) for append in rest[:-1]) == AT_ONCE * (len(rest) - 1)
    assert rest[-1][-1] == ReplyEnd("stop", len(DEFAULT_SCRIPT), len(spoken([first, *rest])))


def test_without_a_chunk_the_first_append_is_bounded_too() -> None:
    reply = draft()
    add(reply, [" word"] * 40)
    reply.want(0.0)
    assert [len(append) for append in taken(reply)] == [AT_ONCE, AT_ONCE, 40 - 2 * AT_ONCE]


def test_the_clock_of_what_was_cut_ahead_starts_when_it_is_wanted() -> None:
    """The second clause ends after 32 characters, of which the listener hears the first only from then on."""
    reply = draft()
    add(reply, ["Well then,", " that is what I think,", " and so do you, "], step_ms=400.0)
    reply.want(5000.0)
    assert [text for text, _ in spoken(taken(reply))] == ["Well then,", " that is what I think,"]
    due_s = (32 * MS_PER_CHAR - BACKLOG_MS) / 1000
    assert reply.due_in_s(5000.0) == pytest.approx(due_s)
    reply.tick(5000.0 + due_s * 1000 - 1)
    assert not spoken(taken(reply))
    reply.tick(5000.0 + due_s * 1000)
    assert spoken(taken(reply)) == [(" and so do you,", "clause_break")]


def test_words_that_wait_for_a_clause_have_waited_since_the_first_token() -> None:
    reply = draft()
    add(reply, ["I", " can", " hear", " you"], step_ms=100.0)
    reply.want(FIRST_WORDS_MS - 1)
    assert not spoken(taken(reply))
    assert reply.due_in_s(FIRST_WORDS_MS - 1) == pytest.approx(0.001)
    late = draft()
    add(late, ["I", " can", " hear", " you"], step_ms=100.0)
    late.want(FIRST_WORDS_MS)
    assert spoken(taken(late)) == [("I can hear", "time")]


def test_what_comes_after_it_is_wanted_is_cut_by_the_real_clock() -> None:
    reply = draft()
    reply.want(1000.0)
    reply.add(Token("Well", (0,)), 2000.0)
    reply.add(Token(" then", (1,)), 2100.0)
    assert reply.due_in_s(2100.0) == pytest.approx((FIRST_WORDS_MS - 100) / 1000)


def test_a_reply_that_was_begun_goes_on_behind_what_stands() -> None:
    reply = draft(Token("Yes,", (0,)), Semantic("Yes,", 0, 4, "clause_break"), Token(" I", (1,)))
    assert reply.tokens == 2
    add(reply, [" do", "."])
    reply.end("stop")
    reply.want(0.0)
    (append,) = taken(reply)
    assert spoken([append]) == [(" I do.", "sentence_end")]
    assert append[-1] == ReplyEnd("stop", 4, 2)


texts = st.lists(st.sampled_from(["Yes", ",", " I", " can", "!", " well", ".", "", "\n", " 3"]), max_size=60)


@given(
    texts=texts, wanted=st.integers(0, 60), step_ms=st.sampled_from([0.0, 7.0, 90.0]), left=st.integers(0, 9)
)
def test_everything_is_handed_out_once_in_an_order_that_may_be_cut_anywhere(
    texts: list[str], wanted: int, step_ms: float, left: int
) -> None:
    reply = draft()
    add(reply, texts[:wanted], step_ms=step_ms)
    reply.want(wanted * step_ms)
    add(reply, texts[wanted:], wanted * step_ms, step_ms)
    reply.end("stop")
    appends = taken(reply)
    payloads = [payload for append in appends for payload in append]
    assert all(len(append) <= AT_ONCE for append in appends)
    assert [p.text for p in payloads if isinstance(p, Token)] == texts
    assert "".join(text for text, _ in spoken(appends)) == "".join(texts)
    written = ""
    for payload in payloads:
        if isinstance(payload, Token):
            written += payload.text
        elif isinstance(payload, Semantic):
            assert written[payload.from_ : payload.upto] == payload.text
    # A worker that dies between two of the appends leaves a reply that goes on to the same end.
    stood = [payload for append in appends[:left] for payload in append]
    if not (stood and isinstance(stood[-1], ReplyEnd)):
        again = draft(*stood)
        add(again, texts[again.tokens :])
        again.end("stop")
        again.want(0.0)
        rest = taken(again)
        assert "".join(text for text, _ in spoken([stood, *rest])) == "".join(texts)
