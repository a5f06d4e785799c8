"""Whatever a client does, in whatever order: every turn ends once, in its place, and nobody else notices.

A session is a course of some dozen steps, taken at a real edge with real workers. The model of it is small on
purpose: what it says of the conversation is what a client can know. `PARLEY_FUZZ_SESSIONS` says how many to
take (24):

    PARLEY_FUZZ_SESSIONS=1000 make test ARGS='tests/edge/test_fuzz_sessions.py -rP'
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import Set as AbstractSet
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from edge.conversation import MAX_WAITING
from shared.hold import new_conversation, new_token
from shared.keys import log_key, meta_key, session_key
from shared.log import tail
from shared.wire import Log
from tests.conftest import eventually
from tests.edge.fuzzing import Bed, bed, resident_bytes
from tests.edge.program import Message, Program
from tests.edge.test_listening import loud, quiet

SESSIONS = int(os.environ.get("PARLEY_FUZZ_SESSIONS", "24"))
STEPS = 40

VAD = {"type": "server_vad", "silence_ms": 200, "pause_ms": 100, "min_speech_ms": 60}
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "interrupt": st.booleans(),
        "pacing": st.sampled_from(["realtime", "none"]),
        "turn_detection": st.sampled_from(["none", "server_vad", VAD]),
        "echo_cancelled": st.booleans(),
        "voice": st.sampled_from(["tone", "hum", ""]),
        "output_format": st.sampled_from(["wav", "pcm16"]),
    },
)
INTO_THE_VOID: dict[str, dict[str, object]] = {
    "text": {"text": "Are you there?"},
    "audio_chunk": {"audio_data": loud(3)},
    "end_of_utterance": {},
    "user_interrupt": {},
}


def only(kind: str, messages: list[Message]) -> list[Message]:
    """Those of a type."""
    return [message for message in messages if message["type"] == kind]


connected = precondition(lambda self: self.client.connected)


class Course(RuleBasedStateMachine):
    """One conversation after another, in the hands of a client that does anything."""

    here: Bed
    witness: Program
    seen: Counter[str]

    # ---- beginning and end

    @initialize()
    def begin(self) -> None:
        """A new conversation."""
        self.client = Program(self.here.url)
        self.begun = 0
        """Turns that began, as far as the client knows."""
        self.surely = True
        """Whether it does know: what was sent into a socket that was lost may have begun more."""
        self.hears = False
        """Whether an utterance is open."""
        self.interrupts = True
        self.ended: set[int] = set()
        self.sound = True
        self.here.run(self.client.dial())
        self.ask("configure", input_format="pcm16", output_format="pcm16")
        known = partial(self.here.world.exists, meta_key(self.client.conversation))
        self.here.run(eventually(known, "it can be resumed"))

    def teardown(self) -> None:
        """Left alone, the conversation comes to its end, unless it is known by now that it will not."""
        try:
            if self.sound:
                self.come_to_rest()
                self.part(by_closing=False)
        finally:
            self.go_home()

    def go_home(self) -> None:
        """Drop every socket, and wait until the edge has done with all of them."""
        self.here.run(self.client.leave())
        sessions = self.here.world.sessions
        self.here.run(eventually(lambda: len(sessions) == 1, "only the witness is there"))

    def come_to_rest(self) -> None:
        """Every turn ends."""
        if not self.client.connected:
            self.resume(held=True, lost=False)
        self.ask("end_of_utterance", {"wrong_state"})
        self.here.run(self.rest())
        assert self.status()["state"] == "listening"

    async def rest(self) -> None:
        """Wait until every turn has ended and was heard out."""
        wanted = set(range(1, self.begun + 1))

        async def all_ended() -> bool:
            self.ended |= self.client.check()
            # A quick listener: what it was sent was heard.
            await self.client.send("playback", turn=max(self.ended | {1}), played_ms=1e6)
            (status,) = only("status", await self.client.ask("status"))
            return self.ended >= wanted and bool(status["state"] == "listening")

        await eventually(all_ended, f"the end of {wanted}")

    def part(self, *, by_closing: bool) -> None:
        """The client says goodbye; the conversation is over, in every log and for whoever holds its token."""
        conversation, token = self.client.conversation, self.client.tokens[-1]

        async def go() -> None:
            await (self.client.close() if by_closing else self.client.send("bye"))
            assert await self.client.closed() == 1000
            await eventually(
                partial(self.here.world.gone, session_key(conversation)), "the lease is given up"
            )

        self.here.run(go())
        self.refused(conversation, token)
        for log in Log if self.begun else ():
            last = self.here.run(tail(self.here.world.store, log_key(conversation, log)))
            assert last is not None and last.final and last.address.turn == self.begun, (log, last)
        self.seen["sessions"] += 1
        self.seen.update(m["code"] for m in self.client.told if m["type"] == "error")
        self.seen["turns"] += self.begun

    # ---- steps

    @connected
    @rule(
        voice=st.integers(0, 12),
        silence=st.integers(0, 12),
        ends=st.none() | st.booleans(),
        batch=st.booleans(),
    )
    def speak(self, voice: int, silence: int, ends: bool | None, batch: bool) -> None:
        """More input, which in either way of turn taking may begin or end an utterance."""
        more: dict[str, Any] = {} if ends is None else {"end_of_utterance": ends}
        sound = loud(voice) + quiet(silence)
        may = {"busy", "wrong_state", "bad_audio", *(["overloaded"] if batch else [])}
        self.ask("audio_chunk", may, audio_data=sound, streaming=not batch, **more)

    @connected
    @rule()
    def end_the_utterance(self) -> None:
        """If there is one."""
        heard = self.hears
        errors = self.ask("end_of_utterance", {"wrong_state"})
        assert not self.hears and not (heard and errors)

    @connected
    @rule(text=st.sampled_from(["Hello?", "你好", "\0"]))
    def type(self, text: str) -> None:
        """A typed turn."""
        heard, waiting = self.hears, self.begun - len(self.ended)
        errors = self.ask("text", {"wrong_state", "busy"}, text=text)
        assert heard or "wrong_state" not in errors  # what was found by voice is ended by it
        assert "busy" not in errors or (not self.interrupts and waiting >= MAX_WAITING)

    @connected
    @rule(changes=SETTINGS)
    def configure(self, changes: dict[str, Any]) -> None:
        """Other settings from now on."""
        self.ask("configure", **changes)

    @connected
    @rule(played_ms=st.none() | st.floats(0, 1000))
    def interrupt(self, played_ms: float | None) -> None:
        """Whatever answer there may be."""
        errors = self.ask("user_interrupt", {"wrong_state"}, played_ms=played_ms)
        assert errors or self.begun

    @connected
    @rule(back=st.integers(-1, 3), played_ms=st.floats(0, 5000))
    def report(self, back: int, played_ms: float) -> None:
        """What was heard of some turn, or would have been."""
        self.ask("playback", turn=max(1, self.begun - back), played_ms=played_ms)

    @connected
    @rule(messages=st.integers(1, 12))
    def listen(self, messages: int) -> None:
        """To some messages; if nothing is on its way, a moment passes and no more."""

        async def some() -> None:
            enough = len(self.client.told) + messages
            with suppress(TimeoutError):
                async with asyncio.timeout(0.03):
                    await self.client.until(lambda: len(self.client.told) >= enough, "more")

        self.here.run(some())

    @connected
    @rule(sends=st.lists(st.sampled_from(sorted(INTO_THE_VOID)), max_size=4))
    def lose_the_socket(self, sends: list[str]) -> None:
        """Right behind some messages, which may arrive or not."""

        async def vanish() -> None:
            for kind in sends:
                await self.client.send(kind, **INTO_THE_VOID[kind])
            self.client.cut()

        self.here.run(vanish())
        self.surely = self.surely and not sends

    @rule(held=st.booleans(), lost=st.booleans())
    def resume(self, held: bool, lost: bool) -> None:
        """Go on at another socket, whether the older one lives or not; `lost`: once more, in vain before."""
        token = self.client.tokens[-1]
        if lost:
            self.resumed(token, held=True)
            # As if the answer had been lost: the token that was shown is good until its successor is used.
            self.client.tokens.pop()
        self.resumed(token, held=held)
        (configured,) = only("configured", self.here.run(self.client.ask("configure")))
        self.interrupts = configured["interrupt"]
        self.hears = self.status()["state"] == "hearing"

    def resumed(self, token: str, *, held: bool) -> None:
        """Show the token, which is good."""
        if not held:
            self.ended.clear()
        answer = self.here.run(self.client.resume(token, held=held))
        assert answer["type"] == "resumed", answer
        assert answer["turn"] == self.begun or (not self.surely and answer["turn"] > self.begun)
        self.begun, self.surely = answer["turn"], True

    @connected
    @rule()
    def resume_too_late(self) -> None:
        """On a socket that was spoken on."""
        shown: dict[str, Any] = {
            "conversation_id": self.client.conversation,
            "resume_token": self.client.tokens[-1],
        }
        assert self.ask("resume", {"wrong_state"}, **shown) == ["wrong_state"]

    @precondition(lambda self: len(self.client.tokens) > 2)
    @rule(back=st.integers(3, 6))
    def resume_with_an_old_token(self, back: int) -> None:
        """One whose successor was used."""
        self.refused(self.client.conversation, self.client.tokens[max(0, len(self.client.tokens) - back)])

    @rule(theirs=st.booleans())
    def resume_what_is_not_ones_own(self, theirs: bool) -> None:
        """Neither another's token nor another's conversation helps."""
        self.refused(self.client.conversation, self.witness.tokens[-1] if theirs else new_token())
        self.refused(self.witness.conversation if theirs else new_conversation(), self.client.tokens[-1])

    @connected
    @rule(by_closing=st.booleans())
    def say_goodbye(self, by_closing: bool) -> None:
        """And come back as somebody new."""
        self.part(by_closing=by_closing)
        self.go_home()
        self.begin()

    @rule()
    def meanwhile_others_talk(self) -> None:
        """A turn of a conversation that has nothing to do with this one."""
        self.witness.told.clear()

        async def converse() -> None:
            assert only("error", await self.witness.ask("text", text="And you?")) == []
            await self.witness.until(lambda: bool(self.witness.check()), "the end of the turn")

        self.here.run(converse())
        assert self.witness.told[-1]["type"] == "chunked_streaming_complete"

    # ---- what must be so after each

    def ask(self, kind: str, may: AbstractSet[str] = frozenset(), **fields: object) -> list[str]:
        """Send a message; the codes of the errors that answered it, which must be among those that `may`."""
        self.sound = False
        replies = self.here.run(self.client.ask(kind, **fields))
        errors = self.look(replies)
        assert set(errors) <= may, errors
        self.begun += kind == "text" and not errors
        for configured in only("configured", replies):
            self.interrupts = configured["interrupt"]
        self.status()
        self.ended |= self.client.check()
        self.sound = True
        return errors

    def look(self, replies: list[Message]) -> list[str]:
        """What a program can know from what it was told; the codes of errors that end no turn."""
        errors = []
        for message in replies:
            match message:
                case {"type": "speech_started", "turn": turn}:
                    assert turn == self.begun + 1 and not self.hears
                    self.begun, self.hears = turn, True
                case {"type": "speech_stopped", "turn": turn}:
                    assert turn == self.begun and self.hears
                    self.hears = False
                case {"type": "error", "turn": None, "code": code}:
                    errors.append(code)
                case {"type": kind}:
                    assert kind not in ("error", "resumed", "going_away"), message
        return errors

    def status(self) -> Message:
        """Where the server says that the conversation is."""
        (status,) = only("status", self.here.run(self.client.ask("status")))
        assert status["conversation_id"] == self.client.conversation
        assert status["turn"] == self.begun
        assert status["state"] in ("listening", "hearing", "thinking", "speaking")
        return status

    def refused(self, conversation: str, token: str) -> None:
        """Somebody shows this token, and is answered as if there were nothing."""

        async def knock() -> Message:
            stranger = Program(self.here.url)
            await stranger.dial()
            own = stranger.conversation
            answer = await stranger.resume(token, conversation)
            assert stranger.conversation == own
            await stranger.leave()
            return answer

        answer = self.here.run(knock())
        assert (answer["type"], answer.get("code")) == ("error", "not_found")


@pytest.mark.timeout(400 + SESSIONS * 3)
def test_whatever_a_client_does_each_turn_ends_once_and_nobody_else_notices(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    began_s, before = time.monotonic(), resident_bytes()
    with bed(redis_url) as here:
        witness = Program(here.url)
        here.run(witness.dial())
        here.run(witness.ask("configure", pacing="none"))

        class Here(Course):
            pass

        Here.here, Here.witness, Here.seen = here, witness, Counter()
        run_state_machine_as_test(
            Here,
            settings=settings(
                max_examples=SESSIONS, stateful_step_count=STEPS, suppress_health_check=list(HealthCheck)
            ),
        )
        here.run(witness.leave())
        here.run(here.check())
    sys.stdout.write(
        f"{dict(Here.seen)} in {time.monotonic() - began_s:.0f} s,"
        f" from {before >> 20} to {resident_bytes() >> 20} MB\n"
    )
    assert [record for record in caplog.records if record.exc_info or record.name.startswith("edge")] == []
