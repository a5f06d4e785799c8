from __future__ import annotations

import asyncio
import base64
from functools import partial

import pytest

from shared.keys import Role, meta_key, session_key
from shared.settings import Settings
from shared.wire import Chunk, Log, Open, UtteranceEnd
from tests.conftest import eventually
from tests.edge.world import FRAME, SECOND, World, kinds, running

SPOKEN = [
    "speech_started", "speech_stopped", "audio_ack",
    "token_chunk", "semantic_chunk", "sequential_audio", "sequential_audio",
    "token_chunk", "semantic_chunk", "sequential_audio",
    "chunked_streaming_complete",
]  # fmt: skip


@pytest.mark.parametrize("encoding", ["msgpack", "json"])
async def test_a_whole_utterance_is_answered_in_words_and_speech(world: World, encoding: str) -> None:
    async with world.client(encoding, pacing="none") as client:
        pcm: object = SECOND if encoding == "msgpack" else base64.b64encode(SECOND).decode()
        await client.send("audio_chunk", audio_data=pcm, chunk_id="c-1")
        answer = await world.answer(client)
        await answer.say("Hello!", frames=2)
        await answer.say(" Yes.")
        await answer.end()
        done = await client.until("chunked_streaming_complete")
    assert kinds(client.received) == ["connection", "configured", *SPOKEN]
    assert done["response_text"] == "Hello! Yes."
    assert (done["total_tokens"], done["total_words"], done["total_chunks"]) == (2, 2, 2)
    assert (done["chunk_id"], done["address"]) == ("c-1", "speech:1-4")
    assert done["audio_duration_ms"] == 300.0
    frames = [m for m in client.received if m["type"] == "sequential_audio"]
    assert [frame["frame_index"] for frame in frames] == [0, 1, 2]
    assert [frame["chunk_index"] for frame in frames] == [0, 0, 1]
    assert [frame.get("text_source") for frame in frames] == ["Hello!", None, " Yes."]
    assert {frame["voice"] for frame in frames} == {"anna"}
    assert frames[0]["audio_data"] == (FRAME if encoding == "msgpack" else base64.b64encode(FRAME).decode())


async def test_latencies_run_from_the_end_of_the_utterance_to_what_was_sent(world: World) -> None:
    async with world.client(pacing="none") as client:
        await client.speak()
        answer = await world.answer(client)
        await answer.say("Hello!")
        await answer.end()
        done = await client.until("chunked_streaming_complete")
    first_token, first_word = done["first_token_latency_ms"], done["first_word_latency_ms"]
    assert 0 < first_token <= first_word <= done["first_audio_latency_ms"]
    assert done["total_time_ms"] > first_word
    assert done["inter_token_latency_ms"] is None


async def test_an_answer_of_nothing_is_complete_and_has_no_latencies(world: World) -> None:
    async with world.client() as client:
        await client.speak()
        await (await world.answer(client)).end()
        done = await client.until("chunked_streaming_complete")
    names = ("first_token_latency_ms", "first_word_latency_ms", "first_audio_latency_ms", "total_time_ms")
    assert [done[name] for name in names] == [None] * 4
    assert done["response_text"] == ""


async def test_wav_is_the_default_of_output(world: World) -> None:
    async with world.client(output_format="wav", pacing="none") as client:
        await client.speak()
        await (await world.answer(client)).say("Hello!")
        frame = await client.until("sequential_audio")
    assert frame["format"] == "wav"
    assert frame["audio_data"].startswith(b"RIFF")
    assert frame["audio_data"].endswith(FRAME)


async def test_an_utterance_stands_in_the_log_as_it_was_sent(world: World) -> None:
    async with world.client(prompt="Be brief.", temperature=0) as client:
        await client.speak(SECOND, ends=False, chunk_id="first", speed=1.5)
        ack = await client.until("audio_ack")
        assert (ack["turn"], ack["input_samples"]) == (1, 16_000)
        await client.speak(SECOND, ends=False)
        await client.send("end_of_utterance")
        stopped = await client.until("speech_stopped")
        assert (stopped["turn"], stopped["audio_ms"], stopped["reason"]) == (1, 2000.0, "client")
        assert (await client.until("audio_ack"))["input_samples"] == 32_000
        opening, *chunks, end = await world.log(client, Log.AUDIO)
    assert opening == Open(prompt="Be brief.", temperature=0.0, speed=1.5, chunk_id="first")
    assert chunks == [Chunk(0, SECOND), Chunk(16_000, SECOND)]
    assert end == UtteranceEnd("client", 32_000)


async def test_input_goes_on_counting_over_turns(world: World) -> None:
    async with world.client() as client:
        for turn in (1, 2):
            await client.speak()
            started = await client.until("speech_started")
            assert (started["turn"], started["audio_ms"]) == (turn, (turn - 1) * 1000.0)
            await (await world.answer(client, turn)).end()
            await client.until("chunked_streaming_complete")


