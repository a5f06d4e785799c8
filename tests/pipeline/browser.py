"""A real Chromium with the page in it, and a proxy that can cut the page's sockets."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from playwright.async_api import ConsoleMessage, Page, WebSocket, async_playwright

from tests.conftest import AUDIO
from tests.story import Message

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

WITHIN_MS = 45_000

# Nothing here lets the page sound without a gesture: the press of the button must do.
_ARGUMENTS = [
    "--no-sandbox",
    "--headless=new",
    "--no-first-run",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
]


class Visitor:
    """The page as its user sees it, and everything that came to it or left it by WebSocket, in order.

    `audio_data` is bytes in both. `on_received` is called with each message that comes.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.received: list[Message] = []
        self.sent: list[Message] = []
        self.complaints: list[str] = []
        self.on_received: Callable[[Message], None] = lambda _: None
        page.on("console", self._listen)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("websocket", self._watch)

    @property
    def conversation(self) -> str:
        """The id of the first conversation."""
        return str(next(m for m in self.received if m["type"] == "connection")["conversation_id"])

    async def becomes(self, state: str) -> None:
        """Wait for one of the page's states."""
        await self.page.wait_for_selector(f"body[data-state={state}]", timeout=WITHIN_MS)

    async def press(self) -> None:
        """Put the mouse down on the button."""
        box = await self.page.locator("#talk").bounding_box()
        assert box is not None
        await self.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        await self.page.mouse.down()

    async def release(self) -> None:
        """Let the button go."""
        await self.page.mouse.up()

    async def type(self, text: str) -> None:
        """A typed turn."""
        await self.page.fill("#text", text)
        await self.page.press("#text", "Enter")

    async def shows(self, selector: str, text: str) -> None:
        """Wait until the last of such elements contains this text, whatever its case."""
        await self.page.wait_for_function(
            "([selector, text]) => [...document.querySelectorAll(selector)]"
            ".at(-1)?.innerText.toLowerCase().includes(text.toLowerCase())",
            arg=[selector, text],
            timeout=WITHIN_MS,
        )

    async def spoke(self, seconds: float) -> None:
        """Wait until the page has counted so much speech of its user's."""
        await self.page.wait_for_function(
            "(seconds) => parseFloat([...document.querySelectorAll('.by-voice [data-part=said]')]"
            ".at(-1)?.innerText.split(' ')[1]) >= seconds",
            arg=seconds,
            timeout=WITHIN_MS,
        )

    async def counts(self) -> dict[str, int]:
        """What the page says that it played."""
        counted: dict[str, str] = await self.page.evaluate("({...document.body.dataset})")
        return {name: int(value) for name, value in counted.items() if name not in ("state", "mode")}

    def _listen(self, message: ConsoleMessage) -> None:
        # Of a handshake that a test has cut the browser itself complains; the page must only cope with it.
        cut = message.text.startswith("WebSocket connection to") and "handshake" in message.text
        if message.type in ("error", "warning") and not cut:
            self.complaints.append(f"{message.type}: {message.text}")

    def _watch(self, socket: WebSocket) -> None:
        socket.on("framereceived", self._receive)
        socket.on("framesent", lambda data: self.sent.append(_parsed(data)))

    def _receive(self, data: str | bytes) -> None:
        message = _parsed(data)
        self.received.append(message)
        self.on_received(message)


@asynccontextmanager
async def visit(
    url: str, *, microphone: str = "granted", says: Path = AUDIO / "jfk.wav", script: str = ""
) -> AsyncIterator[Visitor]:
    """Open the page. `microphone`: `granted` or `denied`; it hears the file `says` and then silence.

    `script` runs before those of the page.
    """
    fakes = [
        "--use-fake-ui-for-media-stream" + ("=deny" if microphone == "denied" else ""),
        f"--use-file-for-fake-audio-capture={says}%noloop",
    ]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=[*_ARGUMENTS, *fakes])
        try:
            page = await browser.new_page()
            if script:
                await page.add_init_script(script)
            visitor = Visitor(page)
            await page.goto(url)
            yield visitor
        finally:
            await browser.close()


class Proxy:
    """A TCP proxy to a port of this machine. An async context manager."""

    def __init__(self, to_port: int) -> None:
        self.port = 0
        self._to_port = to_port
        self._server: asyncio.Server
        self._open: set[asyncio.StreamWriter] = set()
        self._swallows = False

    @property
    def url(self) -> str:
        """Where it listens, over HTTP."""
        return f"http://127.0.0.1:{self.port}/"

    def swallow(self) -> None:
        """Lose whatever the page sends from now on, until its connections are cut."""
        self._swallows = True

    def cut(self) -> None:
        """Drop every connection, as a bad network does."""
        self._swallows = False
        for writer in self._open:
            writer.transport.abort()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._server.close()
        self.cut()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._to_port)
        self._open |= {writer, back}
        await asyncio.gather(self._pump(reader, back, up=True), self._pump(there, writer, up=False))
        self._open -= {writer, back}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        try:
            while data := await reader.read(65536):
                if not (up and self._swallows):
                    writer.write(data)
                    await writer.drain()
        except OSError:
            writer.transport.abort()
        finally:
            writer.close()


def _parsed(data: str | bytes) -> Message:
    message: dict[str, Any] = json.loads(data)
    if "audio_data" in message:
        message["audio_data"] = base64.b64decode(message["audio_data"])
    return message
