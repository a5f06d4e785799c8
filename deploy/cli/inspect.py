"""`parley inspect`: what stands in the logs of a conversation, as one timeline, and a summary of each turn.

It reads Redis alone, so that it shows a conversation whose processes are all dead as well.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from deploy.cli.entries import entry_of
from deploy.cli.timeline import Row, Summary, details, merged, rows, summaries
from shared import settings
from shared.errors import EntryGarbled, StoryForked
from shared.keys import is_conversation, log_key
from shared.reader import Cursor, Reader
from shared.settings import Settings
from shared.store import Store
from shared.wire import Address, Entry, Log

HELP = "print a conversation's timeline from its logs"

NOTHING_THERE = 1
BAD_USAGE = 2

TOGETHER_S = 0.25
"""How long an entry waits for others, with `--follow`."""

Logs = dict[Log, list[Entry]]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `parley inspect`."""
    parser.add_argument("conversation", metavar="CONVERSATION", help="its id, 16 hexadecimal digits")
    parser.add_argument("--turn", type=int, metavar="N", help="only this turn")
    parser.add_argument("--all", action="store_true", help="a line for each entry, audio too")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="entries and summaries as one JSON object")
    form.add_argument("--follow", action="store_true", help="go on with what is written from now on")
    parser.epilog = (
        "Redis is the one in REDIS_URL, or the embedded one of PARLEY_DATA. Times are the writers' clocks. "
        "exit codes: 0 shown, 1 there is no such conversation or no Redis, 2 bad usage"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print it; returns the exit code."""
    if not is_conversation(arguments.conversation):
        print(f"parley: {arguments.conversation!r} is no conversation's id", file=sys.stderr)
        return BAD_USAGE
    if arguments.turn is not None and arguments.turn < 1:
        print("parley: turns count from 1", file=sys.stderr)
        return BAD_USAGE
    url = settings.redis_url(Settings.from_env(os.environ), wait_s=0)
    return asyncio.run(_inspect(url, arguments))


async def _inspect(url: str, arguments: argparse.Namespace) -> int:
    store = Store(url)
    try:
        logs = await _read(store, arguments.conversation, arguments.turn)
        if not any(logs.values()):
            _complain(arguments)
            return NOTHING_THERE
        if arguments.json:
            print(json.dumps(_record(arguments.conversation, logs), ensure_ascii=False, indent=2))
            return 0
        printer = _Printer(together=not arguments.all)
        printer.show(logs)
        if arguments.follow:
            await _follow(store, arguments.conversation, arguments.turn, logs, printer)
        else:
            _print_summaries(summaries(logs))
        return 0
    finally:
        await store.close()


async def _read(store: Store, conversation: str, turn: int | None) -> Logs:
    start, end = ("-", "+") if turn is None else (str(turn), str(turn))
    found = await store.call_all([("XRANGE", log_key(conversation, log), start, end) for log in Log])
    return {log: [entry_of(log, *each) for each in entries] for log, entries in zip(Log, found, strict=True)}


def _complain(arguments: argparse.Namespace) -> None:
    where = "" if arguments.turn is None else f" of turn {arguments.turn}"
    print(
        f"parley: nothing{where} of conversation {arguments.conversation} stands in Redis (any more)",
        file=sys.stderr,
    )


# ---- live


async def _follow(store: Store, conversation: str, turn: int | None, logs: Logs, printer: _Printer) -> None:
    """Print what is written from now on, for ever. Raises `StoryForked` and `EntryGarbled`."""
    reader = Reader(store)
    arriving: asyncio.Queue[tuple[Log, Entry]] = asyncio.Queue()
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(reader.run())
            for log, entries in logs.items():
                after = entries[-1].address if entries else Address(turn or 1, -1)
                cursor = reader.follow(log_key(conversation, log), after)
                tasks.create_task(_forward(log, cursor, turn, arriving))
            while True:
                printer.show(_sorted([await arriving.get(), *await _rest(arriving)]))
    except* (EntryGarbled, StoryForked) as group:
        ended = group.exceptions[0]
    raise ended


async def _forward(
    log: Log, cursor: Cursor, turn: int | None, arriving: asyncio.Queue[tuple[Log, Entry]]
) -> None:
    async for entry in cursor:
        if turn is None or entry.address.turn == turn:
            arriving.put_nowait((log, entry))


async def _rest(arriving: asyncio.Queue[tuple[Log, Entry]]) -> list[tuple[Log, Entry]]:
    """What arrives together: three logs are merged, and audio shares a line."""
    await asyncio.sleep(TOGETHER_S)
    found = []
    while not arriving.empty():
        found.append(arriving.get_nowait())
    return found


def _sorted(entries: Sequence[tuple[Log, Entry]]) -> Logs:
    logs: Logs = {log: [] for log in Log}
    for log, entry in entries:
        logs[log].append(entry)
    return logs


# ---- text


class _Printer:
    """Prints rows; the time of each is relative to the first entry of all."""

    def __init__(self, *, together: bool) -> None:
        self._together = together
        self._start_us: int | None = None

    def show(self, logs: Logs) -> None:
        """Print what stands there, in order."""
        for row in rows(merged(logs), together=self._together):
            if self._start_us is None:
                self._start_us = row.first.at_us
                print(f"{'ms':>10}  {'log':<6}  {'address':<12}  {'writer':<8}  {'kind':<8}  what")
            print(self._line(row, (row.first.at_us - self._start_us) / 1000), flush=True)

    def _line(self, row: Row, ms: float) -> str:
        payload = row.first.payload
        address = str(row.first.address) + (f"…{row.last.address.seq}" if row.count > 1 else "")
        line = (
            f"{ms:>10,.1f}  {row.log.value:<6}  {address:<12}  {row.first.writer[:8]:<8}  {payload.kind:<8}"
        )
        return f"{line}  {details(row)}".rstrip()


def _print_summaries(found: Sequence[Summary]) -> None:
    for each in found:
        said = "typed" if each.typed else f"{each.utterance_s:.2f} s of speech"
        print(f"\nturn {each.turn}: {said}; {each.ended}")
        print(f"  answer       {each.tokens} tokens, {each.chunks} chunks, {each.speech_s:.2f} s of speech")
        print(f"  first token  {_in_ms(each.first_token_ms)} after the end of the utterance")
        print(f"  first frame  {_in_ms(each.first_frame_ms)}")
        for take in each.takes:
            print(f"  taken over   {take}")


def _in_ms(ms: float | None) -> str:
    return "-" if ms is None else f"{ms:,.1f} ms"


# ---- JSON


def _record(conversation: str, logs: Logs) -> dict[str, Any]:
    return {
        "conversation": conversation,
        "entries": [_entry_record(log, entry) for log, entry in merged(logs)],
        "turns": [asdict(each) for each in summaries(logs)],
    }


def _entry_record(log: Log, entry: Entry) -> dict[str, Any]:
    fields = asdict(entry.payload)
    pcm = fields.pop("pcm", None)
    record = {
        "log": log.value,
        "address": str(entry.address),
        "at_us": entry.at_us,
        "writer": entry.writer,
        "kind": entry.payload.kind,
        **{name.rstrip("_"): value for name, value in fields.items() if value is not None},
    }
    return record if pcm is None else {**record, "pcm_bytes": len(pcm)}
