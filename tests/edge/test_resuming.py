from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pytest

from edge.survey import Survey, survey
from shared.keys import Role, meta_key, session_key
from shared.log import trim_log
from shared.settings import Settings
from shared.wire import Chunk, Closed, Log, Take, UtteranceEnd
from tests.conftest import eventually
from tests.edge.world import SECOND, Answer, Client, Message, World, kinds, running
from tests.story import ENDINGS

SHORT = SECOND[:3200]


@asynccontextmanager
async def resuming(
    world: World, lost: Client, *, after: dict[str, str] | None = None, cut: bool = True
) -> AsyncIterator[Client]:
    """A new socket that goes on where another one broke off."""
    if cut:
        lost.socket.transport.abort()
    async with world.socket() as client:
        await client.greet()
        held = addresses(lost.received) if after is None else after
        await client.send("resume", conversation_id=lost.conversation, resume_token=lost.token, after=held)
        resumed = await client.nothing_before("resumed")
        client.conversation, client.token = lost.conversation, resumed["resume_token"]
        yield client


def addresses(messages: Sequence[Message]) -> dict[str, str]:
    """The last address of each log in what was received."""
    last: dict[str, str] = {}
    for message in messages:
        log, _, place = str(message.get("address", "")).partition(":")
        if place:
            last[log] = place
    return last


async def answered(world: World, client: Client, turn: int = 1, chunks: int = 3) -> Answer:
    """A whole answer stands in the logs."""
    answer = await world.answer(client, turn)
    for chunk in range(chunks):
        await answer.say(f" Chunk {chunk}.", frames=4)
    await answer.end()
    return answer


async def test_a_client_that_was_away_is_told_the_rest_and_nothing_twice(world: World) -> None:
    async with world.client(pacing="none") as lost:
        await lost.speak(SHORT, chunk_id="c")
        await answered(world, lost)
        for _ in range(5):
            await lost.until("sequential_audio")
        async with resuming(world, lost) as client:
            done = await client.until("chunked_streaming_complete")
    both = lost.received + client.received
    frames = [m["frame_index"] for m in both if m["type"] == "sequential_audio"]
    assert frames == list(range(12))
    tokens = [m["chunk_sequence"] for m in both if m["type"] == "token_chunk"]
    assert tokens == list(range(3))
    assert (done["response_text"], done["chunk_id"]) == (" Chunk 0. Chunk 1. Chunk 2.", "c")
    assert done["first_audio_latency_ms"] is None
    voices = {m["voice"] for m in client.received if m["type"] == "sequential_audio"}
    assert voices <= {"anna"}


@pytest.mark.parametrize("seed", range(12))
async def test_a_socket_cut_anywhere_and_resumed_loses_and_doubles_nothing(world: World, seed: int) -> None:
    chance = random.Random(seed)
    async with AsyncExitStack() as sockets:
        client = await sockets.enter_async_context(world.client(pacing="none"))
        await client.speak(SHORT)
        answer = await world.answer(client)
        received: list[Message] = []
        for chunk in range(4):
            await answer.say(f" Chunk {chunk}.", frames=3)
            for _ in range(chance.randrange(6)):
                received.append(await client.next())
            lost, held = client, addresses(received)
            client = await sockets.enter_async_context(resuming(world, lost, after=held))
        await answer.end()
        await client.until("chunked_streaming_complete")
    told = [m for m in received + client.received if "address" in m]
    assert len({m["address"] for m in told}) == len(told)
    assert [m["frame_index"] for m in told if m["type"] == "sequential_audio"] == list(range(12))
    assert [m["chunk_sequence"] for m in told if m["type"] == "semantic_chunk"] == list(range(4))


