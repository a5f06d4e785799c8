"""The endless input: what is kept of it, and what is said again; pure, and with edges that lose sockets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.cli.client import ParleyClient
from deploy.cli.outbox import Format, Outbox
from deploy.cli.stream import Stream
from tests.conftest import eventually
from tests.deploy.cli.fake_edge import World, serving

Message = Mapping[str, Any]

PCM16 = Format("pcm16")
SLICE = bytes(range(1, 65)) * 10
SILENCE = bytes(640)
SAMPLES = 320
ENDS = {"type": "end_of_utterance"}


def said(stream: Stream) -> list[Message]:
    """Everything that is due on this socket."""
    messages = []
    while (message := stream.next()) is not None:
        messages.append(message)
    return messages


def places(messages: list[Message]) -> list[int | None]:
    """Where the slices lie; `None` for an end of the utterance."""
    return [message.get("offset_samples") for message in messages]


def ack(samples: int) -> Message:
    return {"type": "audio_ack", "turn": 0, "input_samples": samples}


def started(turn: int = 1) -> Message:
    return {"type": "speech_started", "turn": turn, "audio_ms": 0.0, "reason": "server_vad"}


def feed(stream: Stream, slices: int) -> None:
    for _ in range(slices):
        stream.feed(SLICE, PCM16)


def test_each_slice_says_where_it_lies_and_ends_nothing() -> None:
    stream = Stream()
    feed(stream, 3)
    messages = said(stream)
    assert places(messages) == [0, 320, 640]
    assert not any(message["end_of_utterance"] for message in messages)
    assert said(stream) == []


def test_only_what_no_ack_covers_is_kept_and_said_again() -> None:
    stream = Stream()
    feed(stream, 4)
    said(stream)
    stream.hear(ack(2 * SAMPLES + 1))
    assert len(stream) == 2
    stream.rewind(0)
    assert places(said(stream)) == [640, 960]


def test_what_the_log_holds_after_a_reconnect_is_not_said_again() -> None:
    stream = Stream()
    feed(stream, 4)
    said(stream)
    stream.rewind(3 * SAMPLES)
    assert places(said(stream)) == [960]


def test_no_more_is_kept_than_allowed_and_what_was_open_ends_at_the_gap() -> None:
    stream = Stream(kept_s=0.1)
    feed(stream, 1)
    said(stream)
    stream.hear(started())
    feed(stream, 9)
    assert len(stream) == 5
    assert stream.lost_samples == 5 * SAMPLES
    stream.rewind(SAMPLES)
    assert places(said(stream)) == [None, 1600, 1920, 2240, 2560, 2880]


def test_an_end_at_a_gap_where_nothing_was_open_is_no_error() -> None:
    stream = Stream(kept_s=0.02)
    feed(stream, 3)
    stream.rewind(0)
    assert said(stream)[0] == ENDS
    refused = {"type": "error", "code": "wrong_state", "turn": None}
    assert not stream.hear(refused)
    assert stream.hear(refused), "only the one that answers this end"


def test_silence_that_was_acknowledged_and_stands_in_no_log_is_no_gap() -> None:
    stream = Stream()
    feed(stream, 10)
    said(stream)
    stream.hear(started())
    stream.hear({"type": "speech_stopped", "turn": 1, "audio_ms": 40.0, "reason": "silence"})
    stream.hear(ack(9 * SAMPLES))
    stream.rewind(2 * SAMPLES)
    assert places(said(stream)) == [2880]


def test_an_utterance_whose_end_redis_forgot_ends_where_it_has_no_more() -> None:
    stream = Stream()
    feed(stream, 10)
    said(stream)
    stream.hear(started())
    stream.hear(ack(9 * SAMPLES))
    stream.rewind(2 * SAMPLES)
    assert places(said(stream)) == [None, 2880]


def test_an_answer_shows_that_its_utterance_is_over_and_an_older_one_shows_nothing() -> None:
    def after(turn: int) -> list[int | None]:
        stream = Stream()
        feed(stream, 10)
        said(stream)
        stream.hear(started(2))
        stream.hear(ack(9 * SAMPLES))
        stream.hear({"type": "token_chunk", "turn": turn, "address": f"text:{turn}-1"})
        stream.rewind(0)
        return places(said(stream))

    assert after(2) == [2880]
    assert after(1) == [None, 2880]


def test_the_clients_own_end_goes_out_in_its_place_and_once() -> None:
    stream = Stream()
    feed(stream, 1)
    stream.end()
    feed(stream, 1)
    assert places(said(stream)) == [0, None, 320]
    stream.rewind(0)
    assert places(said(stream)) == [0, 320]


def test_a_new_conversation_gets_what_is_kept() -> None:
    stream = Stream()
    feed(stream, 4)
    said(stream)
    stream.hear(ack(2 * SAMPLES))
    stream.restart()
    assert places(said(stream)) == [640, 960]


def test_input_goes_on_behind_what_was_said_by_hand() -> None:
    stream = Stream()
    stream.feed(SLICE, PCM16, 1000)
    stream.feed(SLICE, PCM16, 1000)
    stream.feed(SLICE, PCM16, 5000)
    assert places(said(stream)) == [1000, 1320, None, 5000]


@given(st.sampled_from([8000, 16_000, 44_100, 48_000]), st.lists(st.integers(0, 400), max_size=60))
def test_places_do_not_drift_whatever_the_rate(rate: int, lengths: list[int]) -> None:
    stream = Stream()
    for samples in lengths:
        stream.feed(bytes(2 * samples), Format("pcm16", rate))
    assert stream.place == sum(lengths) * 16_000 // rate


def test_a_turn_that_the_server_began_is_none_that_was_typed() -> None:
    outbox = Outbox()
    outbox.text("and this?")
    outbox.next()
    outbox.hear(started(1))
    assert len(outbox) == 1, "it may still be lost"
    outbox.hear({"type": "token_chunk", "turn": 2, "address": "text:2-1"})
    assert len(outbox) == 0


# ---- over sockets


def test_an_utterance_whose_turn_has_ended_in_an_error_does_not_stand_open() -> None:
    stream = Stream()
    stream.hear(started())
    stream.hear({"type": "error", "code": "engine_failed", "turn": 1})
    feed(stream, 4)
    said(stream)
    stream.hear(ack(4 * SAMPLES))
    feed(stream, 1)
    stream.rewind(2 * SAMPLES)
    assert places(said(stream)) == [1280], "there is no gap in an utterance to be ended"


async def converse(client: ParleyClient) -> list[str]:
    """Two utterances in an endless stream; the addresses of what comes, up to the second answer's end."""
    await client.configure(input_format="pcm16", turn_detection="server_vad")
    for data, times in ((SILENCE, 4), (SLICE, 8), (SILENCE, 8), (SLICE, 3), (SILENCE, 3), (SLICE, 2)):
        for _ in range(times):
            await client.stream(data)
    received: list[str] = []
    while received.count("end") < 2:
        await client.stream(SILENCE)
        message = await anext(client)
        if message["type"] == "chunked_streaming_complete":
            received.append("end")
    return received


