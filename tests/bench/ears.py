"""What voice activity detection costs the edge: its CPU for a conversation that streams, beside one that says
itself where its utterances end.

Real time, chunks of 20 ms, msgpack, no answers: each utterance stays open. With `none`, and with `server_vad`
while somebody speaks, all input goes into Redis; with `server_vad` in silence none does. The CPU is that of
the edge's process, all its threads, out of `/proc`.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

from tests.bench.process import cpu_s
from tests.bench.running import running
from tests.bench.table import Summary, show, summary
from tests.microphone import Microphone, live, microphone
from tests.sounds import recording, silence

CONVERSATIONS = (1, 20, 50)
MEASURED_S = 10.0
SETTLED_S = 2.0
SILENCE_MS = 10_000
"""Longer than any pause here: an utterance once begun stays open."""

CASES = {
    "none": ("none", recording()),
    "server_vad, speech": ("server_vad", recording()),
    "server_vad, silence": ("server_vad", silence(11.0)),
}


async def run(_: int) -> dict[str, Summary]:
    """Ten seconds of each case; CPU in per cent of a core for each conversation, the rest in milliseconds."""
    cpu: dict[str, Summary] = {name: {} for name in CASES}
    pongs: dict[str, Summary] = {}
    for count in CONVERSATIONS:
        for name, (detection, pcm) in CASES.items():
            async with running() as (stack, url):
                edge = next(process for process in stack.processes if process.role == "edge")
                used, waited_ms = await _measured(edge.pid, url, count, detection, pcm)
            cpu[name][f"N = {count}"] = used
            pongs[f"{name}, N = {count}"] = summary(waited_ms)
    width = max(map(len, CASES))
    print("\nCPU of the edge for each of N conversations that stream chunks of 20 ms (% of a core)")
    print(f"{'':{width}}  " + " ".join(f"{f'N = {count}':>9}" for count in CONVERSATIONS))
    for name, row in cpu.items():
        print(f"{name:{width}}  " + " ".join(f"{value:9.2f}" for value in row.values()))
    show("meanwhile, a ping behind the audio is answered after", "ms", pongs)
    return {**cpu, **pongs}


async def _measured(pid: int, url: str, count: int, detection: str, pcm: bytes) -> tuple[float, list[float]]:
    """CPU of a conversation, and what each waited for an answer in the end: whether the edge keeps up."""
    turn_detection = detection if detection == "none" else {"type": detection, "silence_ms": SILENCE_MS}
    async with AsyncExitStack() as streams:
        opening = [microphone(url, turn_detection=turn_detection) for _ in range(count)]
        mics = [await streams.enter_async_context(each) for each in opening]
        for mic in mics:
            mic.put(pcm * 2)
            await streams.enter_async_context(live(mic))
            await asyncio.sleep(0.02 / count)  # people do not speak in step
        await asyncio.sleep(SETTLED_S)
        before_s = cpu_s(pid)
        await asyncio.sleep(MEASURED_S)
        used = (cpu_s(pid) - before_s) / MEASURED_S / count * 100
        return used, await asyncio.gather(*map(_ping_ms, mics))


async def _ping_ms(mic: Microphone) -> float:
    sent_s = time.monotonic()
    await mic.send("ping")
    return (mic.when(await mic.first("pong")) - sent_s) * 1000