async def test_a_client_that_says_only_what_it_has_heard_is_told_the_words_of_that_turn_on(
    world: World,
) -> None:
    async with world.client(pacing="none") as lost:
        for turn in (1, 2):
            await lost.speak(SHORT)
            await answered(world, lost, turn)
            await lost.until("sequential_audio")
            after = {"speech": addresses(lost.received)["speech"]}
            await lost.until("chunked_streaming_complete")
        async with resuming(world, lost, after=after) as client:
            words = [await client.until("token_chunk") for _ in range(3)]
            await client.speak(SHORT)
            await answered(world, client, 3)
            await client.until("sequential_audio")
    assert {message["turn"] for message in words} == {2}
    assert 1 not in [message.get("turn") for message in client.received]


async def test_a_client_that_says_only_where_a_turn_ended_is_told_no_word_of_that_turn(world: World) -> None:
    async with world.client(pacing="none") as lost:
        await lost.speak(SHORT)
        await answered(world, lost)
        await lost.until("chunked_streaming_complete")
        after = {"speech": addresses(lost.received)["speech"]}
        async with resuming(world, lost, after=after) as client:
            await client.speak(SHORT)
            await answered(world, client, 2)
            await client.until("chunked_streaming_complete")
    assert {message["turn"] for message in client.received if message["type"] == "token_chunk"} == {2}


async def test_a_conversation_is_resumed_on_another_edge_and_the_older_socket_is_closed(
    world: World, redis_url: str
) -> None:
    async with world.client(pacing="none") as older, running(redis_url) as other:
        await older.speak(SHORT)
        answer = await world.answer(older)
        await answer.say("Hello!")
        await older.until("sequential_audio")
        async with resuming(other, older, cut=False) as client:
            assert await older.closed() == 4001
            await answer.say(" Yes.")
            await answer.end()
            done = await client.until("chunked_streaming_complete")
        assert done["response_text"] == "Hello! Yes."
        assert [m["frame_index"] for m in client.received if m["type"] == "sequential_audio"] == [1]


async def test_the_older_socket_on_the_same_edge_is_closed_with_4001(world: World) -> None:
    async with world.client() as older, resuming(world, older, cut=False) as client:
        assert await older.closed() == 4001
        await client.send("ping")
        await client.until("pong")
        held = await world.store.call("GET", session_key(client.conversation))
        assert held is not None


async def test_a_conversation_of_settings_only_is_resumed_with_them(world: World) -> None:
    async with world.client(voice="bruno", speed=1.5) as lost, resuming(world, lost) as client:
        await client.send("configure")
        configured = await client.until("configured")
        assert (configured["voice"], configured["speed"]) == ("bruno", 1.5)
        assert client.received[1]["turn"] == 0


