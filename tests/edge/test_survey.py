from __future__ import annotations

import pytest

from edge.survey import Survey, survey
from shared.keys import log_key
from shared.log import LogWriter, close_turn, trim_log
from shared.store import Store
from shared.wire import (
    Address,
    Chunk,
    Closed,
    Log,
    Open,
    Payload,
    ReplyEnd,
    SpeechEnd,
    Take,
    UtteranceEnd,
    new_tag,
)

CONVERSATION = "0123456789abcdef"
SAMPLES = bytes(3200)


async def write(store: Store, log: Log, turn: int, *payloads: Payload) -> None:
    key = log_key(CONVERSATION, log)
    await LogWriter(store, key, turn, new_tag(), max_turn_bytes=1 << 20, ttl_s=60).append(*payloads)


async def speak(store: Store, turn: int, *, ends: bool = True) -> None:
    """An utterance of a tenth of a second stands in the log."""
    start = (turn - 1) * 1600
    end = (UtteranceEnd("client", start + 1600),) if ends else ()
    await write(store, Log.AUDIO, turn, Open(chunk_id=f"c{turn}"), Chunk(start, SAMPLES), *end)


async def answer(store: Store, turn: int, reason: str | None = "heard") -> None:
    """The turn was answered, and closed if there is a reason to."""
    await write(store, Log.TEXT, turn, Take(), ReplyEnd("stop", 0, 0))
    await write(store, Log.SPEECH, turn, Take(), SpeechEnd("stop", 0))
    if reason:
        keys = [log_key(CONVERSATION, log) for log in (Log.TEXT, Log.SPEECH)]
        await close_turn(store, keys, turn, new_tag(), Closed(reason), ttl_s=60)


async def look(store: Store, *, noted: int = 0, **held: Address) -> Survey:
    return await survey(store, CONVERSATION, {Log(name): address for name, address in held.items()}, noted)


async def test_a_conversation_without_a_turn_has_nothing_to_tell(store: Store) -> None:
    found = await look(store)
    assert (found.last_turn, found.input_samples, found.living) == (0, 0, ())
    assert found.follow == {Log.TEXT: 1, Log.SPEECH: 1}
    assert found.tails == {}


async def test_a_turn_lives_until_it_is_closed_in_text_and_in_speech(store: Store) -> None:
    for turn in (1, 2):
        await speak(store, turn)
        await answer(store, turn)
    assert (await look(store)).living == ()
    await speak(store, 3)
    assert (await look(store)).living == ((3, False),)
    await answer(store, 3, reason=None)
    assert (await look(store)).living == ((3, False),)
    await close_turn(store, [log_key(CONVERSATION, Log.TEXT)], 3, new_tag(), Closed("heard"), ttl_s=60)
    assert (await look(store)).living == ((3, False),)


async def test_an_utterance_that_stands_open_is_said_to_be(store: Store) -> None:
    await speak(store, 1)
    await answer(store, 1, reason=None)
    await speak(store, 2, ends=False)
    found = await look(store)
    assert found.living == ((1, False), (2, True))
    assert (found.last_turn, found.input_samples) == (2, 3200)


@pytest.mark.parametrize("takes", [1, 40])
async def test_the_place_in_the_input_is_found_behind_entries_that_have_none(
    store: Store, takes: int
) -> None:
    await speak(store, 1, ends=False)
    writer = log_key(CONVERSATION, Log.AUDIO)
    for _ in range(takes):
        again = LogWriter(store, writer, 1, new_tag(), max_turn_bytes=1 << 20, ttl_s=60)
        await again.take("resume")
    assert (await look(store)).input_samples == 1600


async def test_each_log_is_followed_from_the_turn_that_the_client_is_in(store: Store) -> None:
    for turn in (1, 2, 3, 4):
        await speak(store, turn)
        await answer(store, turn)
    found = await look(store, text=Address(4, 1), speech=Address(3, 0))
    # The text of a chunk goes with its first frame: it is folded from no later than speech is.
    assert found.follow == {Log.TEXT: 3, Log.SPEECH: 3}
    assert set(found.openings) == {3, 4}
    assert found.openings[4].chunk_id == "c4"
    assert found.tails == {Log.TEXT: Address(4, 2), Log.SPEECH: Address(4, 2)}


