"""What the pipeline adds between the end of an utterance and the first audio frame at the client.

Scripted engines, one conversation, the utterance in 20 ms chunks of real time, msgpack, `pacing: none`. Their
own time is 185 ms: the first token after 95, "!" 40 later, and 50 to speak "Hello!". The floor beside it, in
the same run, is a bare socket server in one process that does nothing but wait as they do: what the machine,
its timers and a socket cost by themselves.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgpack
import websockets
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.server import ServerConnection, serve

from deploy.embedded import start_server
from tests.bench.table import Summary, show, summary
from tests.stack import SCRIPTED, Stack

MODELS_MS = 185.0
CHUNK_MS = 20
CHUNKS = 10
SILENCE = bytes(CHUNK_MS * 16 * 2)

Message = dict[str, Any]


async def run(turns: int) -> dict[str, Summary]:
    """Measure both; first audio in ms after the end of the utterance, and what that adds to the models."""
    floor = await _against_floor(turns)
    parley = await _against_parley(turns)
    rows = {"bare socket (floor)": summary(floor), "parley": summary(parley)}
    show(f"first audio after the end of the utterance, {turns} turns", "ms", rows)
    added = {name: {key: value - MODELS_MS for key, value in row.items()} for name, row in rows.items()}
    show("added to the models' own 185 ms", "ms", added)
    return {**rows, **{f"{name}, added": row for name, row in added.items()}}


async def _against_parley(turns: int) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        server = start_server(path / "redis")
        stack = Stack(server.url, path, {**SCRIPTED, "LOG_LEVEL": "warning"})
        try:
            edge = stack.start("edge")
            stack.start("llm")
            stack.start("tts")
            await stack.ready(edge)
            return await _measure(stack.url(edge) + "?encoding=msgpack", turns)
        finally:
            stack.stop()
            server.stop()


async def _against_floor(turns: int) -> list[float]:
    async def answer(socket: ServerConnection) -> None:
        async for raw in socket:
            if msgpack.unpackb(raw)["type"] == "end_of_utterance":
                await asyncio.sleep(MODELS_MS / 1000)
                await socket.send(msgpack.packb({"type": "sequential_audio", "audio_data": bytes(4800)}))
                await socket.send(msgpack.packb({"type": "chunked_streaming_complete"}))

    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serve(answer, "127.0.0.1", 0, compression=None))
        port = next(iter(server.sockets)).getsockname()[1]
        return await _measure(f"ws://127.0.0.1:{port}", turns, greeted=False)


async def _measure(url: str, turns: int, *, greeted: bool = True) -> list[float]:
    async with websockets.connect(url, compression=None, max_size=None) as socket:
        if greeted:
            await greet(socket)
        return [await first_audio_ms(socket) for _ in range(turns)]


async def greet(socket: ClientConnection) -> None:
    """Begin a conversation."""
    await _until(socket, "connection")
    await _send(socket, type="configure", input_format="pcm16", output_format="pcm16", pacing="none")
    await _until(socket, "configured")


async def first_audio_ms(socket: ClientConnection) -> float:
    """Have one turn, to its end; its first audio after the end of the utterance."""
    started = asyncio.get_running_loop().time()
    for number in range(CHUNKS):
        await _send(socket, type="audio_chunk", audio_data=SILENCE, end_of_utterance=False)
        await _sleep_until(started + (number + 1) * CHUNK_MS / 1000)
    ended = time.perf_counter()
    await _send(socket, type="end_of_utterance")
    await _until(socket, "sequential_audio")
    after_ms = (time.perf_counter() - ended) * 1000
    await _until(socket, "chunked_streaming_complete")
    return after_ms


async def _send(socket: ClientConnection, **message: object) -> None:
    await socket.send(msgpack.packb(message))


async def _until(socket: ClientConnection, kind: str) -> Message:
    while True:
        message: Message = msgpack.unpackb(await socket.recv())
        if message["type"] == kind:
            return message
        if message["type"] == "error":
            raise RuntimeError(f"the server answered {message}")


async def _sleep_until(when: float) -> None:
    await asyncio.sleep(max(0.0, when - asyncio.get_running_loop().time()))
