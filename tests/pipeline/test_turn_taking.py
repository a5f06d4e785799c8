"""Turn taking over real processes: where turns begin and end, what is begun in a pause, and speaking over it.

Input is sent quicker than it was spoken, for the server counts samples; where the answer must be under way,
the next words are sent once a frame of it has come.
"""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import pairwise

import pytest

from deploy.embedded import start_server
from shared.audio import INPUT_RATE
from shared.keys import log_key, worker_key
from shared.log import read_log
from shared.store import Store
from shared.wire import Address, Chunk, Entry, Log, Open, Pause, Take, Token, UtteranceEnd
from tests import sounds
from tests.conftest import eventually
from tests.microphone import Message, Microphone, microphone, ms
from tests.pipeline.conftest import WITNESSED
from tests.pipeline.test_history import told
from tests.sounds import silence
from tests.stack import Process, Stack
from tests.story import check_gapless, heard

PADDING_MS = 300.0

# Where the recording pauses (by its loudness): after "Americans", and after "ask not".
AMERICANS_MS, ASK_MS = 2120, 3280
NOT_MS, WHAT_MS = 4300, 5420
VOICE_MS = 320
"""Where its first word begins."""

LONG = "Answer at length, and then at greater length, and go on until somebody tells you to stop. " * 3
"""As a prompt it makes the answer of the engine, which says what it was told, a quarter of a minute long."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two edges and two LLM workers, for all tests here: whoever ends one starts it again."""
    folder = tmp_path_factory.mktemp("turns")
    server = start_server(folder / "redis")
    stack = Stack(server.url, folder, {**WITNESSED, "SCRIPT_ECHO_HISTORY": "1", "LEASE_S": "0.8"})
    for role in ("edge", "edge", "llm", "llm", "tts"):
        stack.start(role)
    yield stack
    stack.stop()
    server.stop()
    print(stack.logs())  # noqa: T201 (pytest shows it where a test fails)


@pytest.fixture
async def edges(stack: Stack) -> list[Process]:
    """The edges, each of which sees all workers."""
    edges = [process for process in stack.processes if process.role == "edge"]
    for edge in edges:
        await stack.ready(edge, llm=2, tts=1)
    return edges


@pytest.fixture
def url(stack: Stack, edges: list[Process]) -> str:
    """One of the edges."""
    return stack.url(edges[0])


@pytest.fixture
async def store(stack: Stack) -> AsyncIterator[Store]:
    """The server of these tests."""
    store = Store(stack.redis_url)
    yield store
    await store.close()


# ---- where turns begin and end


async def test_pauses_shorter_than_the_silence_end_no_turn(url: str, store: Store, speech: bytes) -> None:
    async with microphone(url, silence_ms=1400, pacing="none") as mic:
        await mic.say(silence(1.0) + speech + silence(2.0))
        await mic.first("chunked_streaming_complete", turn=1)
        audio = await _audio(store, mic, 1)
    (started,), (stopped,) = mic.all("speech_started"), mic.all("speech_stopped")
    assert started["reason"] == "server_vad" and stopped["reason"] == "silence"
    assert started["audio_ms"] == pytest.approx(1000 + VOICE_MS, abs=150)
    assert sorted(heard(mic.messages)) == [1]
    # Pauses are told as they are noticed; only behind the last one nothing more came.
    assert _kinds(audio).count("pause chunk") >= 3 and _kinds(audio).endswith("chunk pause end")
    _check_is_input(audio, mic, started)


