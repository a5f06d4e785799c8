"""A reader delivers every entry once and in order, whatever becomes of pushes, and leaves nothing behind."""

from __future__ import annotations

import asyncio

import pytest

from shared.errors import EntryGarbled, TurnTaken
from shared.log import close_turn
from shared.reader import BUFFER_ENTRIES, PAGE_ENTRIES, Reader
from shared.store import Reply, Store
from shared.wire import Address, Closed, Entry, new_tag
from tests.conftest import eventually
from tests.proxy import PushProxy
from tests.shared.reading import START, read, read_turns, reading, subscribed, subscribers
from tests.shared.support import END, GARBLED, TTL_S, new_log, spoil, standing, texts, tokens, writer

pytestmark = pytest.mark.usefixtures("patient")

CLOSED = Closed("barge_in")


class Counting(Store):
    """Counts what is read from each log."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.reads: dict[str, int] = {}

    async def call(self, *command: str | bytes | int | float) -> Reply:
        if command[0] == "XRANGE":
            key = str(command[1])
            self.reads[key] = self.reads.get(key, 0) + 1
        return await super().call(*command)


# ---- in order, once


@pytest.mark.parametrize("what", GARBLED)
async def test_what_stands_before_an_entry_that_cannot_be_read_is_delivered(
    store: Store, reader: Reader, what: str
) -> None:
    key = new_log()
    alone = writer(store, key)
    await alone.append(*tokens(0, 3))
    await spoil(store, key, what)
    cursor = reader.follow(key, START)
    assert texts(await read(cursor, 3)) == ["word 0", "word 1", "word 2"]
    for _ in range(2):
        with pytest.raises(EntryGarbled) as garbled:
            await cursor.next()
        assert garbled.value.turn == 1
    cursor.close()
    await close_turn(store, [key], 1, new_tag(), CLOSED, ttl_s=TTL_S)
    await writer(store, key, 2).append(*tokens(0, 2))
    behind = reader.follow(key, Address(2, -1))
    assert texts(await read(behind, 2)) == ["word 0", "word 1"]


async def test_a_turn_behind_an_entry_that_cannot_be_read_can_be_taken_and_closed(store: Store) -> None:
    key = new_log()
    alone = writer(store, key)
    await alone.append(*tokens(0, 3))
    await spoil(store, key)
    with pytest.raises(TurnTaken):
        await alone.append(*tokens(3, 4))
    second = writer(store, key)
    with pytest.raises(EntryGarbled):
        await second.take("contest")
    assert await close_turn(store, [key], 1, second.tag, CLOSED, ttl_s=TTL_S, owner=True) == [Address(1, 5)]
    await writer(store, key, 2).append(*tokens(0, 1))


async def test_what_stands_there_already_is_delivered_first(store: Store, reader: Reader) -> None:
    key = new_log()
    alone = writer(store, key)
    await alone.append(*tokens(0, 3))
    cursor = reader.follow(key, START)
    assert texts(await read(cursor, 3)) == ["word 0", "word 1", "word 2"]
    await alone.append(*tokens(3, 5))
    assert texts(await read(cursor, 2)) == ["word 3", "word 4"]


async def test_takes_and_several_turns_are_delivered_as_they_stand(store: Store, reader: Reader) -> None:
    key = new_log()
    cursor = reader.follow(key, START)
    for turn in (1, 2, 4):
        alone = writer(store, key, turn)
        await alone.take("claim", "worker")
        await alone.append(*tokens(0, 2))
        second = writer(store, key, turn)
        await second.take("retry")
        await second.append(END)
        await close_turn(store, [key], turn, new_tag(), CLOSED, ttl_s=TTL_S)
    entries = await standing(store, key)
    assert len(entries) == 18
    assert await read(cursor, 18) == entries


@pytest.mark.parametrize(
    "after", [Address(1, -1), Address(1, 1), Address(1, 3), Address(2, -1), Address(2, 0)]
)
async def test_a_cursor_begins_after_any_address(store: Store, reader: Reader, after: Address) -> None:
    key = new_log()
    await writer(store, key).append(*tokens(0, 3), END)
    second = writer(store, key, 2)
    await second.append(*tokens(3, 5))
    cursor = reader.follow(key, after)
    expected = [entry for entry in await standing(store, key) if entry.address > after]
    assert await read(cursor, len(expected)) == expected
    await second.append(END)
    assert (await cursor.next()).payload == END


async def test_a_cursor_waits_for_a_turn_that_has_not_begun(store: Store, reader: Reader) -> None:
    key = new_log()
    await writer(store, key).append(*tokens(0, 3), END)
    cursor = reader.follow(key, Address(3, -1))
    coming = asyncio.create_task(cursor.next())
    await subscribed(store, key)
    await writer(store, key, 2).append(END)
    await writer(store, key, 3).append(*tokens(7, 8))
    assert (await coming).address == Address(3, 0)


async def test_a_cursor_knows_whether_it_has_delivered_the_last_entry(store: Store, reader: Reader) -> None:
    key = new_log()
    alone = writer(store, key)
    await alone.append(*tokens(0, 2))
    cursor = reader.follow(key, START)
    await cursor.next()
    assert not await cursor.caught_up()
    await cursor.next()
    assert await cursor.caught_up()
    await subscribed(store, key)
    await alone.append(*tokens(2, 3))
    await cursor.next()
    assert await cursor.caught_up()


async def test_a_cursor_that_may_have_missed_something_looks_before_it_says_that_it_was_the_last(
    store: Store,
) -> None:
    key = new_log()
    alone = writer(store, key)
    cursor = Reader(store).follow(key, START)  # no connection: nothing is pushed
    await alone.append(*tokens(0, PAGE_ENTRIES))
    await read(cursor, PAGE_ENTRIES)
    assert await cursor.caught_up()
    await alone.append(*tokens(PAGE_ENTRIES, PAGE_ENTRIES + 1))
    cursor.look()
    assert not await cursor.caught_up()
    await cursor.next()
    assert await cursor.caught_up()


async def test_many_logs_arrive_on_one_connection(store: Store, reader: Reader) -> None:
    keys = [new_log() for _ in range(300)]
    cursors = [reader.follow(key, START) for key in keys]
    waiting = [asyncio.create_task(read(cursor, 3)) for cursor in cursors]
    await asyncio.gather(*(writer(store, key).append(*tokens(0, 2), END) for key in keys))
    for entries in await asyncio.gather(*waiting):
        assert texts(entries) == ["word 0", "word 1"]
    clients = (await store.call("CLIENT", "LIST", "TYPE", "pubsub")).decode().splitlines()
    assert len(clients) == 1


async def test_several_cursors_on_one_log_read_each_for_themselves(store: Store, reader: Reader) -> None:
    key = new_log()
    alone = writer(store, key)
    first = reader.follow(key, START)
    await alone.append(*tokens(0, 2))
    second = reader.follow(key, START)
    await alone.append(*tokens(2, 3), END)
    assert await read(first, 4) == await read(second, 4) == await standing(store, key)


async def test_a_slow_consumer_holds_a_bounded_number_of_entries(store: Store) -> None:
    key = new_log()
    alone = writer(store, key)
    cursor = Reader(store).follow(key, START)  # no connection: this test pushes
    await alone.append(*tokens(0, 1))
    first = await cursor.next()
    await alone.append(*tokens(1, 500))
    for entry in await standing(store, key):
        cursor.push(entry)
    ready = [first]
    while (entry_or_none := cursor.next_nowait()) is not None:
        ready.append(entry_or_none)
    assert len(ready) == 1 + BUFFER_ENTRIES
    assert [*ready, *await read(cursor, 500 - len(ready))] == await standing(store, key)


async def test_a_consumer_that_is_cancelled_misses_nothing(store: Store, reader: Reader) -> None:
    key = new_log()
    await writer(store, key).append(*tokens(0, 200), END)
    cursor = reader.follow(key, START)
    entries: list[Entry] = []
    steps = 0
    while len(entries) < 201:
        coming = asyncio.create_task(cursor.next())
        for _ in range(steps % 40):
            await asyncio.sleep(0)
        steps += 1
        coming.cancel()
        await asyncio.wait([coming])
        if not coming.cancelled():
            entries.append(coming.result())
    assert entries == await standing(store, key)


# ---- pushes that fail


@pytest.mark.parametrize("seed", range(4))
async def test_dropped_doubled_and_reordered_pushes_make_no_difference(
    redis_url: str, store: Store, impatient: None, seed: int
) -> None:
    keys = [new_log() for _ in range(4)]
    async with PushProxy(redis_url, seed) as proxy, reading(proxy.url) as reader:
        following = [asyncio.create_task(read_turns(reader.follow(key, START), 6)) for key in keys]
        await subscribed(store, *keys)

        async def write(key: str) -> None:
            for turn in range(1, 7):
                alone = writer(store, key, turn)
                await alone.take("claim")
                for number in range(0, 40, 2):
                    await alone.append(*tokens(number, number + 1))
                    await alone.append(*tokens(number + 1, number + 2))
                await alone.append(END)

        await asyncio.gather(*(write(key) for key in keys))
        for key, found in zip(keys, await asyncio.gather(*following), strict=True):
            assert found == await standing(store, key)
        assert min(proxy.dropped, proxy.doubled, proxy.delayed) > 20


async def test_a_last_push_that_is_lost_is_looked_for_in_the_log(
    redis_url: str, store: Store, impatient: None
) -> None:
    key = new_log()
    async with PushProxy(redis_url, 0, drop=1.0) as proxy, reading(proxy.url) as reader:
        cursor = reader.follow(key, START)
        following = asyncio.create_task(read_turns(cursor, 1))
        await subscribed(store, key)
        await writer(store, key).append(*tokens(0, 3), END)
        assert await following == await standing(store, key)
        await eventually(lambda: proxy.dropped == 4, "every push is dropped")


async def test_silence_is_looked_into_only_while_something_is_expected(
    redis_url: str, impatient: None
) -> None:
    busy, idle = new_log(), new_log()
    store = Counting(redis_url)
    reader = Reader(store)
    running = asyncio.create_task(reader.run())
    cursors = [reader.follow(key, START) for key in (busy, idle)]
    cursors[1].idle = True
    following = [asyncio.create_task(cursor.next()) for cursor in cursors]
    await subscribed(store, busy, idle)
    await eventually(lambda: store.reads.get(busy, 0) > 6, "the busy log is looked at again and again")
    assert store.reads[idle] <= 2  # at the start, and once the subscription is confirmed
    cursors[1].idle = False
    before = store.reads[idle]
    await eventually(lambda: store.reads[idle] > before + 3, "the idle log is looked at from now on")
    for task in (*following, running):
        task.cancel()
    await asyncio.wait([*following, running])
    await store.close()


async def test_an_idle_cursor_still_gets_what_is_pushed(store: Store, reader: Reader) -> None:
    key = new_log()
    cursor = reader.follow(key, START)
    cursor.idle = True
    following = asyncio.create_task(cursor.next())
    await subscribed(store, key)
    await writer(store, key).append(*tokens(0, 1))
    assert texts([await following]) == ["word 0"]


@pytest.mark.parametrize("push", [b"", b"hello", b"\x92\xa31-0\x90", b"\x92\xa11\x91\xa1w", b"\xc1", b"\x80"])
async def test_a_push_that_nobody_can_read_is_passed_over(store: Store, reader: Reader, push: bytes) -> None:
    key = new_log()
    cursor = reader.follow(key, START)
    following = asyncio.create_task(read(cursor, 3))
    await subscribed(store, key)
    alone = writer(store, key)
    await alone.append(*tokens(0, 1))
    await store.call("SPUBLISH", key, push)
    await alone.append(*tokens(1, 2), END)
    assert await following == await standing(store, key)


# ---- leaving


async def test_channels_are_left_with_their_last_cursor(store: Store, reader: Reader) -> None:
    key = new_log()
    first, second = reader.follow(key, START), reader.follow(key, START)
    await subscribed(store, key)
    first.close()
    await writer(store, key).append(*tokens(0, 1))
    assert (await second.next()).address == Address(1, 0)
    assert await subscribers(store, key) == 1
    second.close()
    second.close()

    async def nobody_is_left() -> bool:
        return await subscribers(store, key) == 0

    await eventually(nobody_is_left, "nobody is subscribed")


async def test_a_log_may_be_left_and_followed_again_at_once(store: Store, reader: Reader) -> None:
    key = new_log()
    for _ in range(20):
        reader.follow(key, START).close()
    cursor = reader.follow(key, START)
    following = asyncio.create_task(cursor.next())
    await subscribed(store, key)
    await writer(store, key).append(*tokens(0, 1))
    assert (await following).address == Address(1, 0)


async def test_no_channel_leaks_over_many_conversations_and_disconnects(store: Store, reader: Reader) -> None:
    for _ in range(5):
        cursors = [reader.follow(new_log(), START) for _ in range(50)]
        await subscribed(store, cursors[-1].key)
        await store.call("CLIENT", "KILL", "TYPE", "pubsub")
        for cursor in cursors[:25]:
            cursor.close()
        await subscribed(store, cursors[-1].key)
        for cursor in cursors[25:]:
            cursor.close()

    async def none_left() -> bool:
        return not await store.call("PUBSUB", "SHARDCHANNELS")

    await eventually(none_left, "no channel is left")
