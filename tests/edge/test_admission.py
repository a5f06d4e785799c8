"""Who is let in, and how those are told that are not: at the handshake, and at each turn."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from functools import partial

import pytest
from websockets.exceptions import InvalidStatus

from edge.room import MOST_LOAD, RETRY_AFTER_MS, Room, retry_after_ms
from edge.sessions import LEAST_RESERVE, Rush
from shared.errors import ClientError
from shared.keys import JOBS, Role, work_key
from shared.settings import Settings
from shared.store import Store
from shared.work import offer
from tests.conftest import eventually
from tests.edge.world import SECOND, Message, World, running

SHORT = SECOND[:3200]
OTHER = "0123456789abcdef"
NOBODYS = json.dumps({"type": "resume", "conversation_id": OTHER, "resume_token": "x" * 43})


async def refused(world: World, query: str = "msgpack") -> Message:
    """What a new conversation is told that is not let in."""
    with pytest.raises(InvalidStatus) as refusal:
        async with world.socket(query):
            pass
    assert refusal.value.response.status_code == 503
    assert int(refusal.value.response.headers["Retry-After"]) >= 1
    said: Message = json.loads(refusal.value.response.body)
    assert (said["type"], said["code"], said["retryable"]) == ("error", "overloaded", True)
    assert said["retry_after_ms"] > 0
    return said


async def full(world: World) -> None:
    """As many turns are under way as the workers have slots for."""
    for turn in range(1, 65):
        await offer(world.store, Role, OTHER, turn)
    await world.services.room.look()


async def test_when_all_slots_are_taken_no_turn_and_no_conversation_is_let_in(world: World) -> None:
    async with world.client() as client:
        await full(world)
        assert "busy" in (await refused(world))["message"]
        await client.speak(SHORT)
        error = await client.until("error")
        assert (error["code"], error["retryable"]) == ("overloaded", True)
        assert error["retry_after_ms"] > 0
        await world.store.call("DEL", work_key(Role.REPLY))
        await world.services.room.look()
        assert "tts" in (await refused(world))["message"], "each role needs a slot of its own"
        await world.store.call("DEL", work_key(Role.SPEAK))
        await world.services.room.look()
        async with world.client():
            pass


async def test_a_turn_that_replaces_one_of_its_own_conversation_needs_no_slot_more(world: World) -> None:
    async with world.client() as client:
        await client.speak(SHORT)
        await eventually(partial(world.offered, client.conversation, 1), "the first turn is offered")
        for turn in range(1, 64):
            await offer(world.store, Role, OTHER, turn)
        await world.services.room.look()
        assert world.services.room.free(Role.REPLY) == 0
        await client.speak(SHORT)
        assert (await client.until("audio_interrupted", "error"))["type"] == "audio_interrupted"
        await eventually(partial(world.offered, client.conversation, 2), "the second turn is offered")


async def test_turns_that_begin_between_two_looks_are_counted(world: World) -> None:
    room = world.services.room
    await room.look()
    free = room.free(Role.SPEAK)
    for _ in range(free):
        room.admit()
    with pytest.raises(ClientError, match="busy"):
        room.admit()
    room.admit(replaces=True)
    await room.look()
    assert room.free(Role.SPEAK) == free, "what was never offered takes no slot"


async def test_while_room_is_short_it_is_looked_for_again_soon(world: World) -> None:
    await full(world)
    await refused(world)
    for role in Role:
        await world.store.call("DEL", work_key(role))
    await eventually(lambda: world.services.room.free(Role.REPLY) > 0, "the slots are seen to be free")


async def test_a_turn_that_nobody_claims_for_long_closes_the_door(redis_url: str) -> None:
    async with running(redis_url, Settings(admit_within_ms=100.0)) as world, world.client() as client:
        await offer(world.store, [Role.SPEAK], OTHER, 1)
        await eventually(lambda: world.services.room.unclaimed_s > 0.1, "the turn has waited")
        assert "busy" in (await refused(world))["message"]
        await client.speak(SHORT)
        assert (await client.until("error"))["code"] == "overloaded"
        await world.store.call("DEL", work_key(Role.SPEAK))
        await world.services.room.look()
        async with world.client():
            pass


async def test_when_redis_is_away_for_a_while_nobody_is_let_in(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.client() as client:
        await world.store.call("CLIENT", "PAUSE", 5000, "ALL")
        await eventually(lambda: world.services.room.away, "redis is missed")
        assert "away" in (await refused(world))["message"]
        await client.speak(SHORT)
        assert (await client.until("error"))["code"] == "overloaded"
        await eventually(lambda: not world.services.room.away, "redis is back")
        await client.speak(SHORT)
        await world.answer(client)


async def test_without_a_worker_of_each_role_nobody_is_let_in(redis_url: str) -> None:
    async with running(redis_url, workers=False) as world:
        await world.announce(Role.REPLY)
        assert "no tts worker" in (await refused(world))["message"]
        await world.announce(JOBS)
        async with world.client():
            """It may have batch turns."""


async def test_the_more_is_asked_for_the_later_to_come_back_and_never_all_at_once() -> None:
    for load in (0.0, 1.0, 4.0, 1e9):
        told = [retry_after_ms(load) for _ in range(100)]
        assert len(set(told)) > 10
        middle = RETRY_AFTER_MS * min(max(load, 1.0), MOST_LOAD)
        assert 0.7 * middle < min(told) <= max(told) < 1.3 * middle


def test_those_who_were_turned_away_are_forgotten_with_time() -> None:
    rush = Rush()
    for _ in range(100):
        most = rush.one_more(1.0)
    assert most == 100.0
    assert 1.0 < rush.one_more(6.0) < 50.0
    assert rush.one_more(1000.0) == pytest.approx(1.0)


async def test_redis_that_evicts_or_has_no_limit_is_never_full(store: Store) -> None:
    room = Room(store, admit_within_s=5.0)
    await room.look()
    assert not room.full
    await store.call("CONFIG", "SET", "maxmemory", 1 << 40)
    try:
        await room.look()
        assert not room.full
        room.refused_write()
        assert room.full
        await room.look()
        assert not room.full
    finally:
        await store.call("CONFIG", "SET", "maxmemory", 0)


async def test_a_conversation_that_was_let_in_is_resumed_where_there_is_no_room(redis_url: str) -> None:
    async with running(redis_url) as dies, running(redis_url, Settings(max_conversations=1)) as other:
        async with dies.client() as lost, other.client():
            await full(other)
            await refused(other)
            lost.socket.transport.abort()
            async with other.socket(resumes=True) as client:
                await client.greet()
                await client.send("resume", conversation_id=lost.conversation, resume_token=lost.token)
                await client.until("resumed")
                await client.send("ping")
                await client.until("pong")


@pytest.mark.parametrize("why", ["places", "slots"])
async def test_who_said_they_would_resume_and_do_not_need_room_like_anybody_else(
    redis_url: str, why: str
) -> None:
    limit = 1 if why == "places" else 10
    async with running(redis_url, Settings(max_conversations=limit)) as world, world.client() as other:
        if why == "slots":
            await full(world)
        async with world.socket(resumes=True) as client:
            await client.greet()
            await client.send("resume", conversation_id=OTHER, resume_token="x" * 43)
            assert (await client.until("error"))["code"] == "not_found"
            await client.send("text", text="Then something new.")
            error = await client.until("error")
            assert (error["code"], error["retryable"]) == ("overloaded", True)
            assert error["retry_after_ms"] > 0
            assert await client.closed() == 1013
        await other.send("ping")
        await other.until("pong")


async def test_who_finds_nothing_to_resume_may_begin_anew_while_there_is_room(world: World) -> None:
    async with world.socket(resumes=True) as client:
        await client.greet()
        await client.send("resume", conversation_id=OTHER, resume_token="x" * 43)
        assert (await client.until("error"))["code"] == "not_found"
        await client.configure()
        await client.speak(SHORT)
        await world.answer(client)


async def test_the_reserve_is_bounded_too(redis_url: str) -> None:
    async with running(redis_url, Settings(max_conversations=1)) as world, AsyncExitStack() as sockets:
        for _ in range(1 + LEAST_RESERVE):
            await sockets.enter_async_context(world.socket(resumes=True))
        await refused(world, "msgpack&resume=1")


@pytest.mark.parametrize("said", ["", "?", NOBODYS], ids=["nothing", "no message", "a resume of nothing"])
async def test_a_socket_that_came_to_resume_and_does_not_gives_its_place_back(
    redis_url: str, said: str
) -> None:
    async with running(redis_url, Settings(max_conversations=1, handshake_s=0.3)) as world:
        async with AsyncExitStack() as sockets:
            for _ in range(1 + LEAST_RESERVE):
                client = await sockets.enter_async_context(world.socket("json", resumes=True))
                await client.greet()
                if said:
                    await client.socket.send(said)
            while (error := await client.next())["code"] != "deadline":
                assert said, error
            assert error["retryable"]
            assert await client.closed() == 1008
            await eventually(lambda: len(world.sessions) == 0, "every place is free")


async def test_a_socket_that_came_to_resume_stays_once_it_has_begun(redis_url: str) -> None:
    async with running(redis_url, Settings(handshake_s=0.3)) as world, world.client() as lost:
        await lost.speak(SHORT)
        await world.answer(lost)
        async with world.socket(resumes=True) as begun, world.socket(resumes=True) as resumed:
            await begun.greet()
            await begun.configure()
            await resumed.greet()
            await resumed.send("resume", conversation_id=lost.conversation, resume_token=lost.token)
            await resumed.until("resumed")
            async with world.socket(resumes=True) as silent:
                assert await silent.closed() == 1008
            for client in (begun, resumed):
                await client.send("ping")
                await client.until("pong")


async def test_turns_that_end_between_two_looks_give_their_slots_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = world.services.room
    async with world.client() as client:
        await client.speak(SHORT)
        answer = await world.answer(client)
        await room.look()
        monkeypatch.setattr(room, "look", partial(asyncio.sleep, 0))  # from here on nothing is looked at
        free = room.free(Role.SPEAK)
        await answer.say("Hello!")
        await answer.end()
        await client.until("chunked_streaming_complete")
        assert (room.free(Role.REPLY), room.free(Role.SPEAK)) == (free + 1, free + 1)
        await client.speak(SHORT)
        await client.until("speech_started")
        assert room.free(Role.SPEAK) == free
        await client.speak(SHORT)
        await client.until("audio_interrupted")
        assert room.free(Role.SPEAK) == free, "the turn that was cut off has given its slot to the next"