async def test_an_open_utterance_goes_on_where_the_log_has_it(world: World) -> None:
    async with world.client(pacing="none") as lost:
        await lost.speak(SHORT, ends=False, offset_samples=0)
        await lost.until("audio_ack")
        async with resuming(world, lost) as client:
            assert (client.received[1]["turn"], client.received[1]["input_samples"]) == (1, 1600)
            # The client repeats the last of what it does not know to be there.
            await client.speak(SHORT, ends=False, offset_samples=800)
            await client.send("end_of_utterance")
            assert (await client.until("speech_stopped"))["audio_ms"] == 150.0
            log = await world.log(client, Log.AUDIO)
            chunks = [(p.offset_samples, len(p.pcm) // 2) for p in log if isinstance(p, Chunk)]
            assert chunks == [(0, 1600), (1600, 800)]
            assert Take("resume") in log
            assert log[-1] == UtteranceEnd("client", 2400)
            await (await world.answer(client)).end()
            await client.until("chunked_streaming_complete")


async def test_an_utterance_sent_again_because_its_end_was_not_seen_begins_no_second_turn(
    world: World,
) -> None:
    async with world.client(pacing="none") as lost:
        await lost.speak(SHORT, offset_samples=0)
        await lost.until("speech_stopped")
        async with resuming(world, lost) as client:
            await client.speak(SHORT, offset_samples=0, ends=False)
            assert (await client.until("audio_ack"))["input_samples"] == 1600
            await client.send("end_of_utterance")
            await client.send("status")
            status = await client.until("status", "error")
            assert (status["type"], status["turn"]) == ("status", 1)
            # What is new begins the next turn.
            await client.speak(SHORT, offset_samples=1600)
            assert (await client.until("speech_started"))["turn"] == 2


async def test_a_turn_that_no_worker_was_offered_is_offered_by_whoever_resumes(world: World) -> None:
    async with world.client(pacing="none") as lost:
        await lost.speak(SHORT)
        await world.answer(lost)
        await world.store.call("DEL", "work:reply:0", "work:speak:0")
        async with resuming(world, lost) as client:
            await (await world.answer(client)).end()
            await client.until("chunked_streaming_complete")


async def test_a_barge_in_that_the_edge_did_not_live_to_finish_is_finished(world: World) -> None:
    async with world.client() as lost:
        await lost.speak(SHORT)
        answer = await world.answer(lost)
        await answer.say("A long answer.", frames=30)
        await lost.until("sequential_audio")
        lost.socket.transport.abort()
        await eventually(partial(world.gone, session_key(lost.conversation)), "the session is over")
        writer = world.writer(lost.conversation, Log.AUDIO, 2)
        await writer.append((await world.log(lost, Log.AUDIO))[0], Chunk(1600, SHORT))
        async with resuming(world, lost) as client:
            cut = await client.until("audio_interrupted")
            assert (cut["turn"], cut["reason"]) == (1, "barge_in")
            assert cut["heard_ms"] > 0
            await eventually(partial(world.offered, client.conversation, 2), "the next turn is offered")
            await client.send("end_of_utterance")
            assert (await client.until("speech_stopped"))["turn"] == 2
    assert "sequential_audio" not in kinds(client.received)


@pytest.mark.parametrize("answered", [True, False], ids=["behind an answer", "behind nothing"])
async def test_a_turn_that_began_and_of_which_nothing_was_written_ends(world: World, answered: bool) -> None:
    async with world.client(pacing="none") as lost:
        await lost.speak(SHORT)
        answer = await world.answer(lost)
        if answered:
            await answer.end()
            await lost.until("chunked_streaming_complete")
        lost.socket.transport.abort()
        await eventually(partial(world.gone, session_key(lost.conversation)), "the session is over")
        # Its edge died, or lost the conversation, between the two.
        await world.store.call("HSET", meta_key(lost.conversation), "turn", 2)
        async with resuming(world, lost, after=addresses(lost.received)) as client:
            assert client.received[-1]["turn"] == 2
            if not answered:
                await answer.say("Hello!")
                await answer.end()
            cut = await client.until("audio_interrupted")
            assert (cut["turn"], cut["reason"]) == (2, "abandoned")
            await client.speak(SHORT)
            await (await world.answer(client, 3)).end()
            done = await client.until("chunked_streaming_complete")
            while done["turn"] < 3:
                done = await client.until("chunked_streaming_complete")
    endings = [m["turn"] for m in lost.received + client.received if m["type"] in ENDINGS]
    assert sorted(endings) == [1, 2, 3]


async def test_what_a_session_finds_is_trimmed_by_none_before_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    trims, surveyed, trimmed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def trim_later(*args: Any, **named: Any) -> None:
        trims.set()
        await surveyed.wait()
        try:
            await trim_log(*args, **named)
        finally:
            trimmed.set()

    async def survey_first(*args: Any) -> Survey:
        found = await survey(*args)
        surveyed.set()
        await trimmed.wait()
        return found

    async with world.client(pacing="none") as lost:
        for turn in (1, 2):
            await lost.speak(SHORT)
            await world.answer(lost, turn)
            await lost.send("user_interrupt")
            await lost.until("audio_interrupted")
        monkeypatch.setattr("edge.director.trim_log", trim_later)
        monkeypatch.setattr("edge.session.survey", survey_first)
        await lost.speak(SHORT)
        await trims.wait()
        async with resuming(world, lost, after={}) as client:
            await (await world.answer(client, 3)).end()
            await client.until("chunked_streaming_complete")
    assert [m["turn"] for m in client.received if m["type"] == "audio_interrupted"] == [1, 2]


async def test_who_comes_back_after_an_interruption_is_told_so_and_no_frame_of_it(world: World) -> None:
    async with world.client() as lost:
        await lost.speak(SHORT)
        answer = await world.answer(lost)
        await answer.say("A long answer.", frames=30)
        await lost.until("sequential_audio")
        held = addresses(lost.received)
        await lost.send("user_interrupt")
        await lost.until("audio_interrupted")
        async with resuming(world, lost, after=held) as client:
            cut = await client.until("audio_interrupted")
            assert cut["reason"] == "user_interrupt"
    assert "sequential_audio" not in kinds(client.received)


@pytest.mark.parametrize("has_it", [True, False])
async def test_an_interruption_is_told_once_though_its_speech_is_kept_no_more(
    world: World, has_it: bool
) -> None:
    async with world.client() as lost:
        await lost.speak(SHORT)
        answer = await world.answer(lost)
        await answer.say("A long answer.", frames=30)
        await lost.until("sequential_audio")
        held = addresses(lost.received)
        for _ in range(2):
            await lost.speak(SHORT)
        told = await lost.until("audio_interrupted")
        await eventually(partial(world.turns_are, lost, Log.SPEECH, {2}), "the first speech is trimmed")
        async with resuming(world, lost, after={"speech": held["speech"]} if not has_it else None) as client:
            first = [] if has_it else [await client.until("audio_interrupted")]
            async with resuming(world, client, after=addresses([*lost.received, *first])) as again:
                await (await world.answer(again, 3)).end()
                await again.until("chunked_streaming_complete")
    assert first in ([], [told])
    assert endings([*first, *again.received]) == (
        [(2, "barge_in")] if has_it else [(1, "barge_in"), (2, "barge_in")]
    ) + [(3, None)]


@pytest.mark.parametrize("has_it", [True, False])
async def test_a_whole_answer_ends_once_though_its_speech_is_kept_no_more(world: World, has_it: bool) -> None:
    async with world.client(pacing="none") as lost:
        await lost.speak(SHORT)
        await answered(world, lost)
        await lost.until("sequential_audio")
        held = addresses(lost.received)
        await lost.until("chunked_streaming_complete")
        if has_it:
            held = addresses(lost.received)
        await lost.speak(SHORT)
        await answered(world, lost, 2)
        await lost.until("chunked_streaming_complete")
        await lost.speak(SHORT)
        await eventually(partial(world.turns_are, lost, Log.SPEECH, {2}), "the first speech is trimmed")
        async with resuming(world, lost, after=held) as client:
            await client.until("chunked_streaming_complete")
    assert endings(client.received) == ([] if has_it else [(1, "heard")]) + [(2, None)]
    words = [message["turn"] for message in client.received if message["type"] == "token_chunk"]
    assert words == ([2, 2, 2] if has_it else [1, 1, 2, 2, 2])


async def heard(world: World, client: Client, turn: int, frames: int) -> None:
    """An answer is sent and heard to its end; then others are paced."""
    answer = await world.answer(client, turn)
    await answer.say("One two three.", frames=frames)
    await answer.end()
    await client.until("chunked_streaming_complete")
    await client.send("playback", turn=turn, played_ms=1e6)
    await eventually(partial(world.closed_as, client, Log.TEXT, "heard"), "it was heard")


@pytest.mark.parametrize("by", ["barge_in", "user_interrupt"])
async def test_an_answer_that_is_cut_off_while_it_is_told_again_ends_once(world: World, by: str) -> None:
    async with world.client(pacing="none") as lost:
        await lost.speak(SHORT)
        await heard(world, lost, 1, frames=100)
        await lost.configure(pacing="realtime")
        async with resuming(world, lost, after={}) as client:
            await client.until("sequential_audio")
            await client.send("status")
            assert (await client.until("status"))["state"] == "speaking"
            if by == "user_interrupt":
                await client.send("user_interrupt")
                await client.until("audio_interrupted")
            await client.speak(SHORT)
            answer = await world.answer(client, 2)
            await answer.say("Yes.")
            await answer.end()
            await client.until("chunked_streaming_complete")
    assert endings(client.received) == [(1, "heard"), (2, None)]
    frames = [message["turn"] for message in client.received if message["type"] == "sequential_audio"]
    assert frames.count(1) < 100


async def test_an_interruption_waits_for_the_answer_before_it_to_be_told_again(world: World) -> None:
    async with world.client(pacing="none") as lost:
        await lost.speak(SHORT)
        await heard(world, lost, 1, frames=8)
        await lost.configure(pacing="realtime")
        await lost.speak(SHORT)
        await world.answer(lost, 2)
        await lost.send("user_interrupt")
        await lost.until("audio_interrupted")
        async with resuming(world, lost, after={}) as client:
            await client.until("audio_interrupted")
    assert endings(client.received) == [(1, None), (2, "user_interrupt")]
    assert kinds(client.received).count("sequential_audio") == 8


def endings(messages: Sequence[Message]) -> list[tuple[int, str | None]]:
    """Which turns ended, in their order, and why they were cut off if they were."""
    ends = ("chunked_streaming_complete", "audio_interrupted")
    return [(message["turn"], message.get("reason")) for message in messages if message["type"] in ends]


async def test_who_holds_the_end_of_a_turn_is_not_told_it_again(world: World) -> None:
    async with world.client(pacing="none") as lost:
        await lost.speak(SHORT)
        await answered(world, lost)
        await lost.until("chunked_streaming_complete")
        async with resuming(world, lost) as client:
            await client.speak(SHORT)
            await answered(world, client, turn=2)
            done = await client.until("chunked_streaming_complete")
            assert done["turn"] == 2
        assert {m["turn"] for m in client.received if "address" in m} == {2}


async def test_an_absent_address_means_from_the_start_of_what_is_kept(world: World) -> None:
    async with world.client(pacing="none") as lost:
        for turn in (1, 2, 3):
            await lost.speak(SHORT)
            await answered(world, lost, turn)
            await lost.until("chunked_streaming_complete")
        await eventually(partial(world.turns_are, lost, Log.SPEECH, {2, 3}), "speech is trimmed")
        async with resuming(world, lost, after={"speech": "0-0"}) as client:
            while (await client.until("chunked_streaming_complete"))["turn"] < 3:
                pass
    tokens = [m["turn"] for m in client.received if m["type"] == "token_chunk"]
    assert tokens == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    frames = [(m["turn"], m["frame_index"]) for m in client.received if m["type"] == "sequential_audio"]
    assert frames == [(turn, i) for turn in (2, 3) for i in range(12)]


async def test_who_takes_a_conversation_over_keeps_as_much_audio_as_its_predecessor(redis_url: str) -> None:
    settings = Settings(history_audio_s=2.5)
    async with running(redis_url, settings) as world, world.client(pacing="none") as lost:
        for turn in (1, 2, 3):
            await lost.speak(SECOND)
            await answered(world, lost, turn)
            await lost.until("chunked_streaming_complete")
        await lost.speak(SECOND[:16_000], ends=False)
        await world.answer(lost, 4)
        async with resuming(world, lost, after={"speech": "3-99"}) as client:
            await client.speak(SECOND[:16_000])
            await client.until("speech_stopped")
            assert await world.turns_are(client, Log.AUDIO, {2, 3, 4})
            await client.speak(SECOND)
            await world.answer(client, 5)
            assert await world.turns_are(client, Log.AUDIO, {3, 4, 5})


async def test_a_token_is_good_until_its_successor_has_been_used(world: World) -> None:
    async with world.client() as lost:
        first = lost.token
        async with resuming(world, lost) as second:
            second.socket.transport.abort()
        # The client never saw `resumed`: it shows the first token again.
        async with resuming(world, lost) as third:
            assert third.token not in (first, second.token)
            await third.send("ping")
            await third.until("pong")
            for old in (first, second.token):
                await eventually(partial(is_refused, world, lost.conversation, old), "old tokens are void")


async def is_refused(world: World, conversation: str, token: str) -> bool:
    async with world.socket() as client:
        await client.greet()
        await client.send("resume", conversation_id=conversation, resume_token=token)
        answer = await client.until("resumed", "error")
        return str(answer["type"]) == "error"


async def test_whatever_is_wrong_with_a_resume_the_answer_is_the_same(world: World) -> None:
    async with world.client() as one, world.client() as two:
        errors = []
        for conversation, token in (
            (one.conversation, two.token),
            (one.conversation, "x"),
            ("0123456789abcdef", one.token),
            ("no id at all", one.token),
            ("*", "x"),
        ):
            async with world.socket() as client:
                await client.greet()
                await client.send("resume", conversation_id=conversation, resume_token=token)
                errors.append(await client.until("error"))
                # The session goes on as a conversation of its own.
                await client.configure()
        assert errors[0]["code"] == "not_found"
        assert all(error == errors[0] for error in errors)
        await one.send("ping")
        await one.until("pong")


async def test_resume_is_a_first_message_or_none(world: World) -> None:
    async with world.client() as lost, world.socket() as client:
        await client.greet()
        await client.send("ping")
        await client.send("resume", conversation_id=lost.conversation, resume_token=lost.token)
        assert (await client.until("error"))["code"] == "wrong_state"


async def test_a_conversation_that_ended_cannot_be_resumed(world: World) -> None:
    async with world.client() as gone:
        await gone.send("bye")
        await gone.closed()
        await eventually(partial(is_refused, world, gone.conversation, gone.token), "it has ended")


async def test_a_turn_that_was_abandoned_meanwhile_ends_for_whoever_comes_back(world: World) -> None:
    async with world.client() as lost:
        await lost.speak(SHORT, ends=False)
        await world.answer(lost)
        lost.socket.transport.abort()
        await eventually(partial(world.gone, session_key(lost.conversation)), "the session is over")
        await world.close(lost, Closed("abandoned"), *Log)
        async with resuming(world, lost) as client:
            cut = await client.until("audio_interrupted")
            assert (cut["turn"], cut["reason"]) == (1, "abandoned")
            await client.speak(SHORT)
            await (await world.answer(client, 2)).end()
            await client.until("chunked_streaming_complete")


@pytest.mark.parametrize("noted", [True, False])
async def test_after_redis_lost_everything_a_turn_is_not_taken_for_one_that_was_told(
    world: World, noted: bool
) -> None:
    async with world.client(pacing="none") as lost:
        for turn in (1, 2):
            await lost.speak(SHORT)
            await answered(world, lost, turn)
            await lost.until("chunked_streaming_complete")
        await world.store.call("FLUSHALL")
        await world.store.load()
        await world.announce(Role.REPLY)
        await world.announce(Role.SPEAK, ("anna", "en-GB"))
        await world.services.keeper.refresh()
        await eventually(partial(world.exists, meta_key(lost.conversation)), "the meta is back")
        if not noted:
            await world.store.call("HDEL", meta_key(lost.conversation), "turn")
        async with resuming(world, lost) as client:
            assert client.received[-1]["turn"] == 2
            await client.speak(SHORT)
            await answered(world, client, 3)
            done = await client.until("chunked_streaming_complete")
    assert done["turn"] == 3
    assert len([m for m in client.received if m["type"] == "sequential_audio"]) == 12
