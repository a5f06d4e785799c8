"""The way to Redis: one connection for all commands, told errors, and libraries that load themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from shared.errors import StoreError, StoreFull
from shared.store import Store
from tests.proxy import Proxy
from tests.shared.support import disk_full


async def outcomes(*attempts: Awaitable[object]) -> list[object]:
    """What became of each: its result or its error."""
    return await asyncio.gather(*attempts, return_exceptions=True)


async def test_replies_are_raw(store: Store) -> None:
    assert await store.call("SET", "key", "value") == b"OK"
    assert await store.call("GET", "key") == b"value"
    assert await store.call("GET", "other") is None
    assert await store.call("INCRBY", "count", 7) == 7
    assert await store.call("MGET", "key", "other") == [b"value", None]


async def test_many_commands_at_the_same_time_get_each_their_own_reply(store: Store) -> None:
    replies = await asyncio.gather(*(store.call("ECHO", f"{number}") for number in range(1000)))
    assert replies == [f"{number}".encode() for number in range(1000)]
    assert len((await store.call("CLIENT", "LIST")).splitlines()) == 1


async def test_an_error_is_raised_where_it_belongs(store: Store) -> None:
    found = await outcomes(store.call("ECHO", "a"), store.call("NONSENSE"), store.call("ECHO", "b"))
    assert found[0] == b"a" and found[2] == b"b"
    assert isinstance(found[1], StoreError) and "unknown command" in str(found[1])


async def test_several_commands_are_all_executed_though_one_fails(store: Store) -> None:
    with pytest.raises(StoreError):
        await store.call_all([("SET", "a", 1), ("INCRBY", "a", "x"), ("SET", "b", 2)])
    assert await store.call_all([("GET", "a"), ("GET", "b")]) == [b"1", b"2"]
    assert await store.call_all([]) == []


async def test_a_cancelled_command_puts_no_reply_out_of_its_place(proxy: Proxy, far: Store) -> None:
    await far.call("PING")
    proxy.hold_requests()
    cancelled = [asyncio.create_task(far.call("ECHO", f"{number}")) for number in range(5)]
    last = asyncio.create_task(far.call("ECHO", "last"))
    await asyncio.sleep(0)
    for task in cancelled:
        task.cancel()
    proxy.release()
    assert await last == b"last"
    await asyncio.wait(cancelled)
    assert all(task.cancelled() for task in cancelled)
    assert await far.call("ECHO", "next") == b"next"


async def test_no_reply_in_time_is_an_error_and_the_next_command_connects_anew(
    proxy: Proxy, far: Store
) -> None:
    await far.call("PING")
    proxy.freeze()
    found = await outcomes(*(far.call("ECHO", f"{number}") for number in range(3)))
    assert all(isinstance(error, StoreError) for error in found)
    made = proxy.accepted
    proxy.release()
    assert await far.call("PING") == b"PONG"
    assert proxy.accepted == made + 1


async def test_a_lost_connection_fails_what_is_on_its_way(proxy: Proxy, far: Store) -> None:
    await far.call("PING")
    proxy.hold_requests()
    waiting = asyncio.create_task(far.call("PING"))
    await asyncio.sleep(0)
    proxy.cut()
    with pytest.raises(StoreError):
        await waiting
    proxy.release()
    assert await far.call("PING") == b"PONG"


async def test_all_who_wait_for_a_connection_share_one_attempt(proxy: Proxy, far: Store) -> None:
    assert set(await outcomes(*(far.call("PING") for _ in range(50)))) == {b"PONG"}
    assert proxy.accepted == 1


async def test_an_attempt_that_fails_fails_all_who_wait_for_it() -> None:
    made: list[asyncio.StreamWriter] = []

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.append(writer)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    store = Store(f"redis://:secret@127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout_s=0.1)
    for attempt in (1, 2):
        found = await outcomes(*(store.call("PING") for _ in range(20)))
        assert all(isinstance(error, StoreError) for error in found)
        assert len(made) == attempt
    await store.close()
    server.close()


async def test_a_server_that_is_away_is_an_error(redis_url: str) -> None:
    away = Store("redis://127.0.0.1:1")
    assert all(isinstance(error, StoreError) for error in await outcomes(away.call("PING"), away.load()))
    with pytest.raises(StoreError):
        await away.pushes()
    await away.close()


@pytest.mark.parametrize("said", [b"-ERR max number of clients reached\r\n", b"HTTP/1.0 400\r\n", b"?\r\n"])
async def test_a_server_that_speaks_out_of_turn_is_an_error(said: bytes) -> None:
    async def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    store = Store(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    for _ in range(5):
        with pytest.raises(StoreError):
            await store.call("PING")
    await store.close()
    server.close()


async def test_at_maxmemory_a_write_is_refused_in_its_own_way(store: Store) -> None:
    await store.call("CONFIG", "SET", "maxmemory", 1)
    try:
        with pytest.raises(StoreFull):
            await store.call("SET", "key", "value")
        with pytest.raises(StoreFull):
            await store.call_all([("GET", "key"), ("SET", "key", "value")])
    finally:
        await store.call("CONFIG", "SET", "maxmemory", 0)


async def test_a_disk_that_takes_no_more_refuses_a_write_in_the_same_way(tmp_path: Path) -> None:
    with disk_full(tmp_path / "redis") as url:
        store = Store(url)
        with pytest.raises(StoreFull, match="disk"):
            await store.call("SET", "key", "value")
        await store.close()


async def test_libraries_are_loaded_where_they_are_missing(store: Store) -> None:
    def offers() -> Awaitable[list[object]]:
        keys = ("work:reply:0", "{work:reply:0}:index")
        return outcomes(*(store.function("parley_offer_2", keys, f"{i}", 1) for i in range(20)))

    for _ in range(3):
        found = await offers()
        assert not [each for each in found if isinstance(each, BaseException)]
        await store.call("FUNCTION", "FLUSH")
    assert await store.call("XLEN", "work:reply:0") == 20


async def test_what_is_no_function_of_ours_is_an_error(store: Store) -> None:
    with pytest.raises(StoreError, match="as fast as they are loaded"):
        await store.function("parley_nonsense_1", ())


@pytest.mark.parametrize(("login", "is_let_in"), [("", True), ("one:secret@", True), ("one:wrong@", False)])
async def test_users_and_passwords_of_the_url_are_used(
    redis_url: str, store: Store, login: str, is_let_in: bool
) -> None:
    await store.call("ACL", "SETUSER", "one", "on", ">secret", "~*", "&*", "+@all")
    place = urlsplit(redis_url).netloc
    known = Store(f"redis://{login}{place}/2")
    (found,) = await outcomes(known.call("SET", "key", "value"))
    assert isinstance(found, StoreError) is not is_let_in
    assert await store.call("GET", "key") is None  # it stands in another database
    await store.call("ACL", "DELUSER", "one")
    await known.close()


# ---- pushes


async def test_pushes_arrive_with_their_channel(store: Store) -> None:
    pushes = await store.pushes()
    await pushes.ping()
    assert await pushes.read() == ("pong", "", b"")
    await pushes.subscribe(["a", "b"])
    assert [(await pushes.read())[:2] for _ in range(2)] == [("ssubscribe", "a"), ("ssubscribe", "b")]
    await store.call("SPUBLISH", "b", b"\xff\x00")
    assert await pushes.read() == ("smessage", "b", b"\xff\x00")
    await pushes.ping()
    assert (await pushes.read())[0] == "pong"
    await pushes.unsubscribe(["a", "b"])
    assert [(await pushes.read())[0] for _ in range(2)] == ["sunsubscribe"] * 2
    await pushes.close()


async def test_the_end_of_their_connection_ends_the_read_after_what_had_come(store: Store) -> None:
    pushes = await store.pushes()
    await pushes.subscribe(["a"])
    await pushes.read()
    await store.call("SPUBLISH", "a", "last")
    await store.call("CLIENT", "KILL", "TYPE", "pubsub")
    assert await pushes.read() == ("smessage", "a", b"last")
    for _ in range(2):
        with pytest.raises(StoreError):
            await pushes.read()
    with pytest.raises(StoreError):
        await pushes.subscribe(["b"])


async def test_closing_them_ends_a_read_that_waits(store: Store) -> None:
    pushes = await store.pushes()
    reading = asyncio.create_task(pushes.read())
    await asyncio.sleep(0)
    await pushes.close()
    with pytest.raises(StoreError):
        await reading


async def test_a_subscription_that_is_refused_is_an_error_and_no_pong(redis_url: str, store: Store) -> None:
    await store.call("ACL", "SETUSER", "deaf", "on", ">secret", "~*", "resetchannels", "+@all")
    deaf = Store(f"redis://deaf:secret@{urlsplit(redis_url).netloc}")
    pushes = await deaf.pushes()
    await pushes.subscribe(["a"])
    with pytest.raises(StoreError, match="NOPERM"):
        await pushes.read()
    await pushes.close()
    await store.call("ACL", "DELUSER", "deaf")
    await deaf.close()


async def test_pushes_through_a_silent_connection_just_wait(proxy: Proxy, far: Store) -> None:
    pushes = await far.pushes()
    await pushes.subscribe(["a"])
    await pushes.read()
    reading = asyncio.create_task(pushes.read())
    # A command on the other connection is given up for want of a reply: twice the time that one may take.
    proxy.freeze()
    for _ in range(2):
        with pytest.raises(StoreError):
            await far.call("PING")
    assert not reading.done()
    proxy.release()
    await far.call("SPUBLISH", "a", "late")
    assert await reading == ("smessage", "a", b"late")
    await pushes.close()
