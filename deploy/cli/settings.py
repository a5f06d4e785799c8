"""`parley settings`: every setting, its value here, its default, what is allowed and what it means."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass

from shared.errors import SettingsError
from shared.settings import EX_CONFIG, Row, rows, unknown_names

HELP = "print every setting: its value now, its default, what is allowed and what it means"

_WIDEST = 24


@dataclass(frozen=True, slots=True)
class _Line:
    row: Row
    value: str
    default: str
    error: str | None = None

    @property
    def cells(self) -> tuple[str, ...]:
        row = self.row
        return (row.env_name, self.value or "-", self.default or "-", row.kind.bounds, row.meaning)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `parley settings`."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print them as a JSON list")
    form.add_argument("--check", action="store_true", help="print nothing but what is wrong with them")


def run(arguments: argparse.Namespace) -> int:
    """Print them; returns `EX_CONFIG` if one cannot be used."""
    lines = [_line(row) for row in rows()]
    if arguments.json:
        print(json.dumps([_record(line) for line in lines], indent=2, ensure_ascii=False))
    elif not arguments.check:
        _print_table(lines)
    for name in unknown_names(os.environ):
        print(f"{name} is no setting of Parley: misspelt?", file=sys.stderr)
    errors = [line.error for line in lines if line.error]
    for error in errors:
        print(f"bad setting: {error}", file=sys.stderr)
    return EX_CONFIG if errors else 0


def _line(row: Row) -> _Line:
    text = os.environ.get(row.env_name, "").strip()
    default = row.show(row.default)
    if not text:
        return _Line(row, default, default)
    try:
        return _Line(row, row.show(row.parse(text)), default)
    except SettingsError as error:
        return _Line(row, "(bad)", default, str(error))


def _record(line: _Line) -> dict[str, str | None]:
    return {
        "name": line.row.env_name,
        "value": line.value or None,
        "default": line.default or None,
        "allowed": line.row.kind.expected,
        "meaning": line.row.meaning,
    }


def _print_table(lines: list[_Line]) -> None:
    table = [("NAME", "VALUE", "DEFAULT", "ALLOWED", "MEANING"), *(line.cells for line in lines)]
    table = [(name, _cut(value), _cut(default), *rest) for name, value, default, *rest in table]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        print("  ".join(padded).rstrip())


def _cut(text: str) -> str:
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"
