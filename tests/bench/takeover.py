"""How long a listener waits when a worker is killed in the middle of an answer.

Scripted engines, unpaced, a kill at the fifth token (LLM) or at the first frame of the second chunk (TTS).
The pause is the longest time between two messages of the turn. "Alone": there is no second worker, and the
dead one is started again after 0.1 s, as its supervisor does.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path

from deploy.embedded import start_server
from shared.keys import log_key
from shared.log import read_log
from shared.store import Store
from shared.wire import Address, Log, Take
from tests.bench.table import Summary, show, summary
from tests.pipeline.conftest import REPLY, witness
from tests.stack import SCRIPTED, Process, Stack
from tests.story import Message, check_whole, heard

RESTART_S = 0.1
TURNS_EACH = 20
"""One death for so many of the turns that the other benchmarks would take."""

Place = Callable[[Message], bool]

LOGS = {"llm": Log.TEXT, "tts": Log.SPEECH}
PLACES: dict[str, Place] = {
    "llm": lambda m: m["type"] == "token_chunk" and m["chunk_sequence"] == 4,
    "tts": lambda m: m["type"] == "sequential_audio" and m["chunk_index"] == 1,
}


async def run(turns: int) -> dict[str, Summary]:
    """One death for each twenty turns asked for, at least three, of each kind; in milliseconds."""
    deaths = max(3, turns // TURNS_EACH)
    rows = {}
    for role in LOGS:
        for count, name in ((2, "a second one runs"), (1, "alone")):
            pauses = [await _pause_ms(role, count) for _ in range(deaths)]
            rows[f"{role} killed, {name}"] = summary(pauses)
    show(f"longest pause of an answer whose worker is killed, {deaths} deaths each", "ms", rows)
    return rows


async def _pause_ms(role: str, count: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        server = start_server(path / "redis")
        stack = Stack(server.url, path, {**SCRIPTED, "LOG_LEVEL": "warning"})
        store = Store(server.url)
        try:
            edge = stack.start("edge")
            other = stack.start("tts" if role == "llm" else "llm")
            workers = [stack.start(role) for _ in range(count)]
            await stack.ready(edge, **{role: count, other.role: 1})
            return await _killed(stack, edge, role, workers, store)
        finally:
            await store.close()
            stack.stop()
            server.stop()


async def _killed(stack: Stack, edge: Process, role: str, workers: list[Process], store: Store) -> float:
    async with witness(stack.url(edge)) as w:
        await w.client.send_audio(bytes(3200), ends=True)
        await w.until(PLACES[role])
        entries = await read_log(store, log_key(w.conversation, LOGS[role]), Address(1, 0), 1)
        name = [entry.payload.worker for entry in entries if isinstance(entry.payload, Take)][-1]
        dead = next(worker for worker in workers if worker.env["WORKER_NAME"] == name)
        dead.kill()
        if len(workers) == 1:
            await asyncio.sleep(RESTART_S)
            stack.restart(dead)
        await w.end_of(1)
    check_whole(w.conversation, heard(w.messages)[1], REPLY)
    return w.longest_pause_s() * 1000