async def test_acknowledgements_come_at_most_every_half_second_and_at_the_end(world: World) -> None:
    async with world.client() as client:
        for _ in range(20):
            await client.speak(SECOND[:640], ends=False)
        await client.send("end_of_utterance")
        await client.until("speech_stopped")
        last = await client.until("audio_ack")
    assert kinds(client.received).count("audio_ack") <= 3
    assert last["input_samples"] == 6400


async def test_a_turn_is_offered_to_both_workers_at_its_first_sound(world: World) -> None:
    async with world.client() as client:
        await client.speak(ends=False)
        for role in Role:
            await eventually(partial(world.offered, client.conversation, 1, role), "the turn is offered")


async def test_a_typed_turn_is_answered_like_a_spoken_one(world: World) -> None:
    async with world.client(pacing="none") as client:
        await client.send("text", text="How are you?")
        answer = await world.answer(client)
        assert await world.log(client, Log.AUDIO) == [Open(text="How are you?"), UtteranceEnd("client", 0)]
        await answer.say("Fine.")
        await answer.end()
        done = await client.until("chunked_streaming_complete")
    assert done["first_audio_latency_ms"] > 0
    assert "speech_started" not in kinds(client.received)


async def test_an_utterance_ends_where_it_is_longest(redis_url: str) -> None:
    async with running(redis_url, Settings(max_utterance_s=1.5)) as world, world.client() as client:
        await client.speak(SECOND, ends=False)
        await client.speak(SECOND, ends=False)
        stopped = await client.until("speech_stopped")
        assert (stopped["reason"], stopped["audio_ms"]) == ("max_length", 2000.0)
        # The client has not seen that yet when it ends its utterance: no error.
        await client.send("end_of_utterance")
        await client.send("ping")
        assert (await client.until("pong", "error"))["type"] == "pong"
        chunks = [entry for entry in await world.log(client, Log.AUDIO, 1) if isinstance(entry, Chunk)]
        assert sum(len(chunk.pcm) for chunk in chunks) == 48_000
        await client.send("end_of_utterance")
        assert (await client.until("error"))["code"] == "wrong_state"


async def test_configured_says_the_whole_effective_set(world: World) -> None:
    async with world.client() as client:
        await client.send("configure", speed=1.25, pacing="none", seed=7)
        configured = await client.until("configured")
        assert (configured["speed"], configured["pacing"], configured["seed"]) == (1.25, "none", 7)
        assert (configured["voice"], configured["language"]) == ("anna", "en-GB")
        assert (configured["interrupt"], configured["max_reply_tokens"]) == (True, 256)
        await client.send("configure", language="it")
        configured = await client.until("configured")
        assert (configured["speed"], configured["voice"]) == (1.25, "bruno")


@pytest.mark.parametrize("wrong", [{"voice": "carla"}, {"language": "tlh"}])
async def test_what_the_server_cannot_do_is_refused_and_changes_nothing(
    world: World, wrong: dict[str, str]
) -> None:
    async with world.client() as client:
        await client.send("configure", speed=1.25, **wrong)
        error = await client.until("error", "configured")
        assert (error["code"], error["retryable"]) == ("unsupported", False)
        await client.send("configure")
        assert (await client.until("configured"))["speed"] == 1.0


async def test_a_voice_for_one_utterance_is_checked_too(world: World) -> None:
    async with world.client(pacing="none") as client:
        await client.speak(voice="carla", chunk_id="c")
        error = await client.until("error")
        assert (error["code"], error["chunk_id"]) == ("unsupported", "c")
        await client.speak(voice="bruno")
        await (await world.answer(client)).say("Ciao.")
        assert (await client.until("sequential_audio"))["voice"] == "bruno"


async def test_status_says_where_the_conversation_is(world: World) -> None:
    async with world.client() as client:

        async def state() -> tuple[int, str]:
            await client.send("status")
            status = await client.until("status")
            assert status["conversation_id"] == client.conversation
            return status["turn"], status["state"]

        assert await state() == (0, "listening")
        await client.speak(ends=False)
        assert await state() == (1, "hearing")
        await client.send("end_of_utterance")
        assert await state() == (1, "thinking")
        answer = await world.answer(client)
        await answer.say("Hello!", frames=10)
        await client.until("sequential_audio")
        assert await state() == (1, "speaking")
        await client.send("status")
        assert 0 < (await client.until("status"))["unplayed_frames"] < 10
        await client.send("user_interrupt")
        await client.until("audio_interrupted")
        assert await state() == (1, "listening")


async def test_nothing_is_written_before_the_first_turn_or_configure(world: World) -> None:
    async with world.socket() as client:
        await client.greet()
        await client.send("ping")
        await client.send("status")
        await client.until("status")
        assert await world.keys() == []
        await client.send("text", text="Hello")
        await world.answer(client)
        await eventually(partial(world.exists, meta_key(client.conversation)), "the meta hash")


