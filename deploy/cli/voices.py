"""`parley voices`: the voices that the running workers announce, and what each of them speaks."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from edge.roster import Worker
from shared import settings
from shared.keys import WORKERS, Role, worker_key
from shared.settings import Settings
from shared.store import Store
from shared.text import speaks

HELP = "list the voices that clients may ask for"

NOTHING_THERE = 1


@dataclass(frozen=True, slots=True)
class Row:
    """One voice in one language. `default`: the one that is spoken with when a client names none."""

    name: str
    language: str
    engine: str
    default: bool


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `parley voices`."""
    parser.add_argument(
        "--language",
        metavar="TAG",
        help="only voices of this language: en is every English, en-GB one of them",
    )
    parser.add_argument("--json", action="store_true", help="print them as a JSON list")
    parser.epilog = (
        "Redis is the one in REDIS_URL, or the embedded one of PARLEY_DATA. "
        "exit codes: 0 shown, 1 no TTS worker runs, no voice speaks the language, or no Redis, 2 bad usage"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print them; returns the exit code."""
    url = settings.redis_url(Settings.from_env(os.environ), wait_s=0)
    found = rows(asyncio.run(_workers(url)))
    shown = [row for row in found if arguments.language is None or speaks(row.language, arguments.language)]
    if arguments.json:
        print(json.dumps([asdict(row) for row in shown], indent=2, ensure_ascii=False))
    elif shown:
        _print_table(shown)
    if not found:
        print("parley: no TTS worker is running, so there are no voices", file=sys.stderr)
    elif not shown:
        print(f"parley: no voice speaks {arguments.language!r}", file=sys.stderr)
    return 0 if shown else NOTHING_THERE


def rows(workers: Sequence[Worker]) -> list[Row]:
    """Every voice of every engine once, in the order in which the edges choose from them."""
    found: dict[tuple[str, str, str], Row] = {}
    for worker in workers:
        for voice in worker.voices:
            key = (voice.name, voice.language, worker.engine)
            found.setdefault(key, Row(voice.name, voice.language, worker.engine, default=not found))
    return list(found.values())


async def _workers(url: str) -> list[Worker]:
    """The TTS workers that live, by name. Raises `StoreError`."""
    store = Store(url)
    try:
        names = sorted(name.decode(errors="replace") for name in await store.call("SMEMBERS", WORKERS))
        said = await store.call_all([("GET", worker_key(name)) for name in names]) if names else []
    finally:
        await store.close()
    workers = [_worker(raw) for raw in said if raw is not None]
    return [worker for worker in workers if worker is not None and worker.role is Role.SPEAK]


def _worker(raw: bytes) -> Worker | None:
    """The worker, unless it says something else than those of this version do."""
    try:
        return Worker.parse(raw)
    except (ValueError, KeyError, TypeError):
        return None


def _print_table(shown: Sequence[Row]) -> None:
    table = [("VOICE", "LANGUAGE", "ENGINE", "")]
    table += [(row.name, row.language, row.engine, "default" if row.default else "") for row in shown]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
