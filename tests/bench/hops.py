"""What one hop costs: an append by one process's writer until another connection's cursor delivers it.

Beside it, on the same server and in the same run, a bare `XADD` with a blocking `XREAD`.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from deploy.embedded import start_server
from shared.hold import new_conversation
from shared.keys import log_key
from shared.log import LogWriter
from shared.reader import Reader
from shared.store import Store
from shared.wire import Address, Frame, Log, new_tag
from tests.bench.table import Summary, show, summary

PCM = bytes(4800)
EACH_S = 0.004
HOPS_A_TURN = 10


async def run(turns: int) -> dict[str, Summary]:
    """Ten hops of a 100 ms frame for each turn asked for; in microseconds."""
    hops = turns * HOPS_A_TURN
    with tempfile.TemporaryDirectory() as folder:
        server = start_server(Path(folder))
        try:
            rows = {
                "XADD to blocking XREAD": summary(await _bare(server.url, hops)),
                "append to cursor": summary(await _pushed(server.url, hops)),
            }
        finally:
            server.stop()
    show(f"one hop of a 100 ms frame, one each 4 ms, {hops} hops", "us", rows)
    return rows


async def _pushed(url: str, hops: int) -> list[float]:
    writing, reading = Store(url), Store(url)
    reader = Reader(reading)
    running = asyncio.create_task(reader.run())
    key = log_key(new_conversation(), Log.SPEECH)
    writer = LogWriter(writing, key, 1, new_tag(), max_turn_bytes=1 << 30, ttl_s=60)
    cursor = reader.follow(key, Address(1, -1))

    async def receive() -> list[float]:
        return [(await cursor.next(), time.perf_counter())[1] for _ in range(hops)]

    receiving = asyncio.create_task(receive())
    sent = []
    for number in range(hops):
        sent.append(time.perf_counter())
        await writer.append(Frame(0, number * 2400, False, PCM))
        await asyncio.sleep(EACH_S)
    received = await receiving
    running.cancel()
    await writing.close()
    await reading.close()
    return _micros(sent, received)


async def _bare(url: str, hops: int) -> list[float]:
    writing, reading = Store(url), Store(url, timeout_s=5)

    async def receive() -> list[float]:
        received: list[float] = []
        last = b"0"
        while len(received) < hops:
            reply = await reading.call("XREAD", "BLOCK", 1000, "STREAMS", "bare", last)
            for entry_id, _ in reply[0][1] if reply else ():
                received.append(time.perf_counter())
                last = entry_id
        return received

    receiving = asyncio.create_task(receive())
    sent = []
    for _ in range(hops):
        sent.append(time.perf_counter())
        await writing.call("XADD", "bare", "*", "pcm", PCM)
        await asyncio.sleep(EACH_S)
    received = await receiving
    await writing.close()
    await reading.close()
    return _micros(sent, received)


def _micros(sent: Sequence[float], received: Sequence[float]) -> list[float]:
    return [(there - here) * 1e6 for here, there in zip(sent, received, strict=True)]
