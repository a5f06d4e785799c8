"""Through dead connections and a server that forgets, a reader goes on, or says that it cannot."""

from __future__ import annotations

import asyncio

import pytest

from shared import reader as reader_module
from shared.errors import StoryForked
from shared.log import close_turn, trim_log
from shared.reader import PAGE_ENTRIES, Reader
from shared.store import Store
from shared.wire import Address, Closed, Take, new_tag
from tests.conftest import eventually
from tests.proxy import Proxy
from tests.shared.reading import START, read, read_turns, reading, subscribed
from tests.shared.support import END, TTL_S, forget_from, new_log, standing, tokens, writer

pytestmark = pytest.mark.usefixtures("patient")

CLOSED = Closed("barge_in")


# ---- connections that fail


@pytest.mark.parametrize("kinds", [("pubsub",), ("normal",), ("pubsub", "normal")])
async def test_killed_connections_make_no_difference(redis_url: str, store: Store, kinds: tuple[str]) -> None:
    key = new_log()
    async with reading(redis_url) as reader:
        cursor = reader.follow(key, START)
        following = asyncio.create_task(read_turns(cursor, 20))
        for turn in range(1, 21):
            alone = writer(store, key, turn)
            for start in range(0, 50, 5):
                await alone.append(*tokens(start, start + 5))
            for kind in kinds:
                await store.call("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
            await alone.append(END)
        assert await following == await standing(store, key)


async def test_a_connection_that_falls_silent_is_replaced(
    redis_url: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "PING_S", 0.05)
    monkeypatch.setattr(reader_module, "PONG_WITHIN_S", 0.3)
    key = new_log()
    async with Proxy(redis_url) as proxy, reading(proxy.url) as reader:
        cursor = reader.follow(key, START)
        await subscribed(store, key)
        following = asyncio.create_task(read(cursor, 2))
        await writer(store, key).append(*tokens(0, 1))
        made = proxy.accepted
        proxy.freeze()
        await eventually(lambda: proxy.accepted > made, "another connection")
        proxy.release()
        await writer(store, key, tag=new_tag()).take("retry")
        assert await following == await standing(store, key)


async def test_a_server_that_is_away_is_waited_for(redis_url: str, store: Store) -> None:
    key = new_log()
    async with Proxy(redis_url) as proxy, reading(proxy.url) as reader:
        cursor = reader.follow(key, START)
        following = asyncio.create_task(read(cursor, 3))
        await subscribed(store, key)
        proxy.refusing = True
        proxy.cut()
        refused = proxy.accepted
        await writer(store, key).append(*tokens(0, 2), END)
        await eventually(lambda: proxy.accepted >= refused + 3, "some attempts")
        assert not following.done()
        proxy.refusing = False
        assert await following == await standing(store, key)


# ---- a server that forgets, and logs that are trimmed


async def test_a_reader_that_was_away_passes_over_what_was_trimmed(store: Store, reader: Reader) -> None:
    key = new_log()
    first = writer(store, key)
    cursor = reader.follow(key, START)
    await first.append(*tokens(0, 100))
    assert len(await read(cursor, 20)) == 20
    while cursor.next_nowait() is not None:
        continue
    await first.append(END)
    for turn in (2, 3, 4):
        await writer(store, key, turn).append(*tokens(0, 2), END)
    await trim_log(store, key, 3)
    cursor.look()
    assert [entry.address for entry in await read(cursor, 6)] == [
        Address(turn, seq) for turn in (3, 4) for seq in range(3)
    ]


async def test_trimming_what_was_read_to_its_end_is_not_noticed(store: Store, reader: Reader) -> None:
    key = new_log()
    cursor = reader.follow(key, START)
    for turn in range(1, 6):
        await writer(store, key, turn).append(*tokens(0, 2), END)
        assert [entry.address.turn for entry in await read(cursor, 3)] == [turn] * 3
        await trim_log(store, key, turn + 1)
        cursor.look()


async def test_a_tail_that_its_writer_writes_again_is_not_noticed(store: Store, reader: Reader) -> None:
    key = new_log()
    alone = writer(store, key)
    cursor = reader.follow(key, START)
    await alone.append(*tokens(0, 10))
    found = await read(cursor, 10)
    await forget_from(store, key, Address(1, 4))
    cursor.look()
    following = asyncio.create_task(read_turns(cursor, 1))
    await alone.append(*tokens(10, 12), END)
    assert [*found, *await following] == await standing(store, key)


async def test_everything_forgotten_and_written_again_is_not_noticed(store: Store, reader: Reader) -> None:
    key = new_log()
    alone = writer(store, key)
    cursor = reader.follow(key, START)
    await alone.append(*tokens(0, 10))
    found = await read(cursor, 10)
    await store.call("FLUSHALL")
    cursor.look()
    following = asyncio.create_task(read_turns(cursor, 1))
    await alone.append(END)
    assert [*found, *await following] == await standing(store, key)


async def test_a_lost_tail_that_nobody_writes_again_is_a_forked_story(
    store: Store, reader: Reader, impatient: None
) -> None:
    key = new_log()
    cursor = reader.follow(key, START)
    await writer(store, key).append(*tokens(0, 10))
    await read(cursor, 10)
    await forget_from(store, key, Address(1, 4))
    with pytest.raises(StoryForked):
        await cursor.next()


async def test_another_story_where_one_was_delivered_is_a_forked_story(store: Store, reader: Reader) -> None:
    key = new_log()
    cursor = reader.follow(key, START)
    await writer(store, key).append(*tokens(0, 10))
    await read(cursor, 10)
    await forget_from(store, key, Address(1, 4))
    following = asyncio.create_task(cursor.next())
    second = writer(store, key)
    await second.take("retry")
    await second.append(*tokens(20, 25))
    with pytest.raises(StoryForked):
        await following


@pytest.mark.parametrize("told", [0, 3])
@pytest.mark.parametrize("takes", [1, 2])
async def test_a_take_that_was_lost_and_made_by_another_is_no_fork(
    store: Store, reader: Reader, told: int, takes: int
) -> None:
    key = new_log()
    cursor = reader.follow(key, START)
    await writer(store, key).append(*tokens(0, 2), END)
    first = writer(store, key, 2)
    if told:
        await first.append(*tokens(0, told))
    for _ in range(takes):
        await writer(store, key, 2).take("claim")
    await read(cursor, 3 + told + takes)
    await forget_from(store, key, Address(2, told))
    second = writer(store, key, 2)
    await second.take("claim")
    await second.append(*tokens(told, 5), END)
    following = asyncio.create_task(read_turns(cursor, 2))
    cursor.look()
    found = [entry for entry in await following if not isinstance(entry.payload, Take)]
    assert found == [entry for entry in await standing(store, key) if entry.address > Address(2, told)]


async def test_a_fork_is_seen_though_the_next_push_fits(store: Store) -> None:
    key = new_log()
    cursor = Reader(store).follow(key, START)  # no connection: this test pushes
    await writer(store, key).append(*tokens(0, 5))
    await read(cursor, 5)
    await forget_from(store, key, Address(1, 3))
    second = writer(store, key)
    await second.take("retry")
    await second.append(*tokens(20, 23))
    cursor.look()  # as when the subscription is confirmed again
    for entry in await standing(store, key):
        cursor.push(entry)
    with pytest.raises(StoryForked):
        await cursor.next()
    assert cursor.next_nowait() is None


async def test_a_fork_is_seen_though_the_next_push_comes_during_the_look(store: Store) -> None:
    key = new_log()
    cursor = Reader(store).follow(key, START)
    await writer(store, key).append(*tokens(0, 5))
    await read(cursor, 5)
    await forget_from(store, key, Address(1, 3))
    second = writer(store, key)
    await second.take("retry")
    await second.append(*tokens(20, 23))
    fitting = (await standing(store, key))[5]
    cursor.look()
    following = asyncio.create_task(cursor.next())
    while not following.done():
        cursor.push(fitting)
        await asyncio.sleep(0)
    with pytest.raises(StoryForked):
        await following
    assert cursor.next_nowait() is None


async def test_a_turn_that_lost_its_tail_and_was_followed_by_another_is_no_trimmed_one(
    store: Store, reader: Reader
) -> None:
    key = new_log()
    cursor = reader.follow(key, START)
    await writer(store, key).append(*tokens(0, 10))
    await read(cursor, 10)
    await forget_from(store, key, Address(1, 4))
    await close_turn(store, [key], 2, new_tag(), CLOSED, ttl_s=TTL_S)
    with pytest.raises(StoryForked):
        await cursor.next()


async def test_a_final_entry_that_was_delivered_and_forgotten_holds_nothing_up(
    store: Store, reader: Reader
) -> None:
    key = new_log()
    cursor = reader.follow(key, START)
    await writer(store, key).append(*tokens(0, 2), END)
    await close_turn(store, [key], 1, new_tag(), Closed("heard"), ttl_s=TTL_S)
    await read(cursor, 4)
    await forget_from(store, key, Address(1, 3))
    cursor.look()
    following = asyncio.create_task(cursor.next())
    await writer(store, key, 2).append(*tokens(0, 1))
    assert (await following).address == Address(2, 0)


async def test_another_story_of_a_turn_that_was_delivered_to_its_end_is_passed_over(
    store: Store, reader: Reader
) -> None:
    key = new_log()
    cursor = reader.follow(key, START)
    await writer(store, key).append(*tokens(0, 2))
    await close_turn(store, [key], 1, new_tag(), CLOSED, ttl_s=TTL_S)
    await read(cursor, 3)
    await forget_from(store, key, Address(1, 1))
    following = asyncio.create_task(cursor.next())
    second = writer(store, key)
    await second.take("retry")
    await second.append(*tokens(0, 2 * PAGE_ENTRIES), END)
    await writer(store, key, 2).append(*tokens(0, 1))
    assert (await following).address == Address(2, 0)


async def test_a_reader_that_resumed_sees_a_fork_too(store: Store, reader: Reader, impatient: None) -> None:
    key = new_log()
    await writer(store, key).append(*tokens(0, 10))
    cursor = reader.follow(key, Address(1, 9))
    cursor.idle = True
    following = asyncio.create_task(cursor.next())
    await subscribed(store, key)
    await forget_from(store, key, Address(1, 4))
    second = writer(store, key)
    await second.take("retry")
    await second.append(*tokens(20, 30))
    with pytest.raises(StoryForked):
        await following
