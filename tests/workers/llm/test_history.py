"""The memory of a conversation, as it is read from logs that were written for real."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import StoreError
from shared.keys import log_key
from shared.log import close_turn, trim_log
from shared.store import Store
from shared.wire import (
    Chunk,
    Closed,
    Frame,
    Log,
    Open,
    Payload,
    ReplyEnd,
    Semantic,
    SpeechEnd,
    Token,
    UtteranceEnd,
    new_tag,
)
from tests.shared.support import spoil
from tests.workers.conftest import Desk
from workers.llm import history
from workers.llm.history import PAGE_TURNS, Exchange, read_history, rough_cost

PLENTY = 1_000_000


def _one(exchange: Exchange) -> int:
    return 1


async def speaks(desk: Desk, turn: int, pieces: int = 2, *, ends: bool = True) -> bytes:
    """An utterance in pieces that nobody mistakes for each other; its audio."""
    audio = [bytes([turn, piece]) * 160 for piece in range(pieces)]
    chunks = [Chunk(turn * 1000 + piece * 160, pcm) for piece, pcm in enumerate(audio)]
    end = [UtteranceEnd("client", turn * 1000 + pieces * 160)] if ends else []
    await desk.writer(Log.AUDIO, turn).append(Open(), *chunks, *end)
    return b"".join(audio)


async def answers(desk: Desk, turn: int, *, ends: bool = True) -> None:
    """A reply of two chunks, spoken."""
    text, speech = desk.writer(Log.TEXT, turn, new_tag()), desk.writer(Log.SPEECH, turn, new_tag())
    await text.take("claim")
    await speech.take("claim")
    words: list[Payload] = [Token("Hello", (1,)), Token("!", (2,)), Semantic("Hello!", 0, 6, "sentence_end")]
    words += [
        Token(" Yes", (3,)),
        Token("", (4,)),
        Token(".", (5,)),
        Semantic(" Yes.", 6, 11, "sentence_end"),
    ]
    await text.append(*words, *([ReplyEnd("stop", 5, 2)] if ends else []))
    frames = [Frame(chunk, 0, True, bytes(4800)) for chunk in range(2)]
    await speech.append(*frames, *([SpeechEnd("stop", 4800)] if ends else []))


async def closes(desk: Desk, turn: int, closed: Closed, *logs: Log) -> None:
    """Close a turn where the edge does."""
    keys = [log_key(desk.conversation, log) for log in logs or (Log.TEXT, Log.SPEECH)]
    await close_turn(desk.store, keys, turn, desk.tag, closed, ttl_s=60)


async def past(desk: Desk, turn: int, reply: str = "Hello! Yes.") -> Exchange:
    """A turn that was heard as far as the reply goes."""
    audio = await speaks(desk, turn)
    await answers(desk, turn)
    await closes(desk, turn, Closed("heard", heard_ms=200.0, heard_text=reply))
    return Exchange(turn, audio, None, reply)


async def read(desk: Desk, turn: int, budget: int = PLENTY) -> tuple[Exchange, ...]:
    return await read_history(desk.store, desk.conversation, turn, budget, _one)


# ---- what a past turn is


async def test_turns_are_read_oldest_first_with_their_audio_joined(desk: Desk) -> None:
    turns = [await past(desk, turn) for turn in (1, 2, 3)]
    assert await read(desk, 4) == tuple(turns)
    assert await read(desk, 3) == tuple(turns[:2])
    assert await read(desk, 1) == ()


async def test_a_typed_turn_is_its_text(desk: Desk) -> None:
    await desk.writer(Log.AUDIO, 1).append(Open(text="Wer bist du?"), UtteranceEnd("client", 0))
    await answers(desk, 1)
    await closes(desk, 1, Closed("heard", heard_text="Hello!"))
    assert await read(desk, 2) == (Exchange(1, b"", "Wer bist du?", "Hello!"),)


HEARD = {
    "heard out": (True, Closed("heard", heard_ms=200.0, heard_text="Hello! Yes."), "Hello! Yes."),
    "spoken over": (False, Closed("barge_in", heard_ms=90.0, heard_text="Hello!"), "Hello!"),
    "spoken over when all was sent": (True, Closed("heard", heard_ms=90.0, heard_text="Hello!"), "Hello!"),
    "interrupted before a word": (False, Closed("user_interrupt", heard_ms=0.0, heard_text=""), ""),
    "late": (False, Closed("failed", heard_ms=90.0, heard_text="Hello!", code="deadline"), "Hello!"),
    "failed in a worker": (False, Closed("failed", code="engine_failed"), ""),
    "left by everybody": (False, Closed("abandoned"), ""),
    "superseded": (True, Closed("superseded"), ""),
}


@pytest.mark.parametrize("ending", HEARD)
async def test_a_reply_is_kept_as_far_as_it_was_heard(ending: str, desk: Desk) -> None:
    whole, closed, reply = HEARD[ending]
    audio = await speaks(desk, 1)
    await answers(desk, 1, ends=whole)
    await closes(desk, 1, closed)
    assert await read(desk, 2) == (Exchange(1, audio, None, reply),)


async def test_what_only_one_of_the_logs_knows_counts(desk: Desk) -> None:
    audio = await speaks(desk, 1)
    await answers(desk, 1, ends=False)
    await closes(desk, 1, Closed("failed", code="engine_failed"), Log.TEXT)
    await closes(desk, 1, Closed("failed", heard_ms=90.0, heard_text="Hello!"), Log.SPEECH)
    assert await read(desk, 2) == (Exchange(1, audio, None, "Hello!"),)


async def test_a_whole_reply_whose_closing_redis_forgot_counts_as_heard(desk: Desk) -> None:
    audio = await speaks(desk, 1)
    await answers(desk, 1)
    assert await read(desk, 2) == (Exchange(1, audio, None, "Hello! Yes."),)


async def test_a_turn_that_was_closed_before_anything_of_its_answer_stands_without_a_reply(
    desk: Desk,
) -> None:
    audio = await speaks(desk, 1)
    await closes(desk, 1, Closed("barge_in", heard_ms=0.0, heard_text=""))
    assert await read(desk, 2) == (Exchange(1, audio, None, ""),)


async def test_an_utterance_that_was_cut_off_is_passed_over_and_what_was_before_it_kept(desk: Desk) -> None:
    first = await past(desk, 1)
    await speaks(desk, 2, ends=False)
    await closes(desk, 2, Closed("abandoned"), *Log)
    await closes(desk, 3, Closed("failed"), *Log)  # of which not even the opening was written
    await speaks(desk, 4, pieces=0)
    await closes(desk, 4, Closed("barge_in", heard_text=""))
    fifth = await past(desk, 5)
    assert await read(desk, 6) == (first, fifth)


async def test_an_utterance_that_was_cut_off_is_kept_if_some_of_an_answer_was_heard(desk: Desk) -> None:
    audio = await speaks(desk, 1, ends=False)
    await closes(desk, 1, Closed("failed", heard_text="Hello!"), *Log)
    assert await read(desk, 2) == (Exchange(1, audio, None, "Hello!"),)


async def test_the_closing_of_a_whole_utterance_takes_nothing_away(desk: Desk) -> None:
    audio = await speaks(desk, 1)
    await closes(desk, 1, Closed("failed", heard_text=""), *Log)
    assert await read(desk, 2) == (Exchange(1, audio, None, ""),)


# ---- how far back


async def test_nothing_older_than_audio_that_was_trimmed_is_kept(desk: Desk) -> None:
    turns = [await past(desk, turn) for turn in range(1, 5)]
    await trim_log(desk.store, log_key(desk.conversation, Log.AUDIO), 3)
    assert await read(desk, 5) == tuple(turns[2:])


async def test_a_long_conversation_is_read_page_by_page_and_no_further_than_it_fits(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "PAGE_TURNS", 3)
    turns = [await past(desk, turn) for turn in range(1, 9)]
    trips = 0
    call_all = desk.store.call_all

    async def counted(commands: Sequence[Sequence[str]]) -> list[object]:
        nonlocal trips
        trips += 1
        return await call_all(commands)

    monkeypatch.setattr(desk.store, "call_all", counted)
    for budget, needed in ((PLENTY, 3), (4, 2), (2, 1), (0, 0)):
        trips = 0
        assert await read(desk, 9, budget) == tuple(turns[8 - min(budget, 8) :])
        assert trips == needed


def test_a_page_holds_what_the_default_budget_has_room_for() -> None:
    assert PAGE_TURNS >= 3072 // 375


async def test_an_engine_says_itself_what_a_turn_costs(desk: Desk) -> None:
    turns = [await past(desk, 1, "Hello! Yes."), await past(desk, 2, "Hello!"), await past(desk, 3, "")]

    def cost(exchange: Exchange) -> int:
        return 10 + len(exchange.reply)

    for budget, kept in ((9, 0), (10, 1), (25, 1), (26, 2), (46, 2), (47, 3)):
        read_ = await read_history(desk.store, desk.conversation, 4, budget, cost)
        assert read_ == tuple(turns[3 - kept :])


async def test_without_redis_it_says_so() -> None:
    store = Store("redis://127.0.0.1:1", timeout_s=0.5)
    with pytest.raises(StoreError):
        await read_history(store, "0123456789abcdef", 2, PLENTY, _one)
    await store.close()


@given(samples=st.integers(0, 60 * 16_000), text=st.none() | st.text(max_size=50), reply=st.text(max_size=50))
def test_the_rough_cost_grows_with_what_was_said(samples: int, text: str | None, reply: str) -> None:
    less = rough_cost(Exchange(1, bytes(samples * 2), text, reply))
    more = rough_cost(Exchange(1, bytes((samples + 16_000) * 2), text, reply + "word"))
    assert 0 <= less < more
    assert rough_cost(Exchange(1, bytes(30 * 32_000), None, "")) == 375


async def test_a_turn_that_cannot_be_read_ends_the_memory(desk: Desk, store: Store) -> None:
    for turn in (1, 2, 3):
        await speaks(desk, turn)
        await answers(desk, turn)
        if turn == 2:
            await spoil(store, log_key(desk.conversation, Log.AUDIO))
            await closes(desk, turn, Closed("superseded"), Log.AUDIO)
    found = await read_history(store, desk.conversation, 4, PLENTY, _one)
    assert [exchange.turn for exchange in found] == [3]
