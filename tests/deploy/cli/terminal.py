"""A command on a real terminal, and what it writes there."""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Terminal:
    """A `parley` command on a terminal of its own. `shown`: all that it has written so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.shown = ""
        self.closed = asyncio.Event()

    async def ended(self) -> int:
        """Its exit code, once everything that it wrote was read."""
        code = await self.process.wait()
        await self.closed.wait()
        return code


@asynccontextmanager
async def on_terminal(
    *words: str, columns: int = 100, lines: int = 24, env: dict[str, str] | None = None
) -> AsyncIterator[Terminal]:
    """`parley` with these words, on a terminal of this size."""
    controller, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    # Of a test that runs in a terminal itself, and would go before the size of this one.
    around = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "deploy.cli", *words),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**around, **(env or {})},
    )
    os.close(terminal)
    running = Terminal(process)
    loop = asyncio.get_running_loop()

    def read() -> None:
        try:
            data = os.read(controller, 1 << 16)
        except OSError:  # Linux: the last one on the other side has gone
            data = b""
        running.shown += data.decode(errors="replace")
        if not data:
            loop.remove_reader(controller)
            running.closed.set()

    loop.add_reader(controller, read)
    try:
        yield running
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        loop.remove_reader(controller)
        os.close(controller)
