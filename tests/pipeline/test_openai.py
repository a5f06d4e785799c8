"""The real pipeline with an OpenAI-compatible endpoint as its model, and a worker that dies in mid-answer."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from shared.audio import INPUT_RATE, to_wav
from shared.keys import log_key
from shared.log import read_log
from shared.store import Store
from shared.wire import Address, Log, Take
from tests.endpoint import MODEL, Endpoint, sounds
from tests.pipeline.conftest import Stacks, Witness, witness
from tests.stack import Process, Stack
from tests.story import check_whole, heard

HELD_AT = 6
PCM = bytes(range(100)) * 64
KEY = "sk-in-no-log"


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    """An endpoint that answers as vLLM does, and stops before the seventh word."""
    async with Endpoint(hold_at=HELD_AT) as endpoint:
        yield endpoint


async def _stack(stacks: Stacks, endpoint: Endpoint, **env: str) -> tuple[Stack, Process]:
    stack = stacks(
        LLM_ENGINE="openai",
        OPENAI_BASE_URL=endpoint.url,
        OPENAI_MODEL=MODEL,
        OPENAI_API_KEY=KEY,
        **env,
    )
    edge = stack.start("edge")
    stack.start("tts")
    for _ in range(2):
        stack.start("llm")
    await stack.ready(edge, llm=2, tts=1)
    return stack, edge


async def _ask_and_kill(w: Witness, stack: Stack, store: Store) -> None:
    """Ask, and kill the worker that answers when all is said but what the endpoint holds back."""
    await w.client.send_audio(PCM, ends=True)
    await w.until(lambda m: m["type"] == "token_chunk" and m["chunk_sequence"] == HELD_AT - 1)
    entries = await read_log(store, log_key(w.conversation, Log.TEXT), Address(1, 0), 1)
    (name,) = {entry.payload.worker for entry in entries if isinstance(entry.payload, Take)}
    (owner,) = [process for process in stack.processes if process.env.get("WORKER_NAME") == name]
    owner.kill()


async def test_after_a_kill_in_mid_answer_the_other_worker_goes_on_with_it(
    stacks: Stacks, endpoint: Endpoint, store: Store
) -> None:
    stack, edge = await _stack(stacks, endpoint)
    async with witness(stack.url(edge)) as w:
        await _ask_and_kill(w, stack, store)
        endpoint.release.set()
        await w.end_of(1)
        await w.ask(2, PCM)
    for told in heard(w.messages).values():
        check_whole(w.conversation, told, "".join(endpoint.words))
    first, again, second = (call.json for call in endpoint.asked)
    assert sounds(first) == sounds(again) == [to_wav(PCM, INPUT_RATE)]
    assert again["messages"][-1] == {"role": "assistant", "content": "".join(endpoint.words[:HELD_AT])}
    assert sounds(second)[-1] == to_wav(PCM, INPUT_RATE)
    assert KEY not in "".join(process.log.read_text() for process in stack.processes)


async def test_where_the_endpoint_cannot_go_on_the_client_is_told_to_ask_again(
    stacks: Stacks, endpoint: Endpoint, store: Store
) -> None:
    stack, edge = await _stack(stacks, endpoint, OPENAI_CONTINUE="no")
    async with witness(stack.url(edge)) as w:
        await _ask_and_kill(w, stack, store)
        failed = await w.end_of(1)
        endpoint.release.set()
        await w.ask(2, PCM)
    assert (failed["type"], failed["code"], failed["retryable"]) == ("error", "engine_failed", True)
    assert "OPENAI_CONTINUE" in failed["message"]
    turns = heard(w.messages)
    assert turns[1].reply == "".join(endpoint.words[:HELD_AT])
    check_whole(w.conversation, turns[2], "".join(endpoint.words))
    assert len(endpoint.asked) == 2, "the failed turn was asked for once"