async def test_pauses_longer_than_the_silence_end_turns_and_the_next_words_close_the_answer(
    url: str, store: Store, speech: bytes
) -> None:
    parts = _cut(speech, ASK_MS - 60, WHAT_MS - 60)
    async with microphone(url, silence_ms=700, prompt=LONG) as mic:
        await mic.say(silence(1.0))
        for turn, part in enumerate(parts, 1):
            await mic.say(part)
            if turn == len(parts):
                await mic.say(silence(2.0))
            await mic.first("sequential_audio", turn=turn)
        await mic.send("user_interrupt")
        await mic.first("audio_interrupted", turn=3)
        for turn in (1, 2, 3):
            _check_is_input(await _audio(store, mic, turn), mic, await mic.first("speech_started", turn=turn))
    starts = [started["audio_ms"] - 1000 for started in mic.all("speech_started")]
    assert starts == pytest.approx([VOICE_MS, ASK_MS, WHAT_MS], abs=150)
    answers = heard(mic.messages)
    assert [answers[turn].ended for turn in (1, 2, 3)] == ["audio_interrupted"] * 3
    endings = [answers[turn].ending for turn in (1, 2)]
    assert [ending and ending["reason"] for ending in endings] == ["barge_in"] * 2


@pytest.mark.parametrize("sound", sounds.NOT_VOICES)
async def test_what_is_no_voice_begins_no_turn(sound: str, url: str, store: Store, speech: bytes) -> None:
    noise = sounds.NOT_VOICES[sound](8.0, -20.0, 0)
    async with microphone(url, pacing="none") as mic:
        await mic.say(noise)
        # What is said in the end shows that all of it was judged: turns begin in the order of the input.
        await mic.say(speech[: _bytes(AMERICANS_MS)])
        started = await mic.first("speech_started")
        assert started["turn"] == 1
        assert started["audio_ms"] == pytest.approx(ms(noise) + VOICE_MS, abs=200)
        entries = await read_log(store, log_key(mic.conversation, Log.AUDIO), Address(1, 0))
    assert all(entry.address.turn == 1 for entry in entries)


# ---- thinking ahead


async def test_an_answer_that_was_begun_in_a_pause_appears_nowhere_if_the_user_goes_on(
    stack: Stack, url: str, store: Store, speech: bytes
) -> None:
    before = await _counted(stack, store)
    async with microphone(url, silence_ms=700, pacing="none", interrupt=False) as mic:
        await mic.say(speech[: _bytes(AMERICANS_MS)] + silence(0.45))
        await eventually(
            lambda: _has_counted(stack, store, "started_ahead", before["started_ahead"] + 1),
            "the answer was begun in the pause",
        )
        assert not mic.all("speech_stopped") and not mic.all("token_chunk")
        text = await read_log(store, log_key(mic.conversation, Log.TEXT), Address(1, 0))
        assert all(isinstance(entry.payload, Take) for entry in text)
        await mic.say(speech[_bytes(ASK_MS) : _bytes(NOT_MS)] + silence(1.5))
        await mic.first("chunked_streaming_complete", turn=1)
        await eventually(
            lambda: _has_counted(stack, store, "wasted_starts", before["wasted_starts"] + 1),
            "the answer was thrown away",
        )
        await mic.say(speech[_bytes(VOICE_MS) : _bytes(AMERICANS_MS)] + silence(1.5))
        second = await mic.first("chunked_streaming_complete", turn=2)
        audio = await _audio(store, mic, 1)
        text = await read_log(store, log_key(mic.conversation, Log.TEXT), Address(1, 0), 1)
    _check_is_input(audio, mic, mic.all("speech_started", turn=1)[0])
    tokens = [entry for entry in text if isinstance(entry.payload, Token)]
    assert [entry.payload.text for entry in tokens if isinstance(entry.payload, Token)] == [
        "[1 prompt null voice null]"
    ]
    assert tokens[0].at_us >= audio[-1].at_us
    assert sum(isinstance(entry.payload, Take) for entry in text) == 1
    assert sorted(heard(mic.messages)) == [1, 2]
    # What the next turn's engine is given is all of the utterance, its pauses as long as they were told.
    spoken_s = sum(len(e.payload.pcm) for e in audio if isinstance(e.payload, Chunk)) / 2 / INPUT_RATE
    assert told(second["response_text"]).history == [(1, f"{spoken_s:.2f} s", "[1 prompt null voice null]")]


# ---- speaking over the answer


