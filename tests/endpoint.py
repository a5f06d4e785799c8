"""An OpenAI-compatible endpoint on loopback that does as a test tells it, and remembers what it was asked.

It writes HTTP/1.1 by hand, so that an answer can be cut anywhere.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

MODEL = "mistralai/Voxtral-Mini-3B-2507"
LIMIT_BYTES = 1 << 24
WORDS = ("Hello", "!", " Yes", ",", " I", " can", " hear", " you", ".")


@dataclass(eq=False)
class Call:
    """One request, and the way back to who made it."""

    method: str
    path: str
    headers: dict[str, str]
    content: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    left: bool = False
    """Whether the client went before it had the whole answer."""

    @property
    def json(self) -> dict[str, Any]:
        """The body."""
        body: dict[str, Any] = json.loads(self.content)
        return body

    async def send(self, data: bytes) -> None:
        """Send bytes, in a packet of their own."""
        self.writer.write(data)
        await self.writer.drain()

    async def begin(self, status: int = 200, **headers: str) -> None:
        """Send the head of an answer that comes in chunks."""
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "Transfer-Encoding: chunked"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.send("\r\n".join([*lines, "", ""]).encode())

    async def chunk(self, data: bytes) -> None:
        """Send a part of the answer."""
        await self.send(b"%x\r\n%s\r\n" % (len(data), data))

    async def say(self, text: str | None, **choice: Any) -> None:
        """Send an event with a piece of text, as a packet."""
        await self.chunk(event(text, **choice))

    async def end(self) -> None:
        """Say that the answer is whole."""
        await self.send(b"0\r\n\r\n")

    async def wait_until_left(self) -> None:
        """Say nothing more until the client goes."""
        self.left = not await self.reader.read(1)


Answer = Callable[[Call], Awaitable[None]]


def event(text: str | None, **choice: Any) -> bytes:
    """A server-sent event with a piece of text. Half a character stays one: the JSON is ASCII."""
    choices = [{"index": 0, "delta": {"content": text}, "finish_reason": None} | choice]
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "choices": choices}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def says(*words: str | None, finish: str | None = "stop") -> Answer:
    """Answers with these words, each in a packet, and a `finish_reason`."""

    async def answer(call: Call) -> None:
        await call.begin(Content_Type="text/event-stream")
        await call.say("", delta={"role": "assistant", "content": ""})
        for word in words:
            await call.say(word)
        if finish is not None:
            await call.say(None, delta={}, finish_reason=finish)
            await call.chunk(DONE)
        await call.end()

    return answer


def sends(*pieces: bytes) -> Answer:
    """Answers with these bytes, each in a packet."""

    async def answer(call: Call) -> None:
        await call.begin(Content_Type="text/event-stream")
        for piece in pieces:
            await call.chunk(piece)
            await asyncio.sleep(0)
        await call.end()

    return answer


def refuses(status: int, message: str = "no", **headers: str) -> Answer:
    """Answers with an error in the usual form."""

    async def answer(call: Call) -> None:
        await call.begin(status, Content_Type="application/json", **headers)
        await call.chunk(json.dumps({"error": {"message": message, "code": status}}).encode())
        await call.end()

    return answer


def hangs(*words: str) -> Answer:
    """Says these words, and then nothing until the client goes."""

    async def answer(call: Call) -> None:
        if words:
            await call.begin(Content_Type="text/event-stream")
        for word in words:
            await call.say(word)
        await call.wait_until_left()

    return answer


def breaks(*words: str) -> Answer:
    """Says these words, and resets the connection."""

    async def answer(call: Call) -> None:
        await call.begin(Content_Type="text/event-stream")
        for word in words:
            await call.say(word)
        call.writer.transport.abort()

    return answer


@dataclass(eq=False)
class Endpoint:
    """Listens on a port of its own. Answers with `answers`, one each; after them, with `words`.

    `continues`: what becomes of a request to go on with an answer begun: `goes on`, `begins anew`, `refuses`.
    `takes_system`: whether a system message may stand beside sound. `hold_at`: before that word, `release` is
    waited for.
    """

    words: tuple[str, ...] = WORDS
    owned_by: str = "vllm"
    continues: str = "goes on"
    takes_system: bool = True
    hold_at: int | None = None
    models: Answer | None = None
    answers: list[Answer] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    connections: int = 0
    release: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=LIMIT_BYTES)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks)

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    @property
    def asked(self) -> list[Call]:
        """The requests for an answer."""
        return [call for call in self.calls if call.path == "/v1/chat/completions"]

    @property
    def looked_up(self) -> int:
        """How often the models were asked for."""
        return sum(call.path == "/v1/models" for call in self.calls)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        # At the end of a test whatever still waits is cancelled, and that is no error.
        with suppress(asyncio.CancelledError):
            await self._serve_calls(reader, writer)
        self._tasks.discard(task)
        writer.transport.abort()

    async def _serve_calls(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (call := await _read(reader, writer)) is not None:
            self.calls.append(call)
            try:
                await self._answer(call)
            except ConnectionError:
                call.left = True
            if call.left or writer.is_closing():
                return

    async def _answer(self, call: Call) -> None:
        if call.path == "/v1/models":
            await (self.models or self._list)(call)
        elif self.answers:
            await self.answers.pop(0)(call)
        else:
            await self._complete(call)

    async def _list(self, call: Call) -> None:
        listing = {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": self.owned_by}]}
        await call.begin(Content_Type="application/json")
        await call.chunk(json.dumps(listing).encode())
        await call.end()

    async def _complete(self, call: Call) -> None:
        body = call.json
        said = ""
        if body.get("continue_final_message"):
            if self.continues == "refuses":
                return await refuses(400, "continue_final_message is not permitted")(call)
            if self.continues == "goes on":
                assert not body["add_generation_prompt"]
                said = body["messages"][-1]["content"]
        if not self.takes_system and body["messages"][0]["role"] == "system" and sounds(body):
            return await refuses(400, "Found system messages and audio chunks")(call)
        await call.begin(Content_Type="text/event-stream")
        place = 0
        for number, word in enumerate(self.words):
            if number == self.hold_at:
                await self.release.wait()
            place += len(word)
            if place > len(said) and number < body["max_tokens"]:
                await call.say(word)
        await call.say(None, delta={}, finish_reason="stop")
        await call.chunk(DONE)
        await call.end()


def sounds(body: Mapping[str, Any]) -> list[bytes]:
    """The WAV files in a request."""
    return [
        base64.b64decode(part["input_audio"]["data"], validate=True)
        for message in body["messages"]
        if isinstance(message["content"], list)
        for part in message["content"]
        if part["type"] == "input_audio"
    ]


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Call | None:
    """The next request on a connection; `None` where there is none."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")[:-2]
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        content = await reader.readexactly(int(headers.get("content-length", 0)))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    method, path, _ = first.split(" ")
    return Call(method, path, headers, content, reader, writer)
