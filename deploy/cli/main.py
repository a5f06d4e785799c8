"""The `parley` command: one subcommand a module of this package.

A module that is listed in `COMMANDS` is a subcommand of that name. It has `HELP` (one line),
`configure(parser)`, which adds its arguments, and `run(arguments)`, which returns the exit code. Only the one
that is asked for is imported.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Protocol, cast

from shared.errors import ParleyError, SettingsError
from shared.settings import EX_CONFIG

COMMANDS = ("talk", "compare", "ps", "inspect", "voices", "models", "settings")


class Command(Protocol):
    """What the module of a subcommand has."""

    HELP: str

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the subcommand's arguments."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Do it; returns the exit code. A `ParleyError` becomes one line on stderr and exit code 1."""


def main(words: Sequence[str] | None = None) -> int:
    """The entry point; `words` are the command line's without the program's name. Returns the exit code."""
    words = sys.argv[1:] if words is None else words
    parser = argparse.ArgumentParser(prog="parley", description="Spoken conversations over a WebSocket.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    asked_for = words[0] if words and words[0] in COMMANDS else None
    for name in (asked_for,) if asked_for else COMMANDS:
        module = _load(name)
        module.configure(commands.add_parser(name, help=module.HELP, description=module.HELP))
    arguments = parser.parse_args(words)
    try:
        return _load(arguments.command).run(arguments)
    except SettingsError as error:
        print(f"parley: bad setting: {error}", file=sys.stderr)
        return EX_CONFIG
    except ParleyError as error:
        print(f"parley: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output, as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _load(name: str) -> Command:
    return cast(Command, importlib.import_module(f"deploy.cli.{name}"))
