"""All roles together: what is asked is answered, in order, and what stands in Redis is what was promised."""

from __future__ import annotations

import asyncio
import re
import time

import pytest

from shared.keys import DEAD, WORKERS, Role, index_key, work_key
from shared.store import Store
from tests.conftest import eventually
from tests.pipeline.conftest import REPLY, Stacks, witness
from tests.story import check_whole, heard

LISTED = {DEAD, WORKERS} | {key(role) for role in Role for key in (work_key, index_key)}


async def test_a_recording_is_recognised_and_answered_with_speech(stacks: Stacks, speech: bytes) -> None:
    stack = stacks(LLM_ENGINE="parrot", TTS_ENGINE="espeak")
    edge = stack.start("edge")
    stack.start("llm")
    stack.start("tts")
    await stack.ready(edge)
    async with witness(stack.url(edge)) as w:
        asked_at = time.monotonic()
        end = await w.ask(1, speech)
    turn = heard(w.messages)[1]
    assert turn.ended == "chunked_streaming_complete"
    assert "country" in turn.reply.lower() and "parrot" in turn.reply.lower()
    assert turn.reply == "".join(chunk["text"] for chunk in turn.chunks) == end["response_text"]
    assert [frame["chunk_index"] for frame in turn.frames] == sorted(f["chunk_index"] for f in turn.frames)
    assert len(turn.speech) / 48 == pytest.approx(end["audio_duration_ms"], abs=1)

    # The server's latencies are those of the client's clock, less the way and plus nothing.
    for kind, latency in (
        ("token_chunk", "first_token_latency_ms"),
        ("semantic_chunk", "first_word_latency_ms"),
        ("sequential_audio", "first_audio_latency_ms"),
    ):
        place = next(i for i, message in enumerate(w.messages) if message["type"] == kind)
        assert 0 < end[latency] <= (w.at_s[place] - asked_at) * 1000 + 1


async def test_turns_follow_each_other_and_each_frame_is_the_right_one(stacks: Stacks) -> None:
    stack = stacks()
    edge = stack.start("edge")
    stack.start("llm")
    stack.start("tts")
    await stack.ready(edge)
    async with witness(stack.url(edge)) as w:
        for turn in range(1, 5):
            await w.ask(turn)
    turns = heard(w.messages)
    assert sorted(turns) == [1, 2, 3, 4]
    for answer in turns.values():
        check_whole(w.conversation, answer, REPLY)


async def test_the_logs_are_readable_without_a_hole_and_every_key_is_bounded(
    stacks: Stacks, store: Store
) -> None:
    stack = stacks()
    edge = stack.start("edge")
    stack.start("llm")
    stack.start("tts")
    await stack.ready(edge)
    async with witness(stack.url(edge)) as w:
        for turn in (1, 2, 3):
            await w.ask(turn)
        key = f"conv:{{{w.conversation}}}:text"
        third = await store.call("XRANGE", key, "3", "3")
        assert [entry_id.decode() for entry_id, _ in third] == [f"3-{seq}" for seq in range(len(third))]
        for _, fields in third:
            assert all(re.fullmatch(rb"[\x20-\x7e]*", field) for field in fields)
        words = [f[f.index(b"text") + 1] for _, f in third if f[f.index(b"kind") + 1] == b"token"]
        assert b"".join(words).decode() == REPLY

        for name in sorted(await store.call("KEYS", "*")):
            text = name.decode()
            if text.startswith(("conv:", "worker:")):
                assert await store.call("PTTL", text) > 0, f"{text} has no TTL"
            else:
                assert text in LISTED, f"{text} is not listed in keys.py"

        async def idle() -> bool:
            lengths = [await store.call("XLEN", work_key(role)) for role in Role]
            fields = [await store.call("HLEN", index_key(role)) for role in Role]
            return lengths == fields == [0, 0]

        await eventually(idle, "no work is left over")
    assert await store.call("EXISTS", DEAD) == 0


async def test_many_conversations_at_once_hear_only_their_own(stacks: Stacks) -> None:
    stack = stacks()
    edge = stack.start("edge")
    stack.start("llm")
    stack.start("llm")
    stack.start("tts")
    await stack.ready(edge, llm=2)

    async def talk() -> None:
        async with witness(stack.url(edge)) as w:
            for turn in (1, 2):
                await w.ask(turn)
        for answer in heard(w.messages).values():
            check_whole(w.conversation, answer, REPLY)

    async with asyncio.TaskGroup() as talks:
        for _ in range(8):
            talks.create_task(talk())
