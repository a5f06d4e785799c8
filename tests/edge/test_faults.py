from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from shared.keys import Role, log_key, meta_key, work_key
from shared.log import LogWriter, read_log
from shared.wire import Address, Closed, Log, ReplyEnd, Token, UtteranceEnd, new_tag
from tests.conftest import eventually
from tests.edge.world import SECOND, Client, World, kinds

SHORT = SECOND[:3200]


@asynccontextmanager
async def maxmemory(world: World) -> AsyncIterator[None]:
    """Redis refuses writes inside, and is known to take them again behind it."""
    before = (await world.store.call("CONFIG", "GET", "maxmemory"))[1]
    await world.store.call("CONFIG", "SET", "maxmemory", 1)
    try:
        yield
    finally:
        await world.store.call("CONFIG", "SET", "maxmemory", before)
    await eventually(lambda: not world.services.room.full, "there is memory again")


async def next_turn_works(world: World, client: Client, turn: int) -> None:
    """The conversation goes on as if nothing had been."""
    await client.speak(SHORT)
    answer = await world.answer(client, turn)
    await answer.say("Here I am.")
    await answer.end()
    done = await client.until("chunked_streaming_complete")
    assert (done["turn"], done["response_text"]) == (turn, "Here I am.")


@pytest.mark.parametrize("role", list(Role))
async def test_without_a_worker_a_turn_is_refused_at_once_and_nothing_is_written(
    world: World, role: Role
) -> None:
    async with world.client() as client:
        await world.withdraw(role)
        await client.speak(SHORT)
        error = await client.until("error")
        assert (error["code"], error["retryable"]) == ("overloaded", True)
        assert error["retry_after_ms"] > 0
        assert error.get("address") is None
        assert not await world.exists(log_key(client.conversation, Log.AUDIO))
        await world.announce(role)
        await next_turn_works(world, client, 1)


async def test_at_maxmemory_a_turn_is_refused_and_its_number_used_again(world: World) -> None:
    async with world.client() as client:
        async with maxmemory(world):
            await client.speak(SHORT)
            error = await client.until("error")
            assert (error["code"], error["retryable"]) == ("overloaded", True)
        await next_turn_works(world, client, 1)


async def test_at_maxmemory_no_conversation_is_let_in_and_it_recovers_by_itself(world: World) -> None:
    async with world.client() as client:
        async with maxmemory(world):
            await client.speak(SHORT)
            assert (await client.until("error"))["code"] == "overloaded"
            with pytest.raises(InvalidStatus) as refused:
                async with world.socket():
                    pass
            assert refused.value.response.status_code == 503
            await eventually(lambda: world.services.room.full, "it is seen")
            assert world.services.room.ready, "what runs goes on: the edge stays in its balancer"
        await next_turn_works(world, client, 1)
        async with world.client() as other:
            await next_turn_works(world, other, 1)


async def test_at_maxmemory_a_turn_that_was_offered_is_not_failed_by_offering_it_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.sessions.LOOK_EACH_S", 0.05)
    monkeypatch.setattr("edge.director.SILENT_S", 0.05)
    async with world.client() as client:
        await client.speak(SHORT)
        answer = await world.answer(client)
        async with maxmemory(world):
            before = await refusals(world)

            async def refused() -> bool:
                return await refusals(world) >= before + 3

            await eventually(refused, "the turn was offered again and again")
        await answer.say("Here I am.")
        await answer.end()
        await client.until("chunked_streaming_complete")
    assert "error" not in kinds(client.received)


async def refusals(world: World) -> int:
    """How many commands Redis has refused for want of memory."""
    stats = (await world.store.call("INFO", "errorstats")).decode()
    return sum(int(line.partition("=")[2]) for line in stats.splitlines() if line.startswith("errorstat_OOM"))


async def test_at_maxmemory_an_open_utterance_ends_with_its_turn(world: World) -> None:
    async with world.client() as client:
        await client.speak(SHORT, ends=False, chunk_id="c")
        await world.answer(client)
        async with maxmemory(world):
            await client.speak(SHORT, ends=False)
            error = await client.until("error")
        assert (error["code"], error["turn"], error["chunk_id"]) == ("overloaded", 1, "c")
        assert error["address"].partition("-")[0] in ("text:1", "speech:1")
        await next_turn_works(world, client, 2)