async def test_a_client_that_says_nothing_of_a_conversation_costs_little_more_than_its_socket(
    world: World,
) -> None:
    async with world.socket() as client:
        await client.greet()
        await client.send("ping")
        await client.send("status")
        status = await client.until("status")
        assert (status["turn"], status["state"], status["unplayed_frames"]) == (0, "listening", 0)
        assert not {"clerk", "tick"} & running_tasks()
        await client.configure()
        assert {"clerk", "tick"} <= running_tasks()
        await client.send("bye")
        assert await client.closed() == 1000
    await eventually(lambda: not {"clerk", "tick"} & running_tasks(), "nothing is left of it")


def running_tasks() -> set[str]:
    """The names of the tasks that run."""
    return {task.get_name() for task in asyncio.all_tasks()}


async def test_a_goodbye_may_be_the_first_word(world: World) -> None:
    async with world.socket() as client:
        await client.greet()
        await client.send("bye")
        assert await client.closed() == 1000
        assert await world.keys() == []


async def test_configure_alone_makes_a_conversation_that_can_be_resumed(world: World) -> None:
    async with world.client(voice="bruno") as client:
        await eventually(partial(world.exists, session_key(client.conversation)), "the lease")
        assert await world.keys() == [meta_key(client.conversation), session_key(client.conversation)]


async def test_every_key_of_a_conversation_has_a_time_to_live(world: World) -> None:
    async with world.client(pacing="none") as client:
        await client.speak()
        answer = await world.answer(client)
        await answer.say("Hello!")
        await answer.end()
        await client.until("chunked_streaming_complete")
        keys = await world.keys()
        assert len(keys) == 5
        for key in keys:
            assert await world.store.call("PTTL", key) > 0, key


async def test_when_a_turn_is_offered_the_logs_hold_what_its_history_needs_and_no_more(
    redis_url: str,
) -> None:
    async with (
        running(redis_url, Settings(history_audio_s=2.5)) as world,
        world.client(pacing="none") as client,
    ):
        for turn in range(1, 7):
            if turn == 4:
                await client.send("text", text="Hello?")
            else:
                await client.speak(SECOND)
            answer = await world.answer(client, turn)
            first_audio = {4: 2, 5: 2, 6: 3}.get(turn, 1)
            assert await world.turns_are(client, Log.AUDIO, set(range(first_audio, turn + 1)))
            assert await world.turns_are(client, Log.SPEECH, {max(1, turn - 1), turn})
            await answer.say("Hello!")
            await answer.end()
            await client.until("chunked_streaming_complete")
        assert await world.turns_are(client, Log.TEXT, set(range(1, 7)))


async def test_goodbye_ends_the_conversation(world: World) -> None:
    async with world.client() as client:
        await client.speak(ends=False)
        await world.answer(client)
        await client.send("bye")
        assert await client.closed() == 1000
    for log in Log:
        await eventually(partial(world.closed_as, client, log, "bye"), f"{log} is closed")
    await eventually(partial(world.gone, session_key(client.conversation)), "the lease is given up")
    assert not await world.store.call("HEXISTS", meta_key(client.conversation), "token")


async def test_closing_with_1000_is_a_goodbye(world: World) -> None:
    async with world.client() as client:
        await client.speak()
        await world.answer(client)
    await eventually(partial(world.closed_as, client, Log.TEXT, "bye"), "the turn is closed")


async def test_a_lost_socket_ends_nothing_but_gives_the_lease_up(world: World) -> None:
    async with world.client() as client:
        await client.speak()
        answer = await world.answer(client)
        client.socket.transport.abort()
        await eventually(partial(world.gone, session_key(client.conversation)), "the lease is given up")
        await answer.say("Hello!")
        await answer.end()
        assert await world.store.call("HEXISTS", meta_key(client.conversation), "token")


async def test_two_conversations_do_not_hear_each_other(world: World) -> None:
    async with world.client(pacing="none") as one, world.client(pacing="none") as two:
        await one.speak()
        await two.speak()
        for client, words in ((two, "Two."), (one, "One.")):
            answer = await world.answer(client)
            await answer.say(words)
            await answer.end()
        for client, words in ((one, "One."), (two, "Two.")):
            assert (await client.until("chunked_streaming_complete"))["response_text"] == words


async def test_frames_are_paced_a_little_ahead_of_real_time(world: World) -> None:
    async with world.client() as client:
        await client.speak()
        answer = await world.answer(client)
        await answer.say("A long answer.", frames=10)
        await answer.end()
        stamps = [(await client.until("sequential_audio"))["timestamp"] for _ in range(10)]
        await client.until("chunked_streaming_complete")
    assert stamps[2] - stamps[0] < 150
    assert 600 <= stamps[9] - stamps[0] < 1200