async def test_what_was_trimmed_is_not_asked_for(store: Store) -> None:
    for turn in (1, 2, 3):
        await speak(store, turn)
        await answer(store, turn)
    await trim_log(store, log_key(CONVERSATION, Log.SPEECH), 2)
    found = await look(store, speech=Address(1, 5))
    assert found.follow == {Log.TEXT: 1, Log.SPEECH: 2}


async def test_a_client_that_claims_to_be_ahead_is_told_what_lives(store: Store) -> None:
    await speak(store, 1)
    found = await look(store, text=Address(99, 1), speech=Address(7, 7))
    assert found.follow == {Log.TEXT: 1, Log.SPEECH: 1}
    assert found.last_turn == 1


@pytest.mark.parametrize("kept", [None, Log.AUDIO, Log.TEXT, Log.SPEECH, "meta", "client"])
async def test_the_number_of_a_turn_is_used_once_whatever_redis_has_lost_of_it(
    store: Store, kept: Log | str | None
) -> None:
    for turn in range(1, 4):
        await speak(store, turn)
        await answer(store, turn)
    for log in Log:
        if kept is not log:
            await store.call("DEL", log_key(CONVERSATION, log))
    held = {"text": Address(3, 0)} if kept == "client" else {}
    found = await look(store, noted=3 if kept == "meta" else 0, **held)
    assert found.last_turn == (3 if kept else 0)
    assert found.living[-1:] == (((3, False),) if isinstance(kept, Log) else ())


async def test_an_utterance_that_was_followed_by_a_turn_that_redis_forgot_does_not_go_on(
    store: Store,
) -> None:
    await speak(store, 1)
    await answer(store, 1)
    await speak(store, 2, ends=False)
    found = await look(store, noted=3)
    assert (found.last_turn, found.living) == (3, ((2, False),))


async def test_turns_that_were_cut_short_are_known(store: Store) -> None:
    for turn, reason in ((1, "barge_in"), (2, "heard"), (3, "failed"), (4, None)):
        await speak(store, turn)
        await answer(store, turn, reason)
    assert (await look(store)).cut == {1, 3}


async def test_which_endings_a_client_has_is_known_by_the_speech_that_it_holds(store: Store) -> None:
    for turn in (1, 2):
        await speak(store, turn)
        await answer(store, turn, reason="barge_in")
    assert (await look(store)).told == 0
    held = {0: 1, 1: 2, 2: 2}
    for seq, told in held.items():
        assert (await look(store, speech=Address(2, seq))).told == told
    await trim_log(store, log_key(CONVERSATION, Log.SPEECH), 2)
    assert (await look(store, speech=Address(1, 0))).told == 1


async def test_whole_answers_whose_end_the_client_has_not_got_are_replayed(store: Store) -> None:
    for turn, reason in ((1, "heard"), (2, "barge_in"), (3, "heard"), (4, None)):
        await speak(store, turn)
        await answer(store, turn, reason)
    assert (await look(store)).replayed == (1, 3)
    assert (await look(store, speech=Address(1, 1))).replayed == (3,)
    assert (await look(store, speech=Address(3, 0))).replayed == (3,)
    assert (await look(store, speech=Address(3, 1))).replayed == ()


@pytest.mark.parametrize(("reason", "ends_at"), [("heard", 4), ("barge_in", 5)])
async def test_which_endings_a_client_has_is_known_though_the_speech_it_holds_is_kept_no_more(
    store: Store, reason: str, ends_at: int
) -> None:
    for turn in (1, 2, 3):
        await speak(store, turn)
        await answer(store, turn, reason=None)
        keys = [log_key(CONVERSATION, log) for log in (Log.TEXT, Log.SPEECH)]
        await close_turn(store, keys, turn, new_tag(), Closed(reason, speech_seq=5), ttl_s=60)
    await trim_log(store, log_key(CONVERSATION, Log.SPEECH), 3)
    for seq in (3, 4, 5):
        found = await look(store, text=Address(3, 0), speech=Address(2, seq))
        assert found.told == (2 if seq >= ends_at else 1)
        assert found.follow == {Log.TEXT: 2, Log.SPEECH: 3}
