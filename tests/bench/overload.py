"""What an edge does with ten times the conversations that it has room for.

Scripted engines, `MAX_CONVERSATIONS=20`. First 20 conversations alone, each turn after turn: calm. Then 200
clients come within 5 s: the first 20 are let in and talk like those before, the others are refused and gone.
A refusal is timed from before the TCP connection is made, so from before the first byte of the request.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import websockets

from tests.bench.first_audio import first_audio_ms, greet
from tests.bench.running import running
from tests.bench.table import Summary, show, summary

PLACES = 20
ARRIVALS = 200
WITHIN_S = 5.0
CALM_S = 10.0
AFTERWARDS_S = 10.0
TURNS_EACH = 100
"""One rush for so many of the turns that the other benchmarks would take."""

REFUSED_WITHIN_MS = 200.0
SLOWER_MS = 25.0

HANDSHAKE = (
    "GET /ws HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@dataclass
class Crowd:
    """Clients of one edge, and what they met. Times are monotonic, in seconds."""

    url: str
    refused_ms: list[float] = field(default_factory=list)
    turns: list[tuple[float, float]] = field(default_factory=list)
    """When each began, and its first audio in ms."""
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def talk(self) -> None:
        """One that is let in: it talks until all is over."""
        async with websockets.connect(f"{self.url}?encoding=msgpack", compression=None) as socket:
            await greet(socket)
            while not self.over.is_set():
                began_s = time.monotonic()
                self.turns.append((began_s, await first_audio_ms(socket)))

    async def knock(self) -> None:
        """One that is refused."""
        came_s = time.monotonic()
        host = urlsplit(self.url).netloc
        reader, writer = await asyncio.open_connection(*host.split(":"))
        writer.write(HANDSHAKE.format(host=host).encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        self.refused_ms.append((time.monotonic() - came_s) * 1000)
        writer.close()
        assert head.startswith(b"HTTP/1.1 503") and b"retry-after:" in head.lower(), head
        assert json.loads(body)["retry_after_ms"] > 0


async def run(turns: int) -> dict[str, Summary]:
    """One rush for each hundred turns asked for; in milliseconds, but for the last row."""
    refused: list[float] = []
    calm: list[float] = []
    rush: list[float] = []
    calm_again_s: list[float] = []
    async with running(MAX_CONVERSATIONS=str(PLACES)) as (_, url):
        for _ in range(max(1, turns // TURNS_EACH)):
            alone, _ = await _visited(url, PLACES, CALM_S)
            crowd, ended_s = await _visited(url, ARRIVALS, AFTERWARDS_S)
            usual = [ms for _, ms in alone.turns]
            refused += crowd.refused_ms
            calm += usual
            rush += [ms for began_s, ms in crowd.turns if began_s < ended_s]
            calm_again_s.append(_calm_again_s(crowd, ended_s, summary(usual)["p99"] + SLOWER_MS))
    rows = {
        "refused after": summary(refused),
        "first audio, calm": summary(calm),
        "first audio, in the rush": summary(rush),
    }
    show(f"{ARRIVALS} clients in {WITHIN_S:g} s, room for {PLACES}", "ms", rows)
    in_time = sum(ms <= REFUSED_WITHIN_MS for ms in refused) / len(refused)
    slower_ms = rows["first audio, in the rush"]["p99"] - rows["first audio, calm"]["p99"]
    print(f"{in_time:.1%} of {len(refused)} refused within {REFUSED_WITHIN_MS:g} ms")
    print(f"first audio p99 {slower_ms:+.1f} ms; calm again {max(calm_again_s):.1f} s after the last came")
    return {**rows, "calm again, in seconds": summary(calm_again_s)}


async def _visited(url: str, arrivals: int, stay_s: float) -> tuple[Crowd, float]:
    """So many clients, who stay for so long after the last has come; and when that was."""
    crowd = Crowd(url)
    async with asyncio.TaskGroup() as clients:
        began_s = time.monotonic()
        for number in range(arrivals):
            await asyncio.sleep(began_s + number * WITHIN_S / ARRIVALS - time.monotonic())
            clients.create_task(crowd.talk() if number < PLACES else crowd.knock())
        ended_s = time.monotonic()
        await asyncio.sleep(stay_s)
        crowd.over.set()
    return crowd, ended_s


def _calm_again_s(crowd: Crowd, ended_s: float, limit_ms: float) -> float:
    """How long after the rush the last turn began whose first audio was over the limit, in seconds."""
    late = [began_s - ended_s for began_s, ms in crowd.turns if began_s >= ended_s and ms > limit_ms]
    return max(late, default=0.0)
