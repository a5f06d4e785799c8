"""Turn taking as a listener has it: when an utterance is found to have begun and ended, and how soon speaking
over an answer stops it.

Scripted engines, real time, chunks of 20 ms that leave when their last sample has been spoken. The voice is a
recording; where its words begin is known from their loudness. Sounds that are no voice are sent as quickly as
they are taken, for the server counts samples.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field

from shared.audio import INPUT_RATE
from tests import sounds
from tests.bench.running import running
from tests.bench.table import Summary, show, summary
from tests.microphone import Message, Microphone, live, microphone
from tests.pipeline.test_history import told
from tests.sounds import recording, silence
from tests.story import check_gapless, heard

BYTES_A_MS = 32
FIRST_WORDS_MS = [320, 3280, 5420]
"""Where the words begin that follow a pause of a second or more in the recording."""
WORDS_MS = 1000.0
"""Of a voice: with so much of it the answers are spoken over."""
LEAD_IN_MS = 1000

TALKERS = 4
"""Conversations that are spoken over at once."""
BARGE_INS_OF = 4
"""One barge-in for so many of the turns that the other benchmarks would take."""
COUGHS_OF = 20
LONG = "Answer at length, and then at greater length, and go on until somebody tells you to stop. " * 3
"""The engine quotes its prompt: as long as this, it speaks for a quarter of a minute."""
WHOLE = "voice null]"
"""What its replies end in."""


async def run(turns: int) -> dict[str, Summary]:
    """One barge-in for each four turns asked for, one cough for each twenty; in milliseconds."""
    async with running(SCRIPT_ECHO_HISTORY="1") as (_, url):
        for silence_ms in (1400, 700):
            await _recording(url, silence_ms)
        await _noises(url)
        rows = await _barge_ins(url, max(TALKERS, turns // BARGE_INS_OF))
        await _coughs(url, max(2, turns // COUGHS_OF))
    return rows


# ---- where turns begin and end


async def _recording(url: str, silence_ms: float) -> None:
    """How far off each turn's start is, and how long after its last voice the client is told of its end."""
    pcm = silence(LEAD_IN_MS / 1000) + recording() + silence(2.0)
    async with microphone(url, silence_ms=silence_ms, prompt=LONG) as mic, live(mic):
        upto = mic.put(pcm) + len(pcm) // 2
        await asyncio.sleep(max(0.0, mic.spoken_at_s(upto) - time.monotonic()))
        last = len(mic.all("speech_started"))
        await mic.first("sequential_audio", turn=last)
        await mic.send("user_interrupt")
        await mic.first("audio_interrupted", turn=last)
    print(f"\na recording with pauses of 1.1, 1.0 and 0.5 s, silence_ms {silence_ms:g}: {last} turns")
    answers = heard(mic.messages)
    for started, stopped, true_ms in zip(
        mic.all("speech_started"), mic.all("speech_stopped"), FIRST_WORDS_MS, strict=False
    ):
        off_ms = started["audio_ms"] - LEAD_IN_MS - true_ms
        waited_ms = (mic.when(stopped) - mic.spoken_at_s(_place(stopped))) * 1000
        ending = answers[started["turn"]].ending
        print(
            f"turn {started['turn']}: begins {off_ms:+.0f} ms from its first word, {stopped['reason']} told"
            f" {waited_ms:.0f} ms after its last voice, answer ended by {ending and ending['reason']}"
        )


async def _noises(url: str) -> None:
    """What eight seconds of each sound begin."""
    for name, make in sounds.NOT_VOICES.items():
        async with microphone(url, pacing="none") as mic:
            noise = make(8.0, -20.0, 0)
            await mic.say(noise + recording()[: 2120 * BYTES_A_MS])
            first = await mic.first("speech_started")
            of_noise = [m for m in mic.all("speech_started") if m["audio_ms"] < len(noise) / BYTES_A_MS]
            print(
                f"8 s of {name} at -20 dB: {len(of_noise)} turns; the words behind are turn {first['turn']}"
            )


