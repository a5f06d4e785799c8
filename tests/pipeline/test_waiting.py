"""Workers die time and again while a turn only waits: that is no failure of the turn."""

from __future__ import annotations

import pytest

from shared.keys import log_key
from shared.log import read_log
from shared.store import Store
from shared.wire import Address, Log, Take
from tests.conftest import eventually
from tests.pipeline.conftest import REPLY, TURN_S, Stacks, witness
from tests.story import check_whole, heard

DEATHS = 4
"""More than the attempts that a turn has."""


@pytest.mark.parametrize(("role", "log"), [("llm", Log.TEXT), ("tts", Log.SPEECH)])
async def test_a_worker_may_die_any_number_of_times_while_the_user_speaks(
    role: str, log: Log, stacks: Stacks, store: Store
) -> None:
    stack = stacks()
    edge = stack.start("edge")
    worker = stack.start(role)
    stack.start("tts" if role == "llm" else "llm")
    await stack.ready(edge)
    async with witness(stack.url(edge)) as w:
        await w.client.send_audio(bytes(3200))

        async def takes() -> list[str]:
            entries = await read_log(store, log_key(w.conversation, log), Address(1, 0), 1)
            return [entry.payload.cause for entry in entries if isinstance(entry.payload, Take)]

        for deaths in range(DEATHS + 1):

            async def taken(times: int = deaths + 1) -> bool:
                return len(await takes()) == times

            await eventually(taken, "the turn is taken up", TURN_S)
            if deaths < DEATHS:
                worker.kill()
                worker = stack.restart(worker)
        assert (await takes())[1:] == ["reclaim"] * DEATHS
        await w.client.send_audio(bytes(3200), ends=True)
        await w.end_of(1)
    check_whole(w.conversation, heard(w.messages)[1], REPLY)
