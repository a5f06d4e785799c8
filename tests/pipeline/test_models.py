"""The real model classes behind real processes, on checkpoints of this run's own making."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from shared.keys import log_key
from shared.log import read_log
from shared.store import Store
from shared.wire import Address, Log, Take, Token
from tests.pipeline.conftest import Stacks, witness
from tests.stack import Process
from tests.story import heard

pytestmark = pytest.mark.timeout(400)

SECOND = 32_000
"""Bytes of PCM16 at 16 kHz."""

GREEDY = {"temperature": 0.0, "max_reply_tokens": 24}


async def _ids(store: Store, conversation: str, turn: int = 1) -> list[int]:
    """The ids of a reply, as they stand in the log."""
    entries = await read_log(store, log_key(conversation, Log.TEXT), Address(turn, 0), turn)
    return [number for entry in entries if isinstance(entry.payload, Token) for number in entry.payload.ids]


def _questions(speech: bytes) -> list[bytes]:
    """Six utterances of different length, out of different places of the recording."""
    return [speech[start * SECOND : (start + 1 + start // 2) * SECOND] for start in range(6)]


async def test_voxtral_and_kokoro_answer_a_recording_through_every_process(
    stacks: Stacks, speech: bytes, voxtral_folder: Path, kokoro_folder: Path
) -> None:
    stack = stacks(
        LLM_ENGINE="voxtral",
        TTS_ENGINE="kokoro",
        VOXTRAL_MODEL=str(voxtral_folder),
        KOKORO_MODEL=str(kokoro_folder),
    )
    edge = stack.start("edge")
    stack.start("llm")
    stack.start("tts")
    await stack.ready(edge)
    # A model that nobody trained says letters of all scripts, each of which takes a second to spell.
    async with witness(stack.url(edge), **GREEDY | {"max_reply_tokens": 8}) as w:
        assert w.client.server_config["engines"] == {"llm": "voxtral", "tts": "kokoro"}
        end = await w.ask(1, speech)
        second = await w.ask(2, speech[:SECOND])
    turns = heard(w.messages)
    for number, ending in ((1, end), (2, second)):
        turn = turns[number]
        assert turn.ended == "chunked_streaming_complete", turn.ending
        assert turn.reply == "".join(chunk["text"] for chunk in turn.chunks) == ending["response_text"]
        assert ending["total_tokens"] > 0 and ending["first_audio_latency_ms"] > 0
    sound = np.frombuffer(turns[1].speech, np.int16)
    assert len(sound) > 2400 and np.abs(sound).max() > 100


# An answer that was sent counts as heard: else the clock would decide what the next turn remembers.
PATIENT = {**GREEDY, "interrupt": False}


async def test_six_conversations_at_once_get_the_tokens_that_each_gets_alone(
    stacks: Stacks, store: Store, speech: bytes, voxtral_folder: Path
) -> None:
    stack = stacks(LLM_ENGINE="voxtral", VOXTRAL_MODEL=str(voxtral_folder))
    edge = stack.start("edge")
    stack.start("llm")
    stack.start("tts")
    await stack.ready(edge)

    async def ask(pcm: bytes) -> list[list[int]]:
        async with witness(stack.url(edge), **PATIENT) as w:
            await w.ask(1, pcm)
            await w.client.send_text("And what do you think?")
            await w.end_of(2)
            return [await _ids(store, w.conversation, turn) for turn in (1, 2)]

    alone = [await ask(pcm) for pcm in _questions(speech)]
    together = await asyncio.gather(*(ask(pcm) for pcm in _questions(speech)))
    assert together == alone
    assert len({tuple(ids) for ids, _ in alone}) > 3, "the model answers everything alike"


async def test_the_worker_is_killed_in_mid_answer_and_the_other_goes_on_with_the_same_tokens(
    stacks: Stacks, store: Store, speech: bytes, voxtral_folder: Path
) -> None:
    stack = stacks(LLM_ENGINE="voxtral", VOXTRAL_MODEL=str(voxtral_folder), SCRIPT_MS_PER_CHAR="5")
    edge = stack.start("edge")
    workers = [stack.start("llm"), stack.start("llm")]
    stack.start("tts")
    await stack.ready(edge, llm=2)
    settings = {"temperature": 0.7, "seed": 11, "max_reply_tokens": 200}

    async with witness(stack.url(edge), **settings) as w:
        await w.ask(1, speech)
        undisturbed = await _ids(store, w.conversation)

    async with witness(stack.url(edge), **settings) as w:
        await w.client.send_audio(speech, ends=True)
        await w.until(lambda m: m["type"] == "token_chunk" and m["chunk_sequence"] == 5)
        (await _owner(store, w.conversation, workers)).kill()
        end = await w.end_of(1)
        assert end["type"] == "chunked_streaming_complete", end
        heard(w.messages)
        entries = await read_log(store, log_key(w.conversation, Log.TEXT), Address(1, 0), 1)
        assert await _ids(store, w.conversation) == undisturbed
    takes = sum(isinstance(entry.payload, Take) for entry in entries)
    assert takes >= 2, "the kill came too late to matter"


async def _owner(store: Store, conversation: str, workers: list[Process]) -> Process:
    entries = await read_log(store, log_key(conversation, Log.TEXT), Address(1, 0), 1)
    name = [entry.payload.worker for entry in entries if isinstance(entry.payload, Take)][-1]
    return next(worker for worker in workers if worker.env["WORKER_NAME"] == name)
