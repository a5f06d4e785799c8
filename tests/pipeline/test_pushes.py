"""Pushes are for speed only: without them, or with wrong ones, a client is told the same."""

from __future__ import annotations

from tests.pipeline.conftest import REPLY, Stacks, witness
from tests.proxy import PushProxy
from tests.story import check_whole, heard


async def test_pushes_that_are_dropped_doubled_and_disordered_make_no_difference(
    stacks: Stacks, redis_url: str
) -> None:
    """Between Redis and every process of the pipeline."""
    async with PushProxy(redis_url, seed=11) as proxy:
        stack = stacks(REDIS_URL=proxy.url)
        edge = stack.start("edge")
        stack.start("llm")
        stack.start("tts")
        await stack.ready(edge)
        async with witness(stack.url(edge)) as w:
            for turn in (1, 2, 3):
                await w.ask(turn)
        turns = heard(w.messages)
        assert sorted(turns) == [1, 2, 3]
        for answer in turns.values():
            check_whole(w.conversation, answer, REPLY)
        assert proxy.dropped and proxy.doubled and proxy.delayed