async def test_what_is_spoken_over_stops_at_once_and_is_remembered_to_the_last_word_heard(url: str) -> None:
    dice = random.Random(5)
    words = silence(0.1) + sounds.voice(1000) + silence(0.8)
    async with microphone(url, silence_ms=500, prompt=LONG) as mic:
        await mic.say(words)
        for turn in range(1, 6):
            await mic.first("sequential_audio", turn=turn, frame_index=dice.randrange(12))
            await mic.say(words)
            cut = await mic.first("audio_interrupted", turn=turn)
            last = told(await mic.reply_upto(turn + 1, "voice null]")).history[-1]
            assert (cut["reason"], last[0], last[2]) == ("barge_in", turn, cut["heard_text"])
            assert LONG.startswith(cut["heard_text"]) or cut["heard_text"] in mic.reply(turn)
        await mic.send("user_interrupt")
        await mic.first("audio_interrupted", turn=6)
    answers = heard(mic.messages)  # which fails at anything of a turn behind its last message
    assert sorted(answers) == [1, 2, 3, 4, 5, 6]
    assert any(answers[turn].ending["heard_text"] for turn in range(1, 6))  # type: ignore[index]
    for turn in range(1, 6):
        decided = mic.place(mic.all("speech_started", turn=turn + 1)[0])
        late = [m for m in mic.messages[decided:] if m["type"] == "sequential_audio" and m["turn"] == turn]
        assert not late, f"{len(late)} frames of turn {turn} after the next had begun"


async def test_a_cough_takes_no_frame_from_the_answer(url: str, speech: bytes) -> None:
    coughs = [(2, sounds.noise(0.15)), (5, sounds.voice(100)), (9, sounds.cough())]
    async with microphone(url, prompt="Speak up.") as mic:
        await mic.say(speech[: _bytes(AMERICANS_MS)] + silence(0.8))
        for frame, cough in coughs:
            await mic.first("sequential_audio", turn=1, frame_index=frame)
            await mic.say(cough + silence(0.5))
        await mic.first("chunked_streaming_complete", turn=1)
    (answer,) = heard(mic.messages).values()
    assert answer.ended == "chunked_streaming_complete" and len(mic.all("speech_started")) == 1
    check_gapless(mic.conversation, answer)


# ---- deaths


async def test_a_worker_that_dies_while_it_thinks_ahead_costs_nothing(
    stack: Stack, url: str, store: Store, speech: bytes
) -> None:
    before = await _counted(stack, store)
    async with microphone(url, silence_ms=700, pacing="none") as mic:
        await mic.say(speech[: _bytes(AMERICANS_MS)] + silence(0.45))
        await eventually(
            lambda: _has_counted(stack, store, "started_ahead", before["started_ahead"] + 1),
            "the answer was begun in the pause",
        )
        text = await read_log(store, log_key(mic.conversation, Log.TEXT), Address(1, 0))
        name = [entry.payload.worker for entry in text if isinstance(entry.payload, Take)][-1]
        dead = next(process for process in stack.processes if process.env.get("WORKER_NAME") == name)
        dead.kill()
        await store.call("DEL", worker_key(name))  # else its last words pass for those of the one to come
        try:
            await mic.say(silence(1.5))
            await mic.first("chunked_streaming_complete", turn=1)
            text = await read_log(store, log_key(mic.conversation, Log.TEXT), Address(1, 0), 1)
            audio = await _audio(store, mic, 1)
        finally:
            stack.restart(dead)
    assert sum(isinstance(entry.payload, Take) for entry in text) >= 2, "the kill came too late to matter"
    assert [entry.payload.text for entry in text if isinstance(entry.payload, Token)] == [
        "[1 prompt null voice null]"
    ]
    assert list(heard(mic.messages)) == [1] and len(mic.all("speech_started")) == 1
    _check_is_input(audio, mic, mic.all("speech_started")[0])


