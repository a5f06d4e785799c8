from __future__ import annotations

import pytest

from shared.errors import StoreFull
from shared.hold import Hold, Lease, Resumed, Standing, new_conversation, new_token, token_hash
from shared.keys import log_key, meta_key, session_key
from shared.store import Store
from shared.wire import Log, new_tag

LEASE = Lease(session_s=5.0, keys_s=120.0)
SETTINGS = {"voice": "anna", "speed": 1.0}


def hold(store: Store, conversation: str, edge: str = "edge-a", lease: Lease = LEASE) -> Hold:
    return Hold(store, conversation, new_tag(), lease=lease, edge=edge)


async def keep(store: Store, held: Hold, *, keys_too: bool = False) -> Standing:
    [reply] = await store.functions([held.keep(keys_too=keys_too)])
    return Standing(reply.decode())


async def test_a_conversation_that_begins_has_an_owner_settings_and_a_time_to_live(store: Store) -> None:
    conversation, token = new_conversation(), new_token()
    held = hold(store, conversation)
    assert await held.begin(token, SETTINGS) is Standing.HELD
    assert await store.call("GET", session_key(conversation)) == held.tag.encode()
    assert 0 < await store.call("PTTL", session_key(conversation)) <= 5000
    assert 0 < await store.call("PTTL", meta_key(conversation)) <= 120_000


async def test_a_token_is_stored_as_a_hash_only(store: Store) -> None:
    conversation, token = new_conversation(), new_token()
    await hold(store, conversation).begin(token, SETTINGS)
    meta = await store.call("HGETALL", meta_key(conversation))
    assert token_hash(token).encode() in meta
    assert not any(token.encode() in field for field in meta)


async def test_only_the_holder_keeps_the_lease(store: Store) -> None:
    conversation = new_conversation()
    held, other = hold(store, conversation), hold(store, conversation)
    await held.begin(new_token(), SETTINGS)
    assert await keep(store, held) is Standing.HELD
    assert await keep(store, other) is Standing.LOST
    assert await other.begin(new_token(), SETTINGS) is Standing.LOST


async def test_a_lease_that_ran_out_is_claimed_again_by_whoever_lives(store: Store) -> None:
    conversation = new_conversation()
    held = hold(store, conversation)
    await held.begin(new_token(), SETTINGS)
    await store.call("DEL", session_key(conversation))
    assert await keep(store, held) is Standing.HELD
    assert await store.call("GET", session_key(conversation)) == held.tag.encode()


async def test_a_meta_hash_that_redis_forgot_is_missed(store: Store) -> None:
    conversation = new_conversation()
    held = hold(store, conversation)
    await held.begin(new_token(), SETTINGS)
    await store.call("DEL", meta_key(conversation))
    assert await keep(store, held) is Standing.BARE


async def test_the_times_to_live_of_all_keys_are_refreshed_together(store: Store) -> None:
    conversation = new_conversation()
    held = hold(store, conversation)
    await held.begin(new_token(), SETTINGS)
    keys = [meta_key(conversation), *(log_key(conversation, log) for log in Log)]
    for key in keys[1:]:
        await store.call("XADD", key, "1-0", "kind", "take")
    await store.call("PEXPIRE", keys[0], 1000)
    await keep(store, held, keys_too=False)
    assert await store.call("PTTL", keys[0]) <= 1000
    await keep(store, held, keys_too=True)
    for key in keys:
        assert 100_000 < await store.call("PTTL", key) <= 120_000


async def test_a_good_token_takes_the_conversation_over(store: Store) -> None:
    conversation, token = new_conversation(), new_token()
    older = hold(store, conversation, "edge-a")
    await older.begin(token, SETTINGS, turn=3)
    newer = hold(store, conversation, "edge-b")
    assert await newer.resume(token, new_token()) == Resumed(SETTINGS, "edge-a", turn=3)
    assert await keep(store, older) is Standing.LOST
    assert await keep(store, newer) is Standing.HELD


@pytest.mark.parametrize("shown", ["", "wrong", "\ud800"])
async def test_a_token_that_is_not_good_changes_nothing(store: Store, shown: str) -> None:
    conversation = new_conversation()
    older = hold(store, conversation)
    await older.begin(new_token(), SETTINGS)
    assert await hold(store, conversation).resume(shown, new_token()) is None
    assert await keep(store, older) is Standing.HELD


async def test_a_conversation_that_never_was_cannot_be_resumed_and_is_not_made_by_trying(
    store: Store,
) -> None:
    assert await hold(store, new_conversation()).resume(new_token(), new_token()) is None
    assert await store.call("KEYS", "conv:*") == []


async def test_the_token_that_was_shown_is_good_until_the_new_one_has_been_proven(store: Store) -> None:
    conversation, first, second, third = new_conversation(), new_token(), new_token(), new_token()
    await hold(store, conversation).begin(first, SETTINGS)
    assert await hold(store, conversation).resume(first, second)
    # The reply with the second one was lost: the client has nothing but the first.
    holder = hold(store, conversation)
    assert await holder.resume(first, third)
    assert await hold(store, conversation).resume(second, new_token()) is None
    await holder.settle()
    assert await hold(store, conversation).resume(first, new_token()) is None
    assert await hold(store, conversation).resume(third, new_token())


async def test_a_session_that_was_taken_over_cannot_void_the_others_tokens(store: Store) -> None:
    conversation, first, second = new_conversation(), new_token(), new_token()
    older = hold(store, conversation)
    await older.begin(first, SETTINGS)
    assert await hold(store, conversation).resume(first, second)
    await older.settle()
    await older.release(ended=True)
    assert await hold(store, conversation).resume(first, new_token())


async def test_a_released_conversation_can_be_resumed_and_an_ended_one_cannot(store: Store) -> None:
    conversation, token = new_conversation(), new_token()
    held = hold(store, conversation)
    await held.begin(token, SETTINGS)
    await held.release(ended=False)
    assert await store.call("EXISTS", session_key(conversation)) == 0
    again, second = hold(store, conversation), new_token()
    assert await again.resume(token, second)
    await again.release(ended=True)
    assert await hold(store, conversation).resume(second, new_token()) is None
    assert await hold(store, conversation).resume(token, new_token()) is None


async def test_at_maxmemory_nothing_begins_but_what_is_held_is_kept_and_can_be_taken_over(
    store: Store,
) -> None:
    conversation, token = new_conversation(), new_token()
    held = hold(store, conversation)
    await held.begin(token, SETTINGS)
    before = (await store.call("CONFIG", "GET", "maxmemory"))[1]
    await store.call("CONFIG", "SET", "maxmemory", "1")
    try:
        with pytest.raises(StoreFull):
            await hold(store, new_conversation()).begin(new_token(), SETTINGS)
        assert await keep(store, held, keys_too=True) is Standing.HELD
        newer = hold(store, conversation)
        assert await newer.resume(token, new_token())
        await newer.settle()
        await newer.release(ended=False)
    finally:
        await store.call("CONFIG", "SET", "maxmemory", before)


def test_tokens_have_256_bits() -> None:
    assert len({new_token() for _ in range(100)}) == 100
    assert all(len(new_token()) == 43 for _ in range(100))
