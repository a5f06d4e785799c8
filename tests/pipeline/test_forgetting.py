"""Redis forgets the end of an answer when its writer has long finished: the listener hears all of it."""

from __future__ import annotations

import json

from shared.keys import log_key
from shared.log import tail
from shared.reader import BUFFER_ENTRIES
from shared.store import Store
from shared.wire import Address, Log
from tests.conftest import eventually
from tests.pipeline.conftest import TURN_S, Stacks, witness
from tests.shared.support import forget_from
from tests.story import check_whole, heard

WORDS = [f" word {number}." for number in range(BUFFER_ENTRIES)]
"""A reply that is longer than what a reader holds."""


async def test_a_text_whose_end_redis_forgot_is_spoken_to_its_end(stacks: Stacks, store: Store) -> None:
    stack = stacks(SCRIPT_TOKENS=json.dumps(WORDS), SCRIPT_INTER_TOKEN_MS="5", SCRIPT_TTS_MS="50")
    edge = stack.start("edge")
    for role in ("llm", "tts"):
        stack.start(role)
    await stack.ready(edge)
    async with witness(stack.url(edge)) as w:
        await w.client.send_audio(bytes(3200), ends=True)
        await w.until(lambda m: m["type"] == "sequential_audio")
        key, written = log_key(w.conversation, Log.TEXT), []

        async def is_written() -> bool:
            last = await tail(store, key)
            if last is not None and last.final:
                written.append(last.address)
            return bool(written)

        await eventually(is_written, "the reply", TURN_S)
        await forget_from(store, key, Address(1, written[0].seq - 5))
        await w.end_of(1)
    check_whole(w.conversation, heard(w.messages)[1], "".join(WORDS))
