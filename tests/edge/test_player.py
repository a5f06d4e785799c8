from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from starlette.types import Message

from edge import player as player_module
from edge.configuration import Configuration
from edge.conversation import Close, Effect
from edge.dialogue import Dialogue
from edge.outlet import Outlet
from edge.player import Player
from edge.protocols.encoding import Encoding
from edge.protocols.native import OutputFormat, Pacing
from edge.transcript import Complete, FrameLine, Line, Transcript
from shared.audio import FRAME_SAMPLES
from shared.errors import ClientError
from shared.wire import Address, Closed, Entry, Frame, Log, Payload, ReplyEnd, Semantic, SpeechEnd
from tests.conftest import eventually

TEXT = "One two three four five."
FRAME = bytes(FRAME_SAMPLES * 2)


class Stage:
    """A player, an answer for it to play, and its listener: `told` is what it read. It can stop reading."""

    def __init__(self, pacing: Pacing) -> None:
        self.told: list[str] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self.closed: list[Close] = []
        configuration = Configuration(pacing=pacing, output_format=OutputFormat.PCM16)
        self.dialogue = Dialogue("1234", "token", configuration)
        self.dialogue.conversation.begin(typed=True, interrupt=True)
        self.outlet = Outlet(self._take, Encoding.JSON)
        self.transcript = Transcript()
        self.player = Player(
            self.dialogue,
            self.outlet,
            self.transcript,
            self._carry_out,
            lead_ms=300.0,
            moved=asyncio.Event(),
        )

    def answer(self, frames: int) -> list[FrameLine | Complete]:
        """The lines of turn 1: so many frames of 100 ms, and the completion."""
        text: list[Payload] = [Semantic(TEXT, 0, len(TEXT), "sentence_end"), ReplyEnd("stop", 1, 1)]
        speech: list[Payload] = [
            Frame(0, place * FRAME_SAMPLES, place == frames - 1, FRAME) for place in range(frames)
        ]
        speech.append(SpeechEnd("stop", frames * FRAME_SAMPLES))
        lines: list[Line] = []
        for log, payloads in ((Log.TEXT, text), (Log.SPEECH, speech)):
            for seq, payload in enumerate(payloads):
                lines += self.transcript.fold(log, Entry(Address(1, seq), "w", 1, payload))
        return [line for line in lines if isinstance(line, FrameLine | Complete)]

    async def put(self, lines: Sequence[FrameLine | Complete]) -> None:
        for line in lines:
            await self.player.put(line)

    async def tells(self, told: list[str]) -> None:
        await eventually(lambda: self.told == told, f"{told} was written")

    async def _take(self, message: Message) -> None:
        await self.reads.wait()
        fields = json.loads(message["text"])
        self.told.append(str(fields.get("frame_index", fields["type"])))

    def _carry_out(self, effects: Sequence[Effect], _: ClientError | None) -> None:
        self.closed += [effect for effect in effects if isinstance(effect, Close)]


COMPLETE = "chunked_streaming_complete"


@asynccontextmanager
async def playing(pacing: Pacing = Pacing.NONE) -> AsyncIterator[Stage]:
    stage = Stage(pacing)
    running = asyncio.create_task(stage.player.run())
    yield stage
    running.cancel()


async def test_what_is_put_while_halted_stays_in_line_and_leaves_when_it_goes_on() -> None:
    async with playing() as stage:
        lines = stage.answer(4)
        await stage.put(lines[:2])
        assert stage.told == ["0", "1"]
        stage.player.halt()
        await stage.put(lines[2:])
        assert (stage.told, stage.player.playout.frames) == (["0", "1"], 2)
        stage.player.go_on()
        await stage.tells(["0", "1", "2", "3", COMPLETE])
        assert stage.closed == []  # it still plays


