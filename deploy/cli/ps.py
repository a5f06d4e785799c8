"""`parley ps`: the workers, what waits for them, and the conversations, at one moment or on and on.

It reads Redis alone, so that it shows what is there when no process answers any more.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace

from deploy.cli.overview import Backlog, Conversation, Overview, Worker, look
from deploy.cli.screen import harmless
from shared import settings
from shared.errors import StoreError
from shared.settings import Settings
from shared.store import Store
from shared.wire import Log

HELP = "list workers, backlogs and conversations, live"

AT_MOST = 20
"""How many conversations are listed where no terminal says how many fit."""

MIN_INTERVAL_S, MAX_INTERVAL_S = 0.2, 3600.0

# The other page of the terminal, without its cursor; and back to the first as it was.
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
# Written over what stands there instead of on a cleared page: nothing flickers.
HOME, REST_OF_LINE, REST_OF_PAGE = "\x1b[H", "\x1b[K", "\x1b[J"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `parley ps`."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--once", action="store_true", help="print them once, as where standard output is no terminal"
    )
    form.add_argument("--json", action="store_true", help="print them once, as one JSON object")
    parser.add_argument(
        "--interval", type=_interval_s, default=1.0, metavar="S", help="seconds from one look to the next (1)"
    )
    parser.add_argument(
        "-n",
        "--conversations",
        type=_count,
        metavar="N",
        help=f"how many conversations to list, newest first (as many as fit, or {AT_MOST})",
    )
    parser.epilog = (
        "Redis is the one in REDIS_URL, or the embedded one of PARLEY_DATA. AHEAD counts the answers that a "
        "worker began in a pause of the speaker, WASTED those of them that it threw away. "
        "exit codes: 0 shown, 1 no Redis, 2 bad usage, 130 Ctrl-C"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print them; returns the exit code."""
    if arguments.once or arguments.json or not sys.stdout.isatty():
        return asyncio.run(_print_once(arguments))
    sys.stdout.write(ENTER)
    try:
        asyncio.run(_refresh(arguments))
    finally:
        sys.stdout.write(LEAVE)
        sys.stdout.flush()
    return 0


async def _print_once(arguments: argparse.Namespace) -> int:
    """Raises `StoreError`."""
    store = Store(_url())
    try:
        found = await look(store, arguments.conversations or AT_MOST)
    finally:
        await store.close()
    if arguments.json:
        print(json.dumps(asdict(found), indent=2))
    else:
        for line in report(found):
            print(line)
    return 0


async def _refresh(arguments: argparse.Namespace) -> None:
    """Draw it again and again, for ever; what was seen last stays while Redis is away."""
    store: Store | None = None
    found: Overview | None = None
    try:
        while True:
            size = shutil.get_terminal_size()
            status = time.strftime("%H:%M:%S")
            try:
                store = await _reached(store)
                found = await look(store, arguments.conversations or size.lines)
            except StoreError as error:
                status += f", Redis is away, trying again: {error}"
            lines = [] if found is None else fitting(found, size.lines - 2)
            _draw([f"parley ps, {status}", "", *lines], size)
            await asyncio.sleep(arguments.interval)
    finally:
        if store is not None:
            await store.close()


async def _reached(store: Store | None) -> Store:
    """The store, or another in its place: an embedded server may come back on another port."""
    url = _url()
    if store is not None and store.url == url:
        return store
    if store is not None:
        await store.close()
    return Store(url)


def _url() -> str:
    return settings.redis_url(Settings.from_env(os.environ), wait_s=0)


def _draw(lines: Sequence[str], size: os.terminal_size) -> None:
    shown = [harmless(line)[: size.columns] for line in lines[: size.lines]]
    text = f"{REST_OF_LINE}\n".join(shown)
    sys.stdout.write(f"{HOME}{text}{REST_OF_LINE}{REST_OF_PAGE}")
    sys.stdout.flush()


# ---- as text


def fitting(found: Overview, room: int) -> list[str]:
    """The tables in so many lines, with as few conversations as that needs."""
    lines = list(report(found))
    if len(lines) <= room:
        return lines
    left = len(found.conversations) - (len(lines) - room) - 1  # a line says how many are not there
    return list(report(replace(found, conversations=found.conversations[: max(0, left)])))


def report(found: Overview) -> Iterator[str]:
    """The lines of the three tables."""
    yield from _table(
        ("WORKER", "ROLE", "ENGINE", "ATTACHED", "COMPUTING", "SLOTS", "AHEAD", "WASTED"),
        [_worker_cells(each) for each in found.workers],
        words=3,
    )
    if not found.workers:
        yield "no worker is running"
    yield ""
    yield from _table(
        ("BACKLOG", "LENGTH", "UNCLAIMED", "OLDEST", "PENDING"),
        [*map(_backlog_cells, found.backlogs), ("dead letters", str(found.dead_letters), "", "", "")],
        words=1,
    )
    yield ""
    yield from _table(
        ("CONVERSATION", "STATE", "HELD BY", "TURN", "AGE", "TTL", *(log.value.upper() for log in Log)),
        [_conversation_cells(each) for each in found.conversations],
        words=3,
    )
    yield from _rest(found)


def _rest(found: Overview) -> Iterator[str]:
    """What is not listed."""
    if not found.found:
        yield "no conversation"
    hidden = found.found - len(found.conversations)
    if hidden:
        yield f"{'at least ' if found.more else ''}{hidden:,} more"
    if found.looked_at < found.found:
        yield f"(the newest of {found.looked_at:,} that were looked at)"


def _worker_cells(worker: Worker) -> tuple[str, ...]:
    counts = (worker.attached, worker.computing, worker.slots, worker.started_ahead, worker.wasted_starts)
    return (worker.name, worker.role, worker.engine, *map(_number, counts))


def _backlog_cells(backlog: Backlog) -> tuple[str, ...]:
    return (
        backlog.name,
        _number(backlog.length),
        _number(backlog.unclaimed),
        _seconds(backlog.oldest_s),
        _number(backlog.pending),
    )


def _conversation_cells(each: Conversation) -> tuple[str, ...]:
    return (
        each.id,
        "?" if each.state is None else each.state.value,
        each.holder.value,
        str(each.turn),
        _seconds(each.age_s),
        _seconds(each.ttl_s),
        *(_number(each.entries[log.value]) for log in Log),
    )


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, words: int) -> Iterator[str]:
    """Lines with columns; the first `words` of them hold words, the others numbers."""
    table = [heads, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        padded = [
            cell.ljust(width) if place < words else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        yield "  ".join(padded).rstrip()


def _interval_s(text: str) -> float:
    value = float(text)
    if not MIN_INTERVAL_S <= value <= MAX_INTERVAL_S:
        raise argparse.ArgumentTypeError(f"expected {MIN_INTERVAL_S:g} to {MAX_INTERVAL_S:g} s")
    return value


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 1000:
        raise argparse.ArgumentTypeError("expected 1 to 1000")
    return value