# ---- speaking over the answer


@dataclass
class _BargeIns:
    """Of each barge-in, in ms; what must be none is counted."""

    last_frame: list[float] = field(default_factory=list)
    started: list[float] = field(default_factory=list)
    interrupted: list[float] = field(default_factory=list)
    late_frames: int = 0
    other_prompts: int = 0
    cleared: int = 0


async def _barge_ins(url: str, count: int) -> dict[str, Summary]:
    found = _BargeIns()
    each = -(-count // TALKERS)
    async with asyncio.TaskGroup() as talkers:
        for seed in range(TALKERS):
            talkers.create_task(_talker(url, each, random.Random(seed), found))
    print(
        f"\n{len(found.started)} barge-ins: {found.late_frames} frames of the old answer behind"
        f" speech_started, {found.other_prompts} prompts that end elsewhere than at the last word heard,"
        f" {found.cleared} frames cleared"
    )
    rows = {
        "onset of the voice to the old answer's last frame": summary(found.last_frame),
        "onset of the voice to speech_started": summary(found.started),
        "onset of the voice to audio_interrupted": summary(found.interrupted),
        "the last frame to speech_started": summary(
            [start - last for start, last in zip(found.started, found.last_frame, strict=True)]
        ),
    }
    show("speaking over an answer", "ms", rows)
    return rows


async def _talker(url: str, count: int, dice: random.Random, found: _BargeIns) -> None:
    async with microphone(url, silence_ms=500, prompt=LONG) as mic, live(mic):
        mic.put(sounds.voice(WORDS_MS))
        for turn in range(1, count + 1):
            await mic.first("sequential_audio", turn=turn)
            await mic.reply_upto(turn, WHOLE)
            await asyncio.sleep(dice.uniform(0.0, 2.5))
            onset_s = mic.spoken_at_s(mic.put(sounds.voice(WORDS_MS)))
            cut = await mic.first("audio_interrupted", turn=turn)
            started = await mic.first("speech_started", turn=turn + 1)
            await mic.reply_upto(turn + 1, WHOLE)
            _note(mic, turn, onset_s, cut, started, found)
        await mic.first("sequential_audio", turn=count + 1)
        await mic.send("user_interrupt")
        await mic.first("audio_interrupted", turn=count + 1)
    heard(mic.messages)  # which fails at anything of a turn behind its last message


def _note(
    mic: Microphone, turn: int, onset_s: float, cut: Message, started: Message, found: _BargeIns
) -> None:
    frames = mic.all("sequential_audio", turn=turn)
    found.last_frame.append((mic.when(frames[-1]) - onset_s) * 1000)
    found.started.append((mic.when(started) - onset_s) * 1000)
    found.interrupted.append((mic.when(cut) - onset_s) * 1000)
    found.late_frames += sum(mic.place(frame) > mic.place(started) for frame in frames)
    found.cleared += cut["cleared_frames"]
    number, _, reply = told(mic.reply(turn + 1)).history[-1]
    found.other_prompts += (number, reply) != (turn, cut["heard_text"])


async def _coughs(url: str, count: int) -> None:
    """A short noise and a short piece of voice into each answer: all of it comes, and in order."""
    coughs = [sounds.noise(0.15), sounds.voice(100)]
    for _ in range(count):
        async with microphone(url, prompt="Speak up. " * 5) as mic, live(mic):
            mic.put(sounds.voice(WORDS_MS))
            for number, cough in enumerate(coughs):
                await mic.first("sequential_audio", turn=1, frame_index=4 + 12 * number)
                mic.put(cough)
            await mic.first("chunked_streaming_complete", turn=1)
        (answer,) = heard(mic.messages).values()
        check_gapless(mic.conversation, answer)
    print(
        f"\n{len(coughs) * count} coughs into {count} answers: each of them whole, every frame once, in order"
    )


def _place(message: Message) -> int:
    audio_ms: float = message["audio_ms"]
    return round(audio_ms * INPUT_RATE / 1000)