async def test_frames_that_wait_for_their_time_do_not_leave_while_halted() -> None:
    async with playing(Pacing.REALTIME) as stage:
        await stage.put(stage.answer(5))
        stage.player.halt()
        assert stage.told == ["0", "1", "2"]
        await eventually(lambda: stage.player.playout.heard_ms(1, _soon()) == 300.0, "all that left is heard")
        assert stage.told == ["0", "1", "2"]
        stage.player.go_on()
        await stage.tells(["0", "1", "2", "3", "4", COMPLETE])
        await eventually(lambda: stage.closed == [Close(1, "heard", whole=True)], "it is heard out")


async def test_of_frames_that_are_due_together_only_the_one_being_written_passes_a_halt() -> None:
    async with playing() as stage:
        lines = stage.answer(4)
        stage.player.halt()
        await stage.put(lines)
        stage.reads.clear()
        stage.player.go_on()
        await eventually(lambda: stage.outlet.in_line > 0, "the first is being written")
        stage.player.halt()
        stage.reads.set()
        await stage.tells(["0"])
        assert stage.player.playout.frames == 3
        stage.player.go_on()
        await stage.tells(["0", "1", "2", "3", COMPLETE])


async def test_a_closing_that_comes_while_the_completion_is_being_written_tells_nothing_more() -> None:
    async with playing() as stage:
        *frames, complete = stage.answer(2)
        await stage.put(frames)
        stage.reads.clear()
        putting = asyncio.create_task(stage.put([complete]))
        await eventually(lambda: stage.outlet.in_line > 0, "the completion is being written")
        closed = Entry(Address(1, 3), "w", 1, Closed("user_interrupt"))
        assert stage.transcript.fold(Log.SPEECH, closed) == []
        stage.reads.set()
        await putting
        assert stage.told == ["0", "1", COMPLETE]


async def test_no_frame_leaves_behind_the_end_of_its_turn() -> None:
    async with playing() as stage:
        stage.player.halt()
        await stage.put(stage.answer(2)[:2])
        assert stage.transcript.end(1)
        stage.player.go_on()
        await eventually(lambda: stage.player.playout.frames == 0, "nothing waits")
        assert stage.told == []


async def test_an_answer_that_is_told_again_and_cut_off_ends_as_its_log_says() -> None:
    async with playing() as stage:
        stage.player.halt()
        await stage.put(stage.answer(2))
        closed = Entry(Address(1, 3), "w", 1, Closed("heard"))
        assert stage.transcript.fold(Log.SPEECH, closed) == []
        assert stage.player.cut(1, whole=False).cleared_frames == 2
        await stage.tells(["audio_interrupted"])
        await eventually(lambda: not stage.player.ending, "it was sent")
        stage.player.flush(1)
        await eventually(lambda: not stage.player.ending, "it is not sent again")
        assert stage.told == ["audio_interrupted"]


async def test_of_an_answer_that_is_halted_and_then_cut_nothing_more_is_written() -> None:
    async with playing() as stage:
        lines = stage.answer(4)
        await stage.put(lines[:1])
        stage.reads.clear()
        other = asyncio.create_task(stage.outlet.send({"type": "pong"}))
        await eventually(lambda: stage.outlet.in_line > 0, "something else is being written")
        playout = stage.player.playout
        until_ms = playout.sounds_until_ms
        waiting = asyncio.create_task(stage.put(lines[1:]))
        await eventually(lambda: playout.sounds_until_ms > until_ms, "a frame waits for the socket")
        stage.player.halt()
        heard = stage.player.cut(1, whole=False)
        stage.player.go_on()
        stage.reads.set()
        await asyncio.gather(other, waiting)
        await stage.put(lines)
        assert stage.told == ["0", "pong"]
        assert 0.0 <= heard.ms <= 200.0
        assert playout.frames == 0


async def test_what_was_heard_of_a_halted_answer_is_counted_and_put_into_words() -> None:
    async with playing() as stage:
        lines = stage.answer(10)
        await stage.put(lines[:6])
        stage.player.halt()
        await stage.put(lines[6:])
        stage.player.report(1, 550.0)
        heard = stage.player.cut(1, whole=False)
        assert 550.0 <= heard.ms <= 600.0
        assert (heard.text, heard.cleared_frames) == ("One two three", 4)


