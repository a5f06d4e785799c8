"""Writers that obey the verdicts: through forgetful servers, lost replies and dead connections."""

from __future__ import annotations

import asyncio

import pytest

from shared.errors import TurnBusy, TurnClosed, TurnFull, TurnTaken
from shared.hold import new_conversation
from shared.keys import log_key, session_key
from shared.log import BATCH_BYTES, BATCH_ENTRIES, close_turn, read_log, tail, trim_log
from shared.store import Store
from shared.wire import Address, Closed, Log, Take, Token, new_tag
from tests.conftest import eventually
from tests.proxy import Proxy
from tests.shared.support import CLOSED, END, TTL_S, calls, new_log, standing, texts, tokens, writer

# ---- a writer alone


async def test_a_writer_takes_reads_and_goes_on(store: Store) -> None:
    key = new_log()
    first, second = writer(store, key), writer(store, key)
    await first.take("claim", "worker-1")
    assert await first.append(*tokens(0, 3)) == Address(1, 3)
    await second.take("retry", "worker-2")
    assert second.entries == await standing(store, key)
    assert [type(entry.payload) for entry in second.entries] == [Take, Token, Token, Token, Take]
    assert second.entries[-1].payload == Take("retry", "worker-2")
    assert await second.append(*tokens(3, 4), END) == Address(1, 6)
    assert texts(await standing(store, key)) == texts(second.entries) == [f"word {i}" for i in range(4)]


async def test_appends_at_the_same_time_stand_one_after_the_other(store: Store) -> None:
    key = new_log()
    alone = writer(store, key)
    addresses = await asyncio.gather(*(alone.append(token) for token in tokens(0, 50)))
    assert addresses == [Address(1, seq) for seq in range(50)]
    assert texts(await standing(store, key)) == [f"word {i}" for i in range(50)]


async def test_a_long_append_goes_in_batches(store: Store) -> None:
    key = new_log()
    alone = writer(store, key)
    await alone.append(Token("x"))
    before = await calls(store, "fcall")
    large = [Token(str(i) * (100 << 10)) for i in range(7)]
    assert await alone.append(*large) == Address(1, 7)
    assert BATCH_BYTES == 256 << 10
    assert await calls(store, "fcall") == before + 3
    await alone.append(*tokens(0, 2 * BATCH_ENTRIES + 1))
    assert await calls(store, "fcall") == before + 6
    assert [entry.payload for entry in await standing(store, key)] == [
        entry.payload for entry in alone.entries
    ]


async def test_an_append_that_was_cancelled_stands_once_after_the_next(proxy: Proxy, far: Store) -> None:
    key = new_log()
    alone = writer(far, key)
    await alone.append(*tokens(0, 1))
    proxy.hold_requests()
    cancelled = asyncio.create_task(alone.append(*tokens(1, 3)))
    await eventually(lambda: len(alone.entries) == 3, "the append begins")
    cancelled.cancel()
    await asyncio.wait([cancelled])
    proxy.release()
    await alone.append(*tokens(3, 4))
    assert texts(await standing(far, key)) == [f"word {i}" for i in range(4)]


# ---- verdicts


async def test_a_turn_that_was_closed_stops_its_writer(store: Store) -> None:
    key = new_log()
    alone = writer(store, key)
    await alone.append(*tokens(0, 1))
    assert await close_turn(store, [key], 1, new_tag(), CLOSED, ttl_s=TTL_S) == [Address(1, 1)]
    with pytest.raises(TurnClosed):
        await alone.append(*tokens(1, 2))
    with pytest.raises(TurnClosed):
        await writer(store, key).take("claim")


async def test_a_turn_that_was_taken_stops_its_writer(store: Store) -> None:
    key = new_log()
    first, second = writer(store, key), writer(store, key)
    await first.append(*tokens(0, 1))
    await second.take("retry")
    with pytest.raises(TurnTaken):
        await first.append(*tokens(1, 2))
    await second.append(*tokens(1, 2))
    assert texts(await standing(store, key)) == ["word 0", "word 1"]


async def test_a_turn_cannot_begin_before_the_last_is_final(store: Store) -> None:
    key = new_log()
    await writer(store, key).append(*tokens(0, 1))
    with pytest.raises(TurnBusy):
        await writer(store, key, 2).append(*tokens(0, 1))
    with pytest.raises(TurnBusy):
        await writer(store, key, 2).take("claim")


async def test_a_turn_at_its_bound_of_bytes_is_full(store: Store) -> None:
    key = new_log()
    alone = writer(store, key, max_turn_bytes=20)
    await alone.append(*tokens(0, 1))
    with pytest.raises(TurnFull):
        await alone.append(*tokens(1, 10))
    assert await close_turn(store, [key], 1, alone.tag, CLOSED, ttl_s=TTL_S, owner=True) == [Address(1, 1)]


