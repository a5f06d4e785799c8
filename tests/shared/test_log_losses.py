"""Writers through forgetful servers, lost replies and dead connections: nothing is lost or doubled."""

from __future__ import annotations

import asyncio

import pytest

from shared import log
from shared.errors import StoreError, StoreFull, TurnBusy, TurnTaken
from shared.log import close_turn, tail
from shared.store import Store
from shared.wire import Address, Closed, Take, Token, new_tag
from tests.conftest import eventually
from tests.proxy import Proxy
from tests.shared.support import (
    CLOSED,
    END,
    TTL_S,
    calls,
    forget_from,
    new_log,
    standing,
    texts,
    tokens,
    writer,
)

# ---- a server that forgets


async def test_a_writer_writes_all_again_that_redis_forgot(store: Store) -> None:
    key = new_log()
    first, alone = writer(store, key), writer(store, key)
    await first.append(*tokens(0, 2))
    await alone.take("retry")
    await alone.append(*tokens(2, 5))
    before = [(entry.address, entry.at_us, entry.payload) for entry in await standing(store, key)]
    await store.call("FLUSHALL")
    await store.call("FUNCTION", "FLUSH")
    await alone.append(*tokens(5, 6), END)
    after = await standing(store, key)
    assert [(entry.address, entry.at_us, entry.payload) for entry in after[:6]] == before
    assert {entry.writer for entry in after} == {alone.tag}
    assert texts(after) == [f"word {i}" for i in range(6)]
    assert after[-1].payload == END


async def test_a_writer_writes_the_tail_again_that_redis_forgot(store: Store) -> None:
    key = new_log()
    alone = writer(store, key)
    await alone.append(*tokens(0, 10))
    before = await standing(store, key)
    await forget_from(store, key, Address(1, 4))
    assert len(await standing(store, key)) == 4
    assert await alone.append(END) == Address(1, 10)
    assert (await standing(store, key))[:10] == before


async def test_a_long_turn_is_written_again_in_batches(store: Store) -> None:
    key = new_log()
    alone = writer(store, key)
    for start in range(0, 600, 50):
        await alone.append(*tokens(start, start + 50))
    await store.call("FLUSHALL")
    before = await calls(store, "fcall")
    await alone.append(END)
    assert await calls(store, "fcall") == before + 4  # the one that found it out, and three batches
    assert texts(await standing(store, key)) == [f"word {i}" for i in range(600)]


async def test_a_writer_that_has_ended_writes_again_what_redis_forgot_since(store: Store) -> None:
    key = new_log()
    alone = writer(store, key)
    await alone.take("claim")
    await alone.append(*tokens(0, 10), END)
    before = await standing(store, key)
    assert await alone.confirm()
    for lost in (11, 4, 0):
        await forget_from(store, key, Address(1, lost))
        assert not await alone.confirm()
        assert await standing(store, key) == before
        assert await alone.confirm()


async def test_a_turn_whose_predecessors_end_redis_forgot_waits_until_that_stands_again(store: Store) -> None:
    key = new_log()
    first, second = writer(store, key, 1), writer(store, key, 2)
    await first.append(*tokens(0, 3), END)
    await second.take("claim")
    await second.append(*tokens(0, 2))
    before = await standing(store, key)
    await forget_from(store, key, Address(1, 2))
    asked = await calls(store, "fcall")
    going_on = asyncio.create_task(second.append(END))

    async def refused() -> bool:
        return await calls(store, "fcall") >= asked + 2

    await eventually(refused, "it tries, and tries again")
    assert not going_on.done()
    assert not await first.confirm()
    await going_on
    assert (await standing(store, key))[:-1] == before


async def test_a_turn_whose_predecessors_end_nobody_has_gives_up(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "BUSY_S", 0.1)
    key = new_log()
    second = writer(store, key, 2)
    await second.append(*tokens(0, 2))
    await store.call("FLUSHALL")
    await writer(store, key, 1).append(*tokens(0, 1))
    with pytest.raises(TurnBusy):
        await second.append(END)


async def test_a_tail_forgotten_up_to_a_predecessors_is_to_be_taken_again(store: Store) -> None:
    key = new_log()
    first, second = writer(store, key), writer(store, key)
    await first.append(*tokens(0, 3))
    await second.take("retry")
    await second.append(*tokens(3, 5))
    await forget_from(store, key, Address(1, 2))
    with pytest.raises(TurnTaken):
        await second.append(*tokens(5, 6))
    again = writer(store, key)
    await again.take("contest")
    assert texts(again.entries) == ["word 0", "word 1"]


# ---- connections that fail