@pytest.mark.parametrize("logs", [(Log.TEXT, Log.SPEECH), (Log.SPEECH, Log.TEXT), (Log.TEXT,), (Log.SPEECH,)])
async def test_a_turn_that_a_worker_gave_up_ends_in_its_error_once(
    world: World, logs: tuple[Log, ...]
) -> None:
    async with world.client() as client:
        await client.speak(SHORT, chunk_id="c")
        answer = await world.answer(client)
        await answer.say("Hello!")
        failed = Closed("failed", code="engine_failed", message="out of order", retryable=True)
        for log in logs:
            await world.close(client, failed, log)
        error = await client.until("error")
        assert (error["code"], error["message"], error["retryable"]) == (
            "engine_failed",
            "out of order",
            True,
        )
        assert (error["turn"], error["chunk_id"]) == (1, "c")
        assert error["address"].startswith(f"{logs[0]}:1-")
        await next_turn_works(world, client, 2)
    assert kinds(client.received).count("error") == 1


async def test_a_turn_that_fails_while_the_user_speaks_ends_and_the_user_is_heard_on(world: World) -> None:
    async with world.client() as client:
        await client.speak(SHORT, ends=False)
        await world.answer(client)
        await world.close(client, Closed("failed", code="engine_failed"), Log.TEXT, Log.SPEECH)
        assert (await client.until("error"))["turn"] == 1
        await client.speak(SHORT, ends=False)
        assert (await client.until("speech_started"))["turn"] == 2
        await eventually(partial(world.offered, client.conversation, 2), "the next turn is offered")


async def test_an_answer_that_somebody_closed_in_text_alone_ends_for_the_client_too(world: World) -> None:
    async with world.client() as client:
        await client.speak(SHORT)
        await world.answer(client)
        await world.close(client, Closed("abandoned"), Log.TEXT)
        cut = await client.until("audio_interrupted")
        assert (cut["reason"], cut["address"]) == ("abandoned", "speech:1-1")
        await next_turn_works(world, client, 2)


async def test_an_utterance_that_somebody_closed_makes_room_for_the_next(world: World) -> None:
    async with world.client() as client:
        await client.speak(SHORT, ends=False)
        await world.answer(client)
        await world.close(client, Closed("abandoned"), Log.AUDIO)
        await client.speak(SHORT, ends=False)
        assert (await client.until("audio_interrupted"))["reason"] == "abandoned"
        await next_turn_works(world, client, 2)


async def test_a_session_whose_conversation_was_taken_over_unseen_is_closed_by_the_log(world: World) -> None:
    async with world.client() as client:
        await client.speak(SHORT, ends=False)
        await client.until("audio_ack")
        writer = LogWriter(
            world.store,
            log_key(client.conversation, Log.AUDIO),
            1,
            new_tag(),
            max_turn_bytes=1 << 20,
            ttl_s=60,
        )
        await writer.take("resume")
        await client.speak(SHORT, ends=False)
        assert await client.closed() == 4001


async def test_while_redis_is_frozen_the_session_waits_and_then_goes_on(world: World) -> None:
    async with world.client(pacing="none") as client:
        await client.speak(SHORT, ends=False)
        answer = await world.answer(client)
        await world.store.call("CLIENT", "PAUSE", 2500, "ALL")
        await client.speak(SHORT, ends=False)
        await client.send("end_of_utterance")
        assert (await client.until("speech_stopped"))["audio_ms"] == 200.0
        await answer.say("Hello!")
        await answer.end()
        assert (await client.until("chunked_streaming_complete"))["response_text"] == "Hello!"


