"""What holds of the chunker for any text, any split into tokens, any clock and any take-over."""

# The texts are full of marks of other scripts, which look like those of this one.
# ruff: noqa: RUF001

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from itertools import pairwise

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.text import speakable
from tests.workers.llm.chunking import Token, pieces_of, said_of, tokens_of, wait, work
from workers.llm.chunker import (
    BACKLOG_MS,
    CLAUSE_CHARS,
    FIRST_WORDS_MS,
    MAX_CHARS,
    MS_PER_CHAR,
    Boundary,
    Chunker,
    Piece,
)

FRAGMENTS = [
    *"a|Bc| word| then|é|1|42|3.14|1,000| |  |\n|\n\n".split("|"),
    *". |.|..|...|!|?|…|,|, |:|;|—| – | - |-| -- |--".split("|"),
    *"'|’|\"|(|)|**|# |😀|❤️|_|@|Dr.| U.S.| e.g.| Mr|1. |\n2. ".split("|"),
    *"https://a.io/?b=c.| www.web.org| me@web.org".split("|"),
    *"नमस्ते| हूँ।| डॉ.|はい|、|。|！|好的|，|．|네|نعم|؟".split("|"),
    *("x" * 100, "--- " * 20, " and so on," * 9),
]
REPLIES = st.one_of(
    st.text(),
    st.lists(st.sampled_from(FRAGMENTS), max_size=60).map("".join),
    st.lists(st.sampled_from([*FRAGMENTS[:12], ", ", ". ", "! "]), min_size=40, max_size=300).map("".join),
)
GAPS_MS = st.sampled_from([0.0, 1.0, 40.0, 97.3, 250.0, 700.0, 3000.0])

# A busy machine must not fail a test that is about something else.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def scripts(draw: st.DrawFn) -> list[Token]:
    """A reply as tokens with their times; some tokens are empty, some come together."""
    reply = draw(REPLIES)
    ends = sorted(draw(st.lists(st.integers(0, len(reply)), max_size=80)))
    now_ms = draw(st.sampled_from([0.0, 95.0, 1.7e12]))
    tokens = []
    for start, end in pairwise([0, *ends, len(reply)]):
        tokens.append((reply[start:end], now_ms))
        now_ms += draw(GAPS_MS)
    return tokens


def end_of(tokens: list[Token]) -> float:
    return tokens[-1][1] + 40


def assert_whole(pieces: list[Piece], reply: str) -> None:
    """What holds always: the pieces are the reply, none is too long, none has nothing to be spoken."""
    assert "".join(piece.text for piece in pieces) == reply
    upto = 0
    for piece in pieces:
        assert piece.from_ == upto
        upto = piece.upto
        assert piece.text == reply[piece.from_ : piece.upto]
        assert 0 < len(piece.text) <= MAX_CHARS
    assert upto == len(reply)
    assert all(piece.boundary != Boundary.END_OF_STREAM for piece in pieces[:-1])
    for piece in pieces:
        # Nothing to be spoken: the rest at most, or part of a run of marks that is too long for a piece.
        skipped = piece.boundary == Boundary.END_OF_STREAM or len(piece.text) == MAX_CHARS
        assert speakable(piece.text) or skipped


@unhurried
@given(scripts())
def test_the_pieces_joined_are_the_reply(tokens: list[Token]) -> None:
    chunker = Chunker()
    log = work(chunker, tokens, end_of(tokens))
    reply = "".join(text for text, _ in tokens)
    assert_whole(pieces_of(log), reply)
    assert chunker.reply == reply
    assert chunker.deadline_ms is None
    assert chunker.finish() == []


@unhurried
@given(scripts())
def test_every_piece_has_its_reason(tokens: list[Token]) -> None:
    said = said_of(work(Chunker(), tokens, end_of(tokens)))
    reply = "".join(text for text, _ in tokens)
    for n, (piece, at_ms) in enumerate(said):
        match piece.boundary:
            case Boundary.SENTENCE_END:
                assert piece.text[-1] in "!?….।॥。！．؟"
            case Boundary.CLAUSE_BREAK:
                assert piece.text[-1] in ",:;—–-、，"
                if n > 0:
                    waiting_ms = piece.from_ * MS_PER_CHAR - (at_ms - said[0][1])
                    assert len(piece.text) >= CLAUSE_CHARS
                    assert waiting_ms <= BACKLOG_MS + 1  # a float of Unix time is as fine as 0.0002 ms
            case Boundary.TIME:
                assert n == 0
                assert at_ms - tokens[0][1] >= FIRST_WORDS_MS
                assert not piece.text[-1].isspace()
                assert reply[piece.upto].isspace()
            case Boundary.MAX_LENGTH:
                assert len(reply) - piece.from_ > MAX_CHARS
            case _:
                assert piece.boundary == Boundary.END_OF_STREAM
                assert n == len(said) - 1