async def test_frames_that_the_client_held_from_before_count_as_heard() -> None:
    stage = Stage(Pacing.NONE)
    for line in stage.answer(10)[:6]:
        assert isinstance(line, FrameLine)
        stage.player.held(line)
    heard = stage.player.cut(1, whole=False)
    assert (heard.ms, heard.text, heard.cleared_frames) == (600.0, "One two three", 0)


async def test_an_answer_that_was_sent_whole_counts_as_heard_and_plays_on() -> None:
    async with playing() as stage:
        await stage.put(stage.answer(10))
        heard = stage.player.cut(1, whole=True)
        assert (heard.ms, heard.text, heard.cleared_frames) == (1000.0, TEXT, 0)
        assert stage.player.audible()


async def test_an_answer_is_not_heard_out_while_its_completion_is_halted() -> None:
    async with playing(Pacing.REALTIME) as stage:
        lines = stage.answer(1)
        await stage.put(lines[:1])
        stage.player.halt()
        await stage.put(lines[1:])
        await eventually(lambda: stage.player.playout.heard_ms(1, _soon()) == 100.0, "its speech is heard")
        assert (stage.told, stage.closed) == (["0"], [])
        stage.player.go_on()
        await eventually(lambda: stage.closed == [Close(1, "heard", whole=True)], "it is heard out")
        assert stage.told == ["0", COMPLETE]


async def test_a_halt_that_nobody_ends_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(player_module, "LONGEST_HALT_MS", 20.0)
    async with playing() as stage:
        stage.player.halt()
        await stage.put(stage.answer(2))
        await stage.tells(["0", "1", COMPLETE])


async def test_a_halt_is_no_longer_for_being_renewed_before_anything_has_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(player_module, "LONGEST_HALT_MS", 100.0)
    async with playing() as stage:
        stage.player.halt()
        await stage.put(stage.answer(2))

        def renewed() -> bool:
            stage.player.go_on()
            stage.player.halt()
            return stage.told == ["0", "1", COMPLETE]

        await eventually(renewed, "it ends by itself")


async def test_a_halt_that_held_nothing_back_does_not_shorten_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(player_module, "LONGEST_HALT_MS", 0.0)
    async with playing() as stage:
        stage.player.halt()
        stage.player.go_on()
        monkeypatch.setattr(player_module, "LONGEST_HALT_MS", 60_000.0)
        stage.player.halt()
        await stage.put(stage.answer(2))
        await eventually(lambda: stage.player._wakes_at_ms > _soon() + 30_000.0, "the second halt lasts")
        assert stage.told == []
        stage.player.go_on()
        await stage.tells(["0", "1", COMPLETE])


async def test_an_answer_is_audible_from_its_first_frame_until_a_little_after_its_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(player_module, "ECHO_TAIL_MS", 60_000.0)
    async with playing() as stage:
        assert not stage.player.audible()
        await stage.put(stage.answer(1))
        assert stage.player.audible()
        await eventually(lambda: bool(stage.closed), "it is heard out")
        assert stage.player.audible()
        monkeypatch.setattr(player_module, "ECHO_TAIL_MS", 0.0)
        assert not stage.player.audible()


async def test_what_waits_is_not_audible_and_a_listener_who_is_behind_hears_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(player_module, "ECHO_TAIL_MS", 0.0)
    async with playing() as stage:
        lines = stage.answer(300)
        stage.player.halt()
        await stage.put(lines)
        assert not stage.player.audible()
        stage.player.go_on()
        await eventually(lambda: COMPLETE in stage.told, "all has left")
        assert stage.player.audible()
        stage.player.report(1, 30_000.0)
        assert not stage.player.audible()
        stage.player.report(1, 0.0)
        assert stage.player.audible()


def _soon() -> float:
    return player_module._now_ms()
