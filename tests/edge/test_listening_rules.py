"""Whatever is said, and however it is cut into slices, the logs hold just what the rules say.

The rules are written down here a second time, and plainly: from which windows hold a voice to what stands in
the log, and what can be told to be no utterance.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import cycle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.detection import WINDOW_SAMPLES
from shared.keys import Role, work_key
from shared.settings import Settings
from shared.wire import Chunk, Log, Open, Pause, UtteranceEnd
from tests.edge.world import LOUD, World, running

MAX_S = 1.5
PADDING = 480
SPEECH, PAUSE, SILENCE = 4, 3, 6
"""Windows: what is speech, a pause, the end."""
VAD = {
    "type": "server_vad",
    "prefix_padding_ms": PADDING / 16,
    "min_speech_ms": SPEECH * 32 - 5,
    "pause_ms": PAUSE * 32 - 5,
    "silence_ms": SILENCE * 32 - 5,
}


@dataclass
class Said:
    """An utterance, as it must stand in the log. All places in samples."""

    onset: int
    start: int
    upto: int
    reason: str = ""
    pauses: list[int] = field(default_factory=list)


def by_the_rules(voiced: list[bool], samples: int) -> list[Said]:
    """The utterances in so many samples of input, at the end of which the client says that it has ended."""
    longest = int(MAX_S * 16_000)
    utterances: list[Said] = []
    now: Said | None = None
    onset: int | None = None
    free = voices = quiet = 0
    for window, voice in enumerate(voiced):
        begin, end = window * WINDOW_SAMPLES, (window + 1) * WINDOW_SAMPLES
        if onset is None:
            if not voice:
                continue
            onset, voices, quiet = begin, 0, 0
        voices += voice
        quiet = 0 if voice else quiet + 1
        if now is None and quiet >= PAUSE:
            onset = None
            continue
        if now is None and voices >= SPEECH:
            now = Said(onset, max(free, onset - PADDING), end)
            utterances.append(now)
        if now is None:
            continue
        in_pause = quiet > PAUSE
        if not in_pause:
            now.upto = end
            if now.upto - now.start >= longest:
                now.upto, now.reason = now.start + longest, "max_length"
            elif quiet == PAUSE:
                now.pauses.append(end)
        if not now.reason and quiet >= SILENCE:
            now.reason = "silence"
        if now.reason:
            free, onset, now = now.upto, None, None
    if now is not None:
        if quiet < PAUSE:
            now.upto = min(samples, now.start + longest)
        full = now.upto - now.start == longest
        now.reason = "max_length" if full else "client"
    return utterances


def sound(segments: list[tuple[bool, int]]) -> bytes:
    """Loud and quiet by turns; each sample says about where it lies."""
    loud = np.concatenate([np.full(samples, is_loud) for is_loud, samples in segments])
    places = np.arange(loud.size) % (LOUD // 2)
    return np.where(loud, 5000 + places, places).astype("<i2").tobytes()


async def in_the_log(world: World, pcm: bytes, slices: list[int], *, offsets: bool) -> list[Said]:
    """Say this, cut into slices; what stands in the log then, whose sound is checked here."""
    for role in Role:
        await world.store.call("DEL", work_key(role))  # Nobody takes these turns, and the edge would notice.
    async with world.client(turn_detection=VAD) as client:
        place, sizes = 0, cycle(slices)
        while place < len(pcm) // 2:
            piece = pcm[2 * place : 2 * (place + next(sizes))]
            where = {"offset_samples": place} if offsets else {}
            await client.send("audio_chunk", audio_data=piece, **where)
            place += len(piece) // 2
        await client.send("end_of_utterance")
        await client.send("ping")
        await client.until("pong")
        entries = await world.entries(client, Log.AUDIO)
        onsets = [m["audio_ms"] * 16 for m in client.received if m["type"] == "speech_started"]
    utterances: list[Said] = []
    for entry in entries:
        match entry.payload:
            case Open():
                onset = int(onsets[entry.address.turn - 1])
                utterances.append(Said(onset, -1, -1))
            case Chunk(offset_samples=at, pcm=piece):
                if utterances[-1].start < 0:
                    utterances[-1].start = utterances[-1].upto = at
                assert at == utterances[-1].upto
                utterances[-1].upto += len(piece) // 2
                assert piece == pcm[2 * at : 2 * utterances[-1].upto]
            case Pause(offset_samples=at):
                assert at == utterances[-1].upto
                utterances[-1].pauses.append(at)
            case UtteranceEnd(reason=reason, input_samples=at):
                assert at == utterances[-1].upto
                utterances[-1].reason = reason
    return utterances


@pytest.fixture
async def world(redis_url: str) -> AsyncIterator[World]:
    """An edge with short utterances."""
    async with running(redis_url, Settings(max_utterance_s=MAX_S)) as world:
        yield world


segments = st.lists(
    st.tuples(
        st.booleans(),
        st.one_of(st.integers(1, 8 * WINDOW_SAMPLES), st.sampled_from([512, 1536, 2048, 3072, 30_000])),
    ),
    min_size=1,
    max_size=14,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    segments=segments,
    slices=st.lists(st.one_of(st.integers(1, 2000), st.just(100_000)), min_size=1, max_size=5).filter(
        lambda sizes: sum(sizes) >= 200
    ),
    offsets=st.booleans(),
)
async def test_the_log_holds_what_the_rules_say_however_the_input_is_cut(
    world: World, segments: list[tuple[bool, int]], slices: list[int], offsets: bool
) -> None:
    pcm = sound(segments)
    whole = len(pcm) // 2 // WINDOW_SAMPLES
    windows = np.frombuffer(pcm, "<i2")[: whole * WINDOW_SAMPLES].reshape(-1, WINDOW_SAMPLES)
    voiced = [bool(loud) for loud in (windows.max(axis=1, initial=0) > LOUD)]
    assert await in_the_log(world, pcm, slices, offsets=offsets) == by_the_rules(voiced, len(pcm) // 2)
