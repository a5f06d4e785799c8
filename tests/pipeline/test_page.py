"""The page in a real browser: talked to, typed to, cut off, refused."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest

from shared.audio import INPUT_RATE, to_wav
from shared.keys import log_key
from shared.log import read_log
from shared.store import Store
from shared.wire import Address, Chunk, Log
from tests.conftest import AUDIO, eventually
from tests.pipeline.browser import CHROMIUM, WITHIN_MS, Proxy, Visitor, visit
from tests.pipeline.conftest import REPLY, Stacks
from tests.stack import Process, get
from tests.story import Message, check_whole, heard

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")

MS_PER_CHAR = 30.0
"""A voice that speaks twice as fast as the default."""

ANSWER = "[data-part=answer]"
NOTE = "[data-part=note]"
PARTS = ("told", "coming")

# A browser that does not convert the rate of a microphone, as Firefox.
RATES_MUST_AGREE = """
    const create = AudioContext.prototype.createMediaStreamSource;
    AudioContext.prototype.createMediaStreamSource = function (stream) {
      if (this.sampleRate === 16000) throw new DOMException("other rates", "NotSupportedError");
      return create.call(this, stream);
    };
"""

# A second of a tone, in blocks as they come from a microphone.
CONVERT = """async ([rate, hertz]) => {
    const { Resampler } = await import("/resampler.js");
    const resampler = new Resampler(rate, 16000);
    const tone = (_, place) => Math.sin((2 * Math.PI * hertz * place) / rate);
    const samples = Float32Array.from({ length: rate }, tone);
    const output = [];
    for (let start = 0; start < rate; start += 128) {
        output.push(...resampler.feed(samples.slice(start, start + 128)));
    }
    return [...output, ...resampler.flush()];
}"""


async def _started(stacks: Stacks, **env: str) -> Process:
    stack = stacks(**{"SCRIPT_MS_PER_CHAR": str(MS_PER_CHAR), **env})
    edge = stack.start("edge")
    stack.start("llm")
    stack.start("tts")
    await stack.ready(edge)
    return edge


async def _resumed(visitor: Visitor, times: int) -> bool:
    return (await visitor.counts())["resumes"] == times


def _url(edge: Process) -> str:
    return f"http://127.0.0.1:{edge.env['PORT']}/"


async def _check_played(visitor: Visitor, turns: int) -> None:
    """These turns came whole, and every sample of them was played once."""
    told = heard(visitor.received)
    assert sorted(told) == list(range(1, turns + 1))
    for turn in told.values():
        check_whole(visitor.conversation, turn, REPLY, MS_PER_CHAR)
    counts = await visitor.counts()
    assert counts["misplaced"] == 0
    assert counts["frames"] == sum(len(turn.frames) for turn in told.values())
    assert counts["samples"] == sum(len(turn.speech) for turn in told.values()) // 2


async def test_what_is_said_while_the_button_is_held_is_answered(stacks: Stacks) -> None:
    edge = await _started(stacks, LLM_ENGINE="parrot", TTS_ENGINE="espeak")
    async with visit(_url(edge)) as visitor:
        await visitor.becomes("listening")
        await visitor.shows("#engines", "parrot answers, espeak speaks")
        await visitor.press()
        await visitor.becomes("hearing")
        await visitor.spoke(11.0)
        await visitor.release()
        await visitor.shows(ANSWER, "country")
        await visitor.becomes("speaking")
        await visitor.shows("[data-part=told]", "country")
        assert (await visitor.counts())["samples"] > 24000
        assert visitor.complaints == []


async def test_a_typed_turn_is_answered_and_the_page_listens_again(stacks: Stacks) -> None:
    edge = await _started(stacks)
    async with visit(_url(edge)) as visitor:
        await visitor.becomes("listening")
        for _ in range(2):
            await visitor.type("Can you hear me?")
            await visitor.becomes("speaking")
            await visitor.becomes("listening")
            await visitor.shows("[data-part=told]", REPLY)
            await visitor.shows(NOTE, "first audio")
        await _check_played(visitor, 2)
        assert visitor.complaints == []


async def test_a_socket_that_is_cut_in_mid_answer_costs_no_frame(stacks: Stacks) -> None:
    edge = await _started(stacks)
    async with Proxy(int(edge.env["PORT"])) as proxy, visit(proxy.url) as visitor:
        await visitor.becomes("listening")
        places = {0, 5, 10, 20}

        def cut(message: Message) -> None:
            if message["type"] == "sequential_audio" and message["frame_index"] in places:
                places.discard(message["frame_index"])
                proxy.cut()

        visitor.on_received = cut
        await visitor.type("Can you hear me?")
        await visitor.shows("[data-part=told]", REPLY)
        await visitor.becomes("listening")
        await _check_played(visitor, 1)
        assert not places
        # The last cut may have come when all was there already: then the page comes back without a hurry.
        await eventually(lambda: _resumed(visitor, 4), "the page has come back each time")
        assert visitor.complaints == []


@pytest.mark.parametrize("script", ["", RATES_MUST_AGREE], ids=["browser converts", "page converts"])
async def test_a_socket_that_is_cut_while_the_user_speaks_loses_no_word(
    script: str, stacks: Stacks, store: Store
) -> None:
    edge = await _started(stacks)
    async with Proxy(int(edge.env["PORT"])) as proxy, visit(proxy.url, script=script) as visitor:
        await visitor.becomes("listening")
        await visitor.page.focus("#talk")
        await visitor.page.keyboard.down("Space")
        for second in (0.6, 1.2, 1.8):
            await visitor.spoke(second)
            proxy.swallow()
            await visitor.spoke(second + 0.2)
            proxy.cut()
        await visitor.page.keyboard.up("Space")
        await visitor.shows("[data-part=told]", REPLY)
        await _check_played(visitor, 1)
        entries = await read_log(store, log_key(visitor.conversation, Log.AUDIO), Address(1, 0), 1)
        assert visitor.complaints == []
    said = {m["offset_samples"]: m["audio_data"] for m in visitor.sent if m["type"] == "audio_chunk"}
    utterance = b"".join(said[offset] for offset in sorted(said))
    assert b"".join(e.payload.pcm for e in entries if isinstance(e.payload, Chunk)) == utterance
    assert len(utterance) / 2 / 16000 > 1.7
    assert any(utterance)


async def test_the_button_stops_an_answer_at_once(stacks: Stacks) -> None:
    edge = await _started(stacks)
    async with visit(_url(edge)) as visitor:
        await visitor.becomes("listening")
        await visitor.type("Can you hear me?")
        await visitor.becomes("speaking")
        await visitor.shows("[data-part=told]", "Yes")
        await visitor.press()
        await visitor.release()
        await visitor.shows(NOTE, "interrupted")
        await visitor.becomes("listening")
        turn = heard(visitor.received)[1]
        assert turn.ending is not None and turn.ending["reason"] == "user_interrupt"
        assert 0 < turn.ending["heard_ms"] < turn.ending["cleared_frames"] * 100 + len(turn.frames) * 100
        assert visitor.complaints == []


async def test_what_is_said_into_an_answer_is_answered_instead(stacks: Stacks) -> None:
    edge = await _started(stacks)
    async with visit(_url(edge)) as visitor:
        await visitor.becomes("listening")
        await visitor.type("Can you hear me?")
        await visitor.becomes("speaking")
        await visitor.press()
        await visitor.spoke(0.5)
        await visitor.release()
        await visitor.shows("[data-part=told]", REPLY)
        turns = heard(visitor.received)
        assert turns[1].ended == "audio_interrupted"
        check_whole(visitor.conversation, turns[2], REPLY, MS_PER_CHAR)
        assert visitor.complaints == []


async def test_hands_free_turns_come_by_themselves_and_an_answer_can_be_talked_into(
    stacks: Stacks, store: Store, tmp_path: Path
) -> None:
    edge = await _started(stacks)
    with wave.open(str(AUDIO / "jfk.wav")) as recording:
        # The second of its two utterances comes while the first one is answered.
        pcm = recording.readframes(5 * INPUT_RATE)
    says = tmp_path / "two utterances.wav"
    says.write_bytes(to_wav(pcm, INPUT_RATE))
    async with Proxy(int(edge.env["PORT"])) as proxy, visit(proxy.url, says=says) as visitor:
        await visitor.becomes("listening")
        await visitor.page.check("#hands-free")
        await visitor.becomes("hearing")
        await visitor.spoke(0.5)
        proxy.swallow()
        await visitor.spoke(0.8)
        proxy.cut()
        await visitor.page.wait_for_selector("li.interrupted", timeout=WITHIN_MS)
        await visitor.shows("[data-part=told]", REPLY)
        await visitor.becomes("listening")
        told, coming = [
            await visitor.page.text_content(f"li:first-child [data-part={part}]") for part in PARTS
        ]
        assert (await visitor.counts())["misplaced"] == 0
        await visitor.page.click("#talk")
        await visitor.becomes("muted")
        entries = await read_log(store, log_key(visitor.conversation, Log.AUDIO), Address(1, 0), 1)
        assert visitor.complaints == []
    turns = heard(visitor.received)
    found = {m["turn"]: m["reason"] for m in visitor.received if m["type"] == "speech_started"}
    assert found == dict.fromkeys(sorted(turns), "server_vad")
    assert {m["reason"] for m in visitor.received if m["type"] == "speech_stopped"} == {"silence"}
    check_whole(visitor.conversation, turns[len(turns)], REPLY, MS_PER_CHAR)
    cut = turns[1].ending
    assert cut is not None and (cut["type"], cut["reason"]) == ("audio_interrupted", "barge_in")
    assert (told or "").rstrip() == cut["heard_text"]
    assert f"{told}{coming}" == turns[1].reply
    said = {m["offset_samples"]: m["audio_data"] for m in visitor.sent if m["type"] == "audio_chunk"}
    stream = b"".join(said[offset] for offset in sorted(said))
    chunks = [entry.payload for entry in entries if isinstance(entry.payload, Chunk)]
    utterance = b"".join(chunk.pcm for chunk in chunks)
    assert utterance == stream[chunks[0].offset_samples * 2 :][: len(utterance)]
    assert len(utterance) > 0.8 * INPUT_RATE * 2


async def test_without_a_microphone_the_page_says_so_and_takes_what_is_typed(stacks: Stacks) -> None:
    edge = await _started(stacks)
    async with visit(_url(edge), microphone="denied") as visitor:
        await visitor.becomes("listening")
        await visitor.press()
        await visitor.shows("#notice", "does not let this page use the microphone")
        await visitor.release()
        await visitor.type("Can you hear me?")
        await visitor.shows(ANSWER, REPLY)
        assert visitor.complaints == []


async def test_a_turn_that_is_not_taken_is_explained_and_the_next_one_is_answered(stacks: Stacks) -> None:
    stack = stacks(SCRIPT_MS_PER_CHAR=str(MS_PER_CHAR))
    edge = stack.start("edge")
    stack.start("jobs")  # Who could have batch turns is let in, though there is nobody for others.
    await eventually(lambda: get(_url(edge))[0] == 200, "the page is served")
    async with visit(_url(edge)) as visitor:
        await visitor.becomes("listening")
        await visitor.press()
        await visitor.shows(NOTE, "not taken")
        await visitor.shows("#notice", "takes no turn at the moment")
        await visitor.release()
        await visitor.type("Can you hear me?")
        await visitor.page.wait_for_selector("li.failed:nth-child(2)")
        stack.start("llm")
        stack.start("tts")
        await stack.ready(edge)
        await visitor.press()
        await visitor.page.wait_for_selector("li.by-voice >> nth=1")
        await visitor.spoke(0.5)
        await visitor.release()
        await visitor.shows("[data-part=told]", REPLY)
        await _check_played(visitor, 1)
        assert visitor.complaints == []


async def test_an_edge_that_wants_a_key_is_asked_in_again_with_one(stacks: Stacks) -> None:
    edge = await _started(stacks, PARLEY_API_KEYS="a-key-for-the-page")
    async with visit(_url(edge)) as visitor:
        await visitor.page.fill("#key", "a-key-for-the-page")
        await visitor.page.press("#key", "Enter")
        await visitor.becomes("listening")
        assert not await visitor.page.is_visible("#key")
        await visitor.page.reload()
        await visitor.becomes("listening")


async def test_a_full_edge_lets_the_page_in_as_soon_as_there_is_room(stacks: Stacks) -> None:
    edge = await _started(stacks, MAX_CONVERSATIONS="1")
    async with visit(_url(edge)) as first:
        await first.becomes("listening")
        async with visit(_url(edge)) as second:
            await second.page.wait_for_selector("#notice:not(:empty)")
            await first.page.close()
            await second.becomes("listening")
            assert await second.page.text_content("#notice") == ""


async def test_the_page_converts_rates_without_colouring_speech(stacks: Stacks) -> None:
    url = _url(stacks().start("edge"))
    await eventually(lambda: get(url)[0] == 200, "the page is served")
    async with visit(url) as visitor:
        for rate, hertz, gain in (
            (8000, 440, 1.0),
            (44_100, 440, 1.0),
            (44_100, 3000, 1.0),
            (44_100, 10_000, 0.0),
            (48_000, 3000, 1.0),
            (48_000, 10_000, 0.0),
        ):
            converted: list[float] = await visitor.page.evaluate(CONVERT, [rate, hertz])
            assert len(converted) == pytest.approx(16_000, abs=2)
            tone = np.sin(2 * np.pi * hertz * np.arange(16_000) / 16_000)
            # Away from both ends, where the tone begins and breaks off.
            difference = np.array(converted[1000:15_000]) - gain * tone[1000:15_000]
            assert np.abs(difference).max() < 0.01, f"{hertz} Hz at {rate}"