FIRST = SLICE * 8
SECOND = SLICE * 3 + SILENCE * 3 + SLICE * 2


async def test_the_server_finds_the_utterances_in_a_stream() -> None:
    world = World()
    async with serving(world) as url, ParleyClient(url) as client:
        await converse(client)
        assert client.lost_ms == 0
    assert world.heard == [FIRST, SECOND]


@pytest.mark.parametrize("cut", range(1, 60, 3))
async def test_a_socket_cut_after_any_message_of_the_server_costs_no_word(cut: int) -> None:
    world = World(cuts=[cut, cut + 1])
    async with serving(world) as url, ParleyClient(url) as client:
        await converse(client)
    assert world.heard == [FIRST, SECOND]


@pytest.mark.parametrize("cut", range(2, 30, 3))
async def test_a_socket_cut_before_any_slice_is_taken_costs_no_word(cut: int) -> None:
    world = World(deaf_cuts=[cut])
    async with serving(world) as url, ParleyClient(url) as client:
        await converse(client)
        assert client.resumes <= 1
    assert world.heard == [FIRST, SECOND]


async def test_an_utterance_can_be_ended_by_hand_and_a_question_asked_in_one_piece_after_it() -> None:
    world = World()
    async with serving(world) as url, ParleyClient(url) as client:
        await client.configure(input_format="pcm16", turn_detection="server_vad")
        await client.stream(SLICE)
        await client.end_utterance()
        await client.until("chunked_streaming_complete")
        await client.configure(turn_detection="none")
        await client.send_audio(SLICE * 2, ends=True)
        await client.until("chunked_streaming_complete")
        await eventually(lambda: client.unproven == 0, "all is known to have arrived")
    assert world.heard == [SLICE, SLICE * 2]
    assert world.position == 3 * SAMPLES
