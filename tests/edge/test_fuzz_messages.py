"""Whatever a client sends, it is answered, or its socket is closed with a code that says why.

`PARLEY_FUZZ_MESSAGES` says how many messages to send (600):

    PARLEY_FUZZ_MESSAGES=10000 make test ARGS='tests/edge/test_fuzz_messages.py -rP'

tells at the end what was answered. hypothesis shrinks a failure to the messages that it takes.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, example, given, note, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed

from edge.protocols.native import Encoding
from shared.settings import Settings
from tests.edge.fuzzing import bed, resident_bytes
from tests.edge.generated import CODES, LIMIT, Case
from tests.edge.malformed import cases, fixed
from tests.edge.world import Client, Message, World, kinds

MESSAGES = int(os.environ.get("PARLEY_FUZZ_MESSAGES", "600"))
BATCH = 20
"""Messages of one example; they share a socket for as long as none of them ends it."""

GROWTH_BYTES = (32 << 20) + MESSAGES * (12 << 10)
"""What the process may have grown by. Half of it is hypothesis, which remembers all that it has tried."""

REPLY = "Yes. No."

SAID = {
    "audio_ack", "audio_interrupted", "audio_response", "chunked_streaming_complete", "configured", "error",
    "pong", "semantic_chunk", "sequential_audio", "speech_started", "speech_stopped", "status", "token_chunk",
}  # fmt: skip
"""What a server may say at any time after `connection`, unless it stops or a resume was good."""

batches = st.sampled_from(Encoding).flatmap(
    lambda encoding: st.tuples(st.just(encoding), st.lists(cases(encoding), min_size=BATCH, max_size=BATCH))
)


@dataclass
class Outcome:
    """What came of everything that was sent."""

    messages: int = 0
    answers: Counter[str] = field(default_factory=Counter)

    async def send(self, world: World, encoding: Encoding, batch: list[Case]) -> None:
        """Send it all, on as many sockets as it takes."""
        rest = list(reversed(batch))
        while rest:
            async with world.socket(encoding.value) as client:
                await client.greet()
                while rest and client.socket.close_code is None:
                    case = rest.pop()
                    note(f"{encoding}: {case}")
                    self.messages += 1
                    if case.closes:
                        await self.provoke(client, case)
                    else:
                        self.judge(case, await self.ask(client, case))

    async def provoke(self, client: Client, case: Case) -> None:
        """Send what the socket must be closed for, at the latest when another message follows it."""
        if case.raw:
            client.socket.transport.write(case.data)  # type: ignore[arg-type]
            with suppress(ConnectionClosed):
                await client.send("ping")
        else:
            await client.socket.send(case.data)
        code = await client.closed()
        self.answers[f"closed {code}"] += 1
        assert code in case.closes

    async def ask(self, client: Client, case: Case) -> list[Message]:
        """Send a message; what comes of it before the answer to a `ping` behind it."""
        replies: list[Message] = []
        await client.socket.send(case.data)
        await client.send("ping")
        for _ in range(2 if case.answer == "pong" else 1):
            while (message := await client.next())["type"] != "pong":
                replies.append(message)
        return replies

    def judge(self, case: Case, replies: list[Message]) -> None:
        """Whether that may answer it."""
        assert set(kinds(replies)) <= SAID
        errors = [message for message in replies if message["type"] == "error"]
        assert {message["code"] for message in errors} <= CODES
        assert all(message["message"] for message in errors)
        own = [message["code"] for message in errors if message["turn"] is None]
        assert set(own) <= case.errors
        if case.wrong:
            assert len(own) == 1
        elif case.answer not in (None, "pong"):
            assert len(own) + kinds(replies).count(str(case.answer)) == 1
        self.answers.update(own or [case.answer or "taken"])


async def converse(witness: Client) -> None:
    """A turn of a conversation beside all that."""
    begun = len(witness.received)
    await witness.send("text", text="And you?")
    done = await witness.until("chunked_streaming_complete", "error")
    told = witness.received[begun:]
    assert set(kinds(told)) == {"token_chunk", "semantic_chunk", "sequential_audio", done["type"]}
    assert {message["turn"] for message in told} == {done["turn"]}
    assert done["response_text"] == REPLY
    frames = [message["frame_index"] for message in told if message["type"] == "sequential_audio"]
    assert frames == list(range(len(frames)))


@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@pytest.mark.timeout(400 + MESSAGES // 10)
def test_whatever_is_sent_is_answered_and_nobody_else_notices(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    outcome, began_s = Outcome(), time.monotonic()
    with bed(redis_url, Settings(max_message_bytes=LIMIT)) as here:
        witness = here.enter(here.world.client(pacing="none"))

        async def send_beside_a_conversation(encoding: Encoding, batch: list[Case]) -> None:
            sending, conversing = outcome.send(here.world, encoding, batch), converse(witness)
            # Both to their end: a turn that was left alone would fail the next example too.
            for failed in await asyncio.gather(sending, conversing, return_exceptions=True):
                if failed is not None:
                    raise failed

        @settings(max_examples=MESSAGES // BATCH, suppress_health_check=list(HealthCheck))
        @given(batch=batches)
        @example(batch=(Encoding.JSON, fixed(Encoding.JSON)))
        @example(batch=(Encoding.MSGPACK, fixed(Encoding.MSGPACK)))
        def send(batch: tuple[Encoding, list[Case]]) -> None:
            here.run(send_beside_a_conversation(*batch))

        before = resident_bytes()
        send()
        grown = resident_bytes() - before
        here.run(here.check())
    sys.stdout.write(
        f"{outcome.messages} messages in {time.monotonic() - began_s:.1f} s,"
        f" from {before >> 20} to {(before + grown) >> 20} MB: {outcome.answers.most_common()}\n"
    )
    assert [record for record in caplog.records if record.exc_info or record.name.startswith("edge")] == []
    assert grown < GROWTH_BYTES
