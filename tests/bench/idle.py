"""What 10,000 sockets that say nothing cost: the edge, and the conversations beside them.

Scripted engines whose own time is 185 ms, and conversations that each have a short turn about once a second:
first alone, then beside sockets that were greeted and are silent (`tests.bench.crowd`, a process of its own).
Memory and CPU are those of the edge's process, out of `/proc`.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from tests.bench.process import allow_files, cpu_s, rss_mb
from tests.bench.running import running
from tests.bench.table import Summary, show, summary
from tests.microphone import CHUNK_BYTES, CHUNK_MS, Microphone, microphone

IDLE = 10_000
ACTIVE = 20
CHUNKS = 10
PAUSE_S = 0.5
SETTLED_TURNS = 2
IDLE_S = 10.0

SHORT = {"SCRIPT_TOKENS": json.dumps(["Hello", "!"])}
ROOM = {"MAX_CONVERSATIONS": str(IDLE + 2 * ACTIVE)}
FILES_BESIDE = 500


async def run(turns: int) -> dict[str, Summary]:
    """A quarter of the turns asked for in each conversation and case, at least five; in milliseconds."""
    allow_files(IDLE + FILES_BESIDE)
    each = max(5, turns // 4)
    async with running(**SHORT, **ROOM) as (stack, url), AsyncExitStack() as open_:
        edge = next(process for process in stack.processes if process.role == "edge").pid
        empty_mb = rss_mb(edge)
        mics = [
            await open_.enter_async_context(microphone(url, turn_detection="none", pacing="none"))
            for _ in range(ACTIVE)
        ]
        await _turns(mics, SETTLED_TURNS)
        alone, alone_cpu = await _measured(edge, mics, each)
        alone_mb = rss_mb(edge)
        async with _crowd(url, IDLE):
            crowd_mb = rss_mb(edge)
            before_s = cpu_s(edge)
            await asyncio.sleep(IDLE_S)
            idle_cpu = (cpu_s(edge) - before_s) / IDLE_S * 100
            beside, beside_cpu = await _measured(edge, mics, each)
            beside_mb = rss_mb(edge)
    rows = {f"{ACTIVE} alone": summary(alone), f"{ACTIVE} beside {IDLE:,}": summary(beside)}
    show(f"first audio after the end of the utterance, {each} turns of each conversation", "ms", rows)
    print("\nthe edge: memory (MB), CPU (% of a core)")
    print(f"empty {empty_mb:35.1f}")
    print(f"{ACTIVE} conversations {alone_mb:24.1f} {alone_cpu:8.1f}")
    print(f"and {IDLE:,} silent sockets {crowd_mb:16.1f} {idle_cpu:8.1f}   (nobody speaks)")
    print(f"and {IDLE:,} silent sockets {beside_mb:16.1f} {beside_cpu:8.1f}")
    print(f"a silent socket {(crowd_mb - alone_mb) / IDLE * 1000:25.1f} KB")
    memory = {"empty": empty_mb, "active": alone_mb, "idle": crowd_mb, "both": beside_mb}
    return {**rows, "MB": memory, "CPU %": {"active": alone_cpu, "idle": idle_cpu, "both": beside_cpu}}


async def _measured(edge: int, mics: list[Microphone], turns: int) -> tuple[list[float], float]:
    """First audio of every turn, and the CPU of the edge meanwhile."""
    before_s, began_s = cpu_s(edge), time.monotonic()
    firsts = await _turns(mics, turns)
    return firsts, (cpu_s(edge) - before_s) / (time.monotonic() - began_s) * 100


async def _turns(mics: list[Microphone], turns: int) -> list[float]:
    """First audio of turns in each conversation at once, in milliseconds."""
    found = await asyncio.gather(*(_converse(mic, turns) for mic in mics))
    return [first for firsts in found for first in firsts]


async def _converse(mic: Microphone, turns: int) -> list[float]:
    firsts = []
    for _ in range(turns):
        await asyncio.sleep(random.uniform(0, 2 * PAUSE_S))  # people do not speak in step
        # What came before is not wanted, and would have to be looked through.
        mic.messages.clear()
        mic.at_s.clear()
        for _ in range(CHUNKS):
            await mic.say(bytes(CHUNK_BYTES))
            await asyncio.sleep(CHUNK_MS / 1000)
        ended_s = time.monotonic()
        await mic.send("end_of_utterance")
        firsts.append((mic.when(await mic.first("sequential_audio")) - ended_s) * 1000)
        await mic.first("chunked_streaming_complete")
    return firsts


@asynccontextmanager
async def _crowd(url: str, count: int) -> AsyncIterator[None]:
    """So many silent sockets, all of them greeted."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.crowd", url, str(count), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        if not await process.stdout.readline():
            raise RuntimeError("the crowd was not let in")
        yield
        if process.returncode is not None:
            raise RuntimeError("the crowd was not let stay")
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
