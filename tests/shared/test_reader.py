"""A reader delivers every entry once and in order, whatever becomes of its connections, pushes and server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from shared import reader as reader_module
from shared.errors import StoryForked
from shared.log import close_turn, trim_log
from shared.reader import BUFFER_ENTRIES, Cursor, Reader
from shared.store import Reply, Store
from shared.wire import Address, Closed, Entry, new_tag
from tests.conftest import eventually
from tests.proxy import Proxy, PushProxy
from tests.shared.support import END, TTL_S, forget_from, new_log, standing, texts, tokens, writer

CLOSED = Closed("barge_in")
START = Address(1, -1)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers that look after a lost push, and wait for a lost entry, for a moment only."""
    monkeypatch.setattr(reader_module, "SILENCE_S", (0.05, 0.1))
    monkeypatch.setattr(reader_module, "MISSING_S", (0.01, 0.3))


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


@asynccontextmanager
async def reading(url: str) -> AsyncIterator[Reader]:
    """A running reader on a store of its own."""
    store = Store(url)
    reader = Reader(store)
    running = asyncio.create_task(reader.run())
    yield reader
    running.cancel()
    await asyncio.wait([running])
    await store.close()


async def subscribers(store: Store, key: str) -> int:
    """How many connections the pushes of a log go to."""
    _, count = await store.call("PUBSUB", "SHARDNUMSUB", key)
    return int(count)


async def subscribed(store: Store, *keys: str) -> None:
    """Wait until the pushes of these logs go to somebody."""

    async def all_are() -> bool:
        return all([await subscribers(store, key) == 1 for key in keys])

    await eventually(all_are, "the channels are subscribed")


async def read(cursor: Cursor, count: int) -> list[Entry]:
    """The next entries."""
    return [await cursor.next() for _ in range(count)]


async def read_turns(cursor: Cursor, last: int) -> list[Entry]:
    """Everything through the first final entry of turn `last`."""
    entries = []
    async for entry in cursor:
        entries.append(entry)
        if entry.final and entry.address.turn == last:
            break
    return entries


# ---- in order, once


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