@unhurried
@given(scripts())
def test_how_the_reply_is_split_into_tokens_does_not_matter(tokens: list[Token]) -> None:
    def pieces(split: Iterable[str]) -> list[Piece]:
        return pieces_of(work(Chunker(), [(text, 95) for text in split], 95))

    reply = "".join(text for text, _ in tokens)
    whole = pieces([reply])
    assert pieces(text for text, _ in tokens) == whole
    assert pieces(reply) == whole


@unhurried
@given(scripts())
def test_a_tick_brings_something_at_the_deadline_and_nothing_before(tokens: list[Token]) -> None:
    chunker = Chunker()
    assert chunker.deadline_ms is None
    assert chunker.tick(0) == []
    for text, at_ms in tokens:
        wait(chunker, at_ms)  # which looks that each deadline brings something
        chunker.feed(text, at_ms)
        due_ms = chunker.deadline_ms
        if due_ms is None:
            assert chunker.tick(at_ms + 1e9) == []
        else:
            assert due_ms > at_ms
            assert chunker.tick(math.nextafter(due_ms, 0)) == []
            assert chunker.deadline_ms == due_ms


# ------------------------------------------------------------------------------------------ take-over


@unhurried
@given(scripts(), st.data())
def test_a_chunker_rebuilt_at_any_place_of_the_log_goes_on_as_the_first_would(
    tokens: list[Token], data: st.DataObject
) -> None:
    log = work(Chunker(), tokens, end_of(tokens))
    left = log[: data.draw(st.integers(0, len(log)), label="entries left by the dead worker")]
    known = tokens_of(left)

    heir = Chunker.rebuild(known, said_of(left))
    assert heir.reply == "".join(text for text, _ in known)
    went_on = work(heir, tokens[len(known) :], end_of(tokens))

    assert pieces_of(left) + pieces_of(went_on) == pieces_of(log)


@unhurried
@given(scripts(), st.data())
def test_a_take_over_that_comes_late_loses_and_doubles_nothing(
    tokens: list[Token], data: st.DataObject
) -> None:
    log = work(Chunker(), tokens, end_of(tokens))
    left = log[: data.draw(st.integers(0, len(log)), label="entries left by the dead worker")]
    known = tokens_of(left)
    late_ms = data.draw(GAPS_MS, label="lateness")

    heir = Chunker.rebuild(known, said_of(left))
    late = [(text, at_ms + late_ms) for text, at_ms in tokens[len(known) :]]
    went_on = work(heir, late, end_of(tokens) + late_ms)

    assert_whole(pieces_of(left) + pieces_of(went_on), "".join(text for text, _ in tokens))


def test_what_should_have_been_said_before_a_take_over_is_said_at_the_first_call() -> None:
    tokens = [("Hello", 95.0), ("!", 135.0), (" Yes", 175.0), (".", 215.0), (" I", 255.0)]
    hello = Piece("Hello!", 0, 6, Boundary.SENTENCE_END)
    yes = Piece(" Yes.", 6, 11, Boundary.SENTENCE_END)

    heir = Chunker.rebuild(tokens, [(hello, 135)])
    assert heir.deadline_ms is not None
    assert heir.deadline_ms <= 255
    assert heir.tick(4000) == [yes]
    assert heir.deadline_ms is None

    assert Chunker.rebuild(tokens, []).feed(" can", 4000) == [hello, yes]
    rest = Piece(" I", 11, 13, Boundary.END_OF_STREAM)
    assert Chunker.rebuild(tokens, [(hello, 135)]).finish() == [yes, rest]


def test_after_a_take_over_the_clock_still_counts_from_the_first_token_and_the_first_piece() -> None:
    words = Chunker.rebuild([(" I", 95), (" thi", 135)], [])
    assert words.deadline_ms == 95 + FIRST_WORDS_MS
    assert words.tick(4000) == [Piece(" I", 0, 2, Boundary.TIME)]

    first = Piece("A good question indeed!", 0, 23, Boundary.SENTENCE_END)
    clause = Chunker.rebuild([(first.text, 95), (" First of all,", 135), (" yes", 175)], [(first, 95)])
    assert clause.deadline_ms == 95 + 23 * MS_PER_CHAR - BACKLOG_MS
    assert clause.tick(4000) == [Piece(" First of all,", 23, 37, Boundary.CLAUSE_BREAK)]


# ----------------------------------------------------------------------------------------------- cost


def test_a_token_costs_the_same_however_long_the_reply_is_already() -> None:
    def best_ms(spoken: str) -> float:
        chunker = Chunker.rebuild([(spoken, 0)], [(Piece(spoken, 0, len(spoken), Boundary.SENTENCE_END), 0)])
        took: list[float] = []
        for _ in range(50):
            began = time.perf_counter()
            chunker.feed(" twelve more words, and", 1)
            took.append(time.perf_counter() - began)
        return min(took) * 1000

    # A single copy of the long reply takes some hundred times as long as the token does after the short one.
    assert best_ms("x" * 50_000_000) < 10 * best_ms("x")