@pytest.mark.parametrize("place_ms", [1500, AMERICANS_MS + 420], ids=["inside a word", "in a pause"])
async def test_an_edge_that_dies_while_the_user_speaks_loses_nothing(
    place_ms: int, stack: Stack, edges: list[Process], store: Store, speech: bytes
) -> None:
    first, other = edges
    spoken, rest = _cut(speech, place_ms)
    async with microphone(stack.url(first), silence_ms=1400, pacing="none") as mic:
        await mic.say(silence(0.5) + spoken)
        started = await mic.first("speech_started", turn=1)
        if place_ms > AMERICANS_MS:
            await eventually(lambda: _has_paused(store, mic), "the pause stands in the log")
        first.kill()
        try:
            await mic.resume(stack.url(other))
            await mic.say(rest + silence(2.0))
            await mic.first("chunked_streaming_complete", turn=1)
            audio = await _audio(store, mic, 1)
        finally:
            stack.restart(first)
    assert mic.all("speech_started") == [started]
    assert [stopped["reason"] for stopped in mic.all("speech_stopped")] == ["silence"]
    assert list(heard(mic.messages)) == [1]
    _check_is_input(audio, mic, started)
    # The pause is one, whoever waits for its end.
    pauses = [entry.payload.offset_samples for entry in audio if isinstance(entry.payload, Pause)]
    assert sum(place / INPUT_RATE * 1000 < 500 + ASK_MS for place in pauses) == 1


# ---- what they share


def _bytes(place_ms: float) -> int:
    return 2 * round(place_ms * INPUT_RATE / 1000)


def _cut(pcm: bytes, *places_ms: float) -> list[bytes]:
    places = [0, *map(_bytes, places_ms), len(pcm)]
    return [pcm[start:end] for start, end in pairwise(places)]


async def _audio(store: Store, mic: Microphone, turn: int) -> list[Entry]:
    """What stands in the log of an utterance that has ended."""
    entries = await read_log(store, log_key(mic.conversation, Log.AUDIO), Address(turn, 0), turn)
    return [entry for entry in entries if not isinstance(entry.payload, Take)]


def _kinds(entries: Sequence[Entry]) -> str:
    """The kinds of entries in their order, several chunks in a row as one."""
    kinds = [entry.payload.kind for entry in entries]
    return " ".join(k for n, k in enumerate(kinds) if k != "chunk" or n == 0 or kinds[n - 1] != "chunk")


def _check_is_input(entries: Sequence[Entry], mic: Microphone, started: Message) -> None:
    """The log of an utterance is just what was sent, from a padding before its onset to its last pause."""
    assert isinstance(entries[0].payload, Open) and isinstance(entries[-1].payload, UtteranceEnd)
    place = begin = max(0, round((started["audio_ms"] - PADDING_MS) * INPUT_RATE / 1000))
    for entry in entries[1:-1]:
        payload = entry.payload
        assert isinstance(payload, Chunk | Pause), payload
        assert payload.offset_samples == place, f"{payload.kind} at {payload.offset_samples}, not {place}"
        if isinstance(payload, Chunk):
            place += len(payload.pcm) // 2
    assert entries[-1].payload.input_samples == place
    pcm = b"".join(entry.payload.pcm for entry in entries if isinstance(entry.payload, Chunk))
    assert pcm == bytes(mic.sent[2 * begin : 2 * place]), "the log holds other audio than was sent"


async def _counted(stack: Stack, store: Store) -> dict[str, int]:
    """What the LLM workers have counted, all together."""
    counted = {"started_ahead": 0, "wasted_starts": 0}
    for process in stack.processes:
        if process.role == "llm":
            said = await store.call("GET", worker_key(process.env["WORKER_NAME"]))
            for name in counted if said else ():
                counted[name] += json.loads(said)[name]
    return counted


async def _has_counted(stack: Stack, store: Store, name: str, at_least: int) -> bool:
    return (await _counted(stack, store))[name] >= at_least


async def _has_paused(store: Store, mic: Microphone) -> bool:
    entries = await read_log(store, log_key(mic.conversation, Log.AUDIO), Address(1, 0))
    return bool(entries) and isinstance(entries[-1].payload, Pause)