async def test_an_edge_that_lost_its_conversation_writes_nothing(store: Store) -> None:
    conversation = new_conversation()
    key, session = log_key(conversation, Log.TEXT), session_key(conversation)
    edge = writer(store, key, session_key=session)
    await edge.append(*tokens(0, 1))
    await store.call("SET", session, new_tag())
    with pytest.raises(TurnTaken):
        await edge.append(*tokens(1, 2))
    with pytest.raises(TurnTaken):
        await close_turn(store, [key], 1, edge.tag, CLOSED, ttl_s=TTL_S, session_key=session)
    assert len(await standing(store, key)) == 1


async def test_a_take_that_finds_the_turn_closed_meanwhile_is_refused(store: Store) -> None:
    key = new_log()

    class Closing(Store):
        async def call(self, *command: str | bytes | int | float) -> object:
            if command[0] == "XRANGE":
                await close_turn(store, [key], 1, new_tag(), CLOSED, ttl_s=TTL_S)
            return await super().call(*command)

    closing = Closing(store.url)
    with pytest.raises(TurnClosed):
        await writer(closing, key).take("claim")
    await closing.close()


# ---- closing and reading


async def test_several_logs_are_closed_in_one_round_trip(store: Store) -> None:
    conversation = new_conversation()
    keys = [log_key(conversation, log) for log in Log]
    await writer(store, keys[1]).append(*tokens(0, 2))
    await writer(store, keys[2], 2).append(*tokens(0, 1))
    found = await close_turn(store, keys, 1, new_tag(), CLOSED, ttl_s=TTL_S)
    assert found == [Address(1, 0), Address(1, 2), None]
    again = await close_turn(store, keys, 1, new_tag(), Closed("bye"), ttl_s=TTL_S)
    assert again == found
    closed = await tail(store, keys[1])
    assert closed is not None and closed.payload == CLOSED


async def test_a_close_whose_reply_is_lost_lands_once(proxy: Proxy, far: Store) -> None:
    keys = [new_log(), new_log()]
    proxy.lose_replies(3)
    assert await close_turn(far, keys, 1, new_tag(), CLOSED, ttl_s=TTL_S) == [Address(1, 0)] * 2
    for key in keys:
        assert [entry.payload for entry in await standing(far, key)] == [CLOSED]


async def test_a_log_is_read_from_an_address_through_a_turn(store: Store) -> None:
    key = new_log()
    for turn in (1, 2, 3):
        await writer(store, key, turn).append(*tokens(0, 2), END)

    def addresses(*pairs: tuple[int, int]) -> list[Address]:
        return [Address(*pair) for pair in pairs]

    async def read(first: Address, last_turn: int | None = None, count: int | None = None) -> list[Address]:
        return [entry.address for entry in await read_log(store, key, first, last_turn, count=count)]

    assert await read(Address(2, 0), 2) == addresses((2, 0), (2, 1), (2, 2))
    assert await read(Address(2, -1), 2) == await read(Address(2, 0), 2)
    assert await read(Address(2, 2)) == addresses((2, 2), (3, 0), (3, 1), (3, 2))
    assert await read(Address(1, 1), count=3) == addresses((1, 1), (1, 2), (2, 0))
    assert await read(Address(4, -1)) == []


async def test_the_tail_is_the_last_entry(store: Store) -> None:
    key = new_log()
    assert await tail(store, key) is None
    await writer(store, key).append(*tokens(0, 2))
    last = await tail(store, key)
    assert last is not None and last == (await standing(store, key))[-1]


async def test_trimming_drops_exactly_the_older_turns(store: Store) -> None:
    key = new_log()
    for turn in range(1, 6):
        await writer(store, key, turn).append(*tokens(0, 150), END)
    await trim_log(store, key, 4)
    entries = await standing(store, key)
    assert entries[0].address == Address(4, 0) and len(entries) == 2 * 151
    assert await writer(store, key, 6).append(*tokens(0, 1)) == Address(6, 0)


async def test_a_session_that_was_followed_by_another_trims_nothing(store: Store) -> None:
    key, session = new_log(), session_key(new_conversation())
    for turn in (1, 2):
        await writer(store, key, turn).append(*tokens(0, 1), END)
    older, newer = new_tag(), new_tag()
    await store.call("SET", session, newer)
    with pytest.raises(TurnTaken):
        await trim_log(store, key, 2, older, session_key=session)
    assert len(await standing(store, key)) == 4
    await trim_log(store, key, 2, newer, session_key=session)
    assert len(await standing(store, key)) == 2