async def test_connections_that_are_cut_all_the_time_lose_nothing(world: World) -> None:
    async with world.client(pacing="none") as client:
        await client.speak(SHORT)
        answer = await world.answer(client)
        for number in range(10):
            for kind in ("normal", "pubsub"):
                await world.store.call("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
            await answer.say(f" {number}", frames=2)
        await answer.end()
        await client.until("chunked_streaming_complete")
    assert [m["frame_index"] for m in client.received if m["type"] == "sequential_audio"] == list(range(20))
    assert [m["text"] for m in client.received if m["type"] == "token_chunk"] == [f" {n}" for n in range(10)]


async def test_an_utterance_that_redis_forgot_is_written_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.director.SILENT_S", 0.2)
    async with world.client() as client:
        key = log_key(client.conversation, Log.AUDIO)
        await client.speak(SHORT, ends=False)
        await client.until("audio_ack")
        before = await world.store.call("DUMP", key)
        await client.speak(SHORT)
        await client.until("speech_stopped")
        await world.store.call("RESTORE", key, 60_000, before, "REPLACE")
        for role in Role:
            await world.store.call("DEL", work_key(role))
        await eventually(partial(ends_in, world, client, UtteranceEnd("client", 3200)), "the end is back")
        answer = await world.answer(client)
        await answer.end()
        await client.until("chunked_streaming_complete")


async def ends_in(world: World, client: Client, end: UtteranceEnd) -> bool:
    return await world.last(client, Log.AUDIO) == end


async def answered_and_as_it_was_before_its_end(world: World, client: Client) -> tuple[str, bytes]:
    """A turn is asked and answered: the key of its utterance, and a dump of that from before its end."""
    key = log_key(client.conversation, Log.AUDIO)
    await client.speak(SHORT, ends=False)
    await client.until("audio_ack")
    before: bytes = await world.store.call("DUMP", key)
    await client.speak(SHORT)
    answer = await world.answer(client)
    await answer.end()
    await client.until("chunked_streaming_complete")
    return key, before


async def test_an_utterance_before_whose_end_redis_forgot_does_not_block_the_next(world: World) -> None:
    async with world.client() as client:
        key, before = await answered_and_as_it_was_before_its_end(world, client)
        await world.store.call("RESTORE", key, 60_000, before, "REPLACE")
        await next_turn_works(world, client, 2)


async def test_an_utterance_whose_beginning_redis_forgot_with_the_end_of_the_one_before_is_whole_again(
    world: World,
) -> None:
    async with world.client() as client:
        key, before = await answered_and_as_it_was_before_its_end(world, client)
        await client.speak(SHORT, ends=False)
        await client.until("speech_started")
        await world.store.call("RESTORE", key, 60_000, before, "REPLACE")
        await next_turn_works(world, client, 2)
        second = await read_log(world.store, key, Address(2, 0), 2)
    assert [entry.payload.kind for entry in second] == ["open", "chunk", "chunk", "end"]


async def test_what_redis_forgot_of_the_utterance_before_is_whole_again_too(world: World) -> None:
    async with world.client() as client:
        key, before = await answered_and_as_it_was_before_its_end(world, client)
        await world.store.call("RESTORE", key, 60_000, before, "REPLACE")
        await next_turn_works(world, client, 2)
        first = await read_log(world.store, key, Address(1, 0), 1)
    assert [entry.payload.kind for entry in first] == ["open", "chunk", "chunk", "end"]


async def test_an_utterance_that_waits_for_its_answer_is_written_again_though_another_has_begun(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.director.SILENT_S", 0.2)
    async with world.client(interrupt=False) as client:
        key = log_key(client.conversation, Log.AUDIO)
        await client.speak(SHORT, ends=False)
        await client.until("audio_ack")
        before = await world.store.call("DUMP", key)
        await client.speak(SHORT)
        await client.until("speech_stopped")
        await client.speak(SHORT)
        await client.until("speech_stopped")
        await world.store.call("RESTORE", key, 60_000, before, "REPLACE")
        await eventually(partial(ends_in, world, client, UtteranceEnd("client", 4800)), "both are back")
        said = await read_log(world.store, key, Address(1, 0))
    assert [entry.payload.kind for entry in said] == ["open", "chunk", "chunk", "end", "open", "chunk", "end"]


@pytest.mark.parametrize("seen", [True, False], ids=["a restart is seen", "only silence is"])
async def test_an_answer_whose_closing_redis_forgot_does_not_block_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch, seen: bool
) -> None:
    monkeypatch.setattr("edge.director.SILENT_S", 3600.0 if seen else 0.2)
    keeper = world.services.keeper
    await eventually(lambda: keeper._run is not None, "it is known which process Redis is")
    async with world.client() as client:
        await client.speak(SHORT)
        answer = await world.answer(client)
        await answer.write("Hello!")
        await client.until("semantic_chunk")
        keys = [log_key(client.conversation, log) for log in (Log.TEXT, Log.SPEECH)]
        before = [await world.store.call("DUMP", key) for key in keys]
        await client.speak(SHORT)
        interrupted = await client.until("audio_interrupted")
        for key, dump in zip(keys, before, strict=True):
            await world.store.call("RESTORE", key, 60_000, dump, "REPLACE")
        if seen:
            keeper._run = "another"
            await world.store.call("CLIENT", "KILL", "TYPE", "pubsub")

        async def closed_again() -> bool:
            return all([isinstance(await world.last(client, log), Closed) for log in (Log.TEXT, Log.SPEECH)])

        await eventually(closed_again, "it is closed again")
        again = await world.last(client, Log.SPEECH)
        assert isinstance(again, Closed)
        assert (again.reason, again.heard_ms) == (interrupted["reason"], interrupted["heard_ms"])
        answer = await world.answer(client, 2)
        await answer.end()
        assert (await client.until("chunked_streaming_complete"))["turn"] == 2


async def test_an_answer_that_is_cut_off_where_redis_forgot_its_end_ends_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_to_its_end(key: str) -> bool:
        (cursor,) = world.services.reader._cursors[key]
        return bool(cursor._held_entry and cursor._held_entry.final and not cursor._ready)

    monkeypatch.setattr("edge.director.TELL_WITHIN_S", 0.2)
    async with world.client(pacing="realtime") as client:
        await client.speak(SHORT)
        answer = await world.answer(client)
        await answer.write("Hello!")
        await client.until("semantic_chunk")
        keys = [log_key(client.conversation, log) for log in (Log.TEXT, Log.SPEECH)]
        before = [await world.store.call("DUMP", key) for key in keys]
        await answer.utter(frames=20)
        await answer.end()
        await eventually(lambda: all(map(read_to_its_end, keys)), "the edge has all of it")
        for key, dump in zip(keys, before, strict=True):
            await world.store.call("RESTORE", key, 60_000, dump, "REPLACE")
        await client.send("user_interrupt")
        cut = await client.until("audio_interrupted", "error")
        assert (cut["type"], cut["turn"], cut["reason"]) == ("audio_interrupted", 1, "user_interrupt")
        assert "address" not in cut
        await next_turn_works(world, client, 2)
    endings = [m for m in client.received if m["type"] in ("audio_interrupted", "error") and m["turn"] == 1]
    assert len(endings) == 1


async def test_an_utterance_that_fails_while_it_waits_behind_an_answer_does_not_end_that(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.director.TELL_WITHIN_S", 0.2)
    async with world.client(interrupt=False) as client:
        await client.speak(SHORT)
        answer = await world.answer(client)
        await answer.say("Hello!")
        await client.until("sequential_audio")
        await client.speak(SHORT, ends=False)
        await client.until("speech_started")
        await world.close(client, Closed("superseded"), Log.AUDIO, turn=2)
        await client.speak(SHORT, ends=False)
        assert (await client.until("audio_interrupted", "error"))["turn"] == 2
        await answer.say("Here I am.")
        await answer.end()
        done = await client.until("chunked_streaming_complete", "audio_interrupted", "error")
        assert (done["turn"], done.get("response_text")) == (1, "Hello!Here I am.")
        await next_turn_works(world, client, 3)
        assert await world.log(client, Log.TEXT, 2)
    assert [m["turn"] for m in client.received if m["type"] in ("audio_interrupted", "error")] == [2]


async def test_meta_that_redis_forgot_is_written_again(world: World) -> None:
    async with world.client(voice="bruno") as client:
        await eventually(partial(world.exists, meta_key(client.conversation)), "the meta hash")
        await world.store.call("DEL", meta_key(client.conversation))
        await world.services.keeper.refresh()
        await eventually(partial(world.exists, meta_key(client.conversation)), "the meta hash is back")


async def test_a_story_that_forked_ends_the_turn_and_the_next_is_told(world: World) -> None:
    async with world.client() as client:
        await client.speak(SHORT)
        answer = await world.answer(client)
        await answer.write("Hello!")
        await client.until("semantic_chunk")
        key = log_key(client.conversation, Log.TEXT)
        await world.store.call("DEL", key)
        other = world.writer(client.conversation, Log.TEXT, 1)
        await other.append(Token("Another"), Token(" story"), Token("."), ReplyEnd("stop", 3, 0))
        error = await client.until("error")
        assert (error["code"], error["retryable"], error["turn"]) == ("engine_failed", True, 1)
        await next_turn_works(world, client, 2)


async def test_a_turn_that_was_closed_where_redis_forgot_it_ends_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.director.TELL_WITHIN_S", 0.2)
    async with world.client() as client:
        await client.speak(SHORT)
        answer = await world.answer(client)
        await answer.write("Hello!")
        await client.until("semantic_chunk")
        for log in (Log.TEXT, Log.SPEECH):
            key = log_key(client.conversation, log)
            await world.store.call("DEL", key)
            for entry in ("1-0", "2-0"):
                await world.store.call("XADD", key, entry, "w", "another", "kind", "take", "at", 0)
        await client.send("user_interrupt")
        cut = await client.until("error", "audio_interrupted")
        assert (cut["type"], cut["turn"], cut["reason"]) == ("audio_interrupted", 1, "user_interrupt")


async def test_a_turn_of_which_nothing_comes_ends_at_the_deadline(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.director.SILENT_S", 0.1)
    monkeypatch.setattr("edge.director.DEADLINE_S", 0.3)
    async with world.client() as client:
        await client.speak(SHORT)
        await world.answer(client)
        error = await client.until("error")
        assert (error["code"], error["retryable"], error["turn"]) == ("deadline", True, 1)
        assert error["address"].startswith(("text:1-", "speech:1-"))
        await next_turn_works(world, client, 2)


async def test_the_time_of_a_turn_that_waited_for_another_begins_when_it_is_offered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.director.DEADLINE_S", 1.5)
    async with world.client(interrupt=False) as client:
        await client.speak(SHORT)
        answer = await world.answer(client)
        await answer.say("A long answer.", frames=30)
        await client.until("sequential_audio")
        await client.speak(SHORT)
        await answer.end()
        await client.until("chunked_streaming_complete")
        second = await world.answer(client, 2)
        await second.say("Here I am.", frames=12)
        await client.until("sequential_audio")
        await second.end()
        assert (await client.until("chunked_streaming_complete", "error"))["turn"] == 2
    assert "error" not in kinds(client.received)


async def test_a_deadline_is_told_even_when_redis_does_not_answer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.director.SILENT_S", 0.1)
    monkeypatch.setattr("edge.director.DEADLINE_S", 0.3)
    async with world.client() as client:
        await client.speak(SHORT)
        await world.answer(client)
        await world.store.call("CLIENT", "PAUSE", 5000, "ALL")
        error = await client.until("error")
        assert (error["code"], error["turn"]) == ("deadline", 1)
        await eventually(lambda: world.services.room.reachable, "redis is back")
        await next_turn_works(world, client, 2)
    assert kinds(client.received).count("error") == 1


async def test_a_closing_that_redis_was_away_for_is_made_before_the_next_turn(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.log.GIVE_UP_S", 0.0)
    async with world.client() as client:
        await client.speak(SHORT)
        answer = await world.answer(client)
        await answer.say("Hello!", frames=50)
        await client.until("sequential_audio")
        await world.store.call("CLIENT", "PAUSE", 4000, "ALL")
        await client.send("user_interrupt")
        await eventually(lambda: not world.services.room.reachable, "redis is missed")
        await eventually(lambda: world.services.room.reachable, "redis is back")
        assert (await client.until("audio_interrupted", "error"))["reason"] == "user_interrupt"
        await next_turn_works(world, client, 2)


async def test_a_client_that_does_not_read_is_cut_off_and_may_resume(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.sockets.SEND_WITHIN_S", 1.0)
    narrow = socket.create_connection(("127.0.0.1", world.port))
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    url = f"ws://127.0.0.1:{world.port}/ws?encoding=msgpack"
    async with connect(url, sock=narrow, compression=None, max_queue=1) as bare:
        lazy = await Client(bare, "msgpack").greet()
        await lazy.configure(pacing="none")
        await lazy.speak(SHORT)
        answer = await world.answer(lazy)
        assert len(world.sessions) == 1
        for _ in range(40):
            await answer.say("Much to say.", frames=40)
        await answer.end()
        await eventually(lambda: len(world.sessions) == 0, "the client is cut off")
        bare.transport.abort()
        async with world.socket() as client:
            await client.greet()
            await client.send("resume", conversation_id=lazy.conversation, resume_token=lazy.token)
            await client.until("chunked_streaming_complete")
        frames = [m["frame_index"] for m in client.received if m["type"] == "sequential_audio"]
        assert frames == list(range(1600))


async def test_an_unforeseen_error_ends_its_own_session_only(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with world.client() as healthy, world.client() as unlucky:

        async def breaks(*_: object) -> None:
            raise ZeroDivisionError("nobody thought of this")

        monkeypatch.setattr("edge.session.Session._tell_status", breaks)
        await unlucky.send("status")
        assert await unlucky.closed() == 1011
        await healthy.send("ping")
        await healthy.until("pong")
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == [
        "the session broke"
    ]