async def test_a_turn_is_closed_behind_what_was_read_of_it_though_redis_forgot_that(store: Store) -> None:
    keys = [new_log(), new_log()]
    writers = [writer(store, key) for key in keys]
    for each in writers:
        await each.append(*tokens(0, 3))
    await forget_from(store, keys[1], Address(1, 1))
    closing = asyncio.create_task(close_turn(store, keys, 1, new_tag(), CLOSED, ttl_s=TTL_S, seen=[2, 2]))
    await eventually(lambda: is_closed(store, keys[0]), "the log that is whole is closed")
    assert not await is_closed(store, keys[1])
    await writers[1].confirm()
    assert await closing == [Address(1, 3)] * 2
    assert [entry.address.seq for entry in await standing(store, keys[1])] == [0, 1, 2, 3]


async def test_a_turn_is_closed_in_the_end_though_nobody_writes_again_what_was_read_of_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "REWRITTEN_S", 0.1)
    key = new_log()
    await writer(store, key).append(*tokens(0, 3))
    await forget_from(store, key, Address(1, 1))
    assert await close_turn(store, [key], 1, new_tag(), CLOSED, ttl_s=TTL_S, seen=[2]) == [Address(1, 1)]


async def is_closed(store: Store, key: str) -> bool:
    last = await tail(store, key)
    return last is not None and isinstance(last.payload, Closed)


async def test_a_lost_reply_doubles_nothing(proxy: Proxy, far: Store) -> None:
    key = new_log()
    alone = writer(far, key)
    await alone.take("claim")
    for number in range(10):
        proxy.lose_replies(1 + number % 3)
        await alone.append(*tokens(2 * number, 2 * number + 2))
        assert not proxy.losing
    proxy.lose_replies()
    await alone.append(END)
    entries = await standing(far, key)
    assert [entry.address.seq for entry in entries] == list(range(22))
    assert texts(entries) == [f"word {i}" for i in range(20)]


async def test_a_lost_reply_to_a_take_takes_once(proxy: Proxy, far: Store) -> None:
    key = new_log()
    await writer(far, key).append(*tokens(0, 1))
    second = writer(far, key)
    proxy.lose_replies(2)
    await second.take("retry")
    assert [type(entry.payload) for entry in await standing(far, key)] == [Token, Take]
    assert second.entries == await standing(far, key)


async def test_a_lost_reply_to_the_read_after_a_take_is_asked_for_again(proxy: Proxy, store: Store) -> None:
    key = new_log()
    await writer(store, key).append(*tokens(0, 1))

    class Losing(Store):
        lost = False

        async def call(self, *command: str | bytes | int | float) -> object:
            if command[0] == "XRANGE" and not self.lost:
                self.lost = True
                proxy.lose_replies()
            return await super().call(*command)

    losing = Losing(proxy.url)
    second = writer(losing, key)
    await second.take("retry")
    assert losing.lost and texts(second.entries) == ["word 0"]
    await losing.close()


async def test_a_command_executed_after_its_time_out_changes_nothing(proxy: Proxy, far: Store) -> None:
    key = new_log()
    alone = writer(far, key)
    await alone.append(*tokens(0, 1))
    proxy.hold_requests()
    made = proxy.accepted
    late = asyncio.create_task(alone.append(*tokens(1, 3)))
    await eventually(lambda: proxy.accepted >= made + 2, "two time-outs")
    proxy.release()
    await late
    await alone.append(*tokens(3, 4), END)
    entries = await standing(far, key)
    assert [entry.address.seq for entry in entries] == list(range(5))
    assert texts(entries) == [f"word {i}" for i in range(4)]


async def test_a_writer_goes_on_when_the_server_is_back(proxy: Proxy, far: Store) -> None:
    key = new_log()
    alone = writer(far, key)
    await alone.append(*tokens(0, 1))
    proxy.refusing = True
    proxy.cut()
    waiting = asyncio.create_task(alone.append(*tokens(1, 2)))
    refused = proxy.accepted
    await eventually(lambda: proxy.accepted >= refused + 4, "some attempts")
    assert not waiting.done()
    proxy.refusing = False
    assert await waiting == Address(1, 1)
    assert texts(await standing(far, key)) == ["word 0", "word 1"]


async def test_a_writer_gives_up_after_its_time(proxy: Proxy, far: Store) -> None:
    proxy.refusing = True
    alone = writer(far, new_log(), give_up_s=0.3)
    for attempt in (alone.take("claim"), alone.append(*tokens(0, 1))):
        with pytest.raises(StoreError):
            await attempt


async def test_at_maxmemory_a_writer_is_told_at_once_and_a_turn_is_closed(store: Store) -> None:
    key = new_log()
    alone = writer(store, key)
    await alone.append(*tokens(0, 1))
    await store.call("CONFIG", "SET", "maxmemory", 1)
    try:
        with pytest.raises(StoreFull):
            await alone.append(*tokens(1, 2))
        with pytest.raises(StoreFull):
            await writer(store, key).take("retry")
        assert await close_turn(store, [key], 1, new_tag(), CLOSED, ttl_s=TTL_S) == [Address(1, 1)]
    finally:
        await store.call("CONFIG", "SET", "maxmemory", 0)
