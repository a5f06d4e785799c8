"""`parley models`: what the model engines need, whether it is here, and `pull`, which gets it beforehand.

While Parley runs it downloads nothing: what is missing then is an error at the start of the worker.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from deploy.cli import english, hub
from deploy.cli.hub import CannotPull
from shared.errors import EngineError
from shared.settings import Settings
from workers import checkpoint, packages
from workers.llm.engines.voxtral import files as voxtral
from workers.tts.engines.kokoro import files as kokoro

HELP = "list what the model engines need, or pull it onto this machine"

BAD_USAGE = 2


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The weights of one engine. `source`, a name on the hub or a folder, is what `setting` says here, and
    `default` what it says where nobody has set it."""

    name: str
    used_by: str
    files: tuple[str, ...]
    setting: str
    source: str
    default: str

    @property
    def is_folder(self) -> bool:
        """Whether the source is a folder, and not a name on the hub, which can be pulled."""
        return self.source.startswith((".", "/"))

    def place(self) -> Path | None:
        """The folder, if all that is needed is in it."""
        try:
            return checkpoint.find(self.source, self.files, "")
        except (EngineError, OSError):
            return None


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the list."""

    name: str
    used_by: str
    source: str
    place: Path | None
    size_bytes: int


NAMES = ("voxtral", "kokoro", "english")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `parley models`."""
    parser.add_argument("action", nargs="?", choices=("list", "pull"), default="list", help="default: list")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)} or all, the default")
    parser.add_argument(
        "--to", type=Path, metavar="FOLDER", help="pull into this folder, not the hub's cache"
    )
    parser.add_argument("--json", action="store_true", help="the list as JSON")
    parser.epilog = (
        "voxtral and kokoro go into the hub's cache (HF_HOME), english into this Python environment. "
        "exit codes: 0 done, 1 could not be pulled, 2 bad usage, 130 interrupted"
    )


def run(arguments: argparse.Namespace) -> int:
    """List or pull; returns the exit code."""
    unknown = sorted(set(arguments.names) - {*NAMES, "all"})
    if unknown:
        print(f"parley: there is no {unknown[0]!r}; expected {', '.join(NAMES)} or all", file=sys.stderr)
        return BAD_USAGE
    checkpoints = _checkpoints(Settings.from_env(os.environ))
    if arguments.action == "list":
        if arguments.names or arguments.to is not None:
            print("parley: NAME and --to go with pull", file=sys.stderr)
            return BAD_USAGE
        lines = [*map(_line, checkpoints), _english_line()]
        _print_json(lines) if arguments.json else _print_table(lines)
        return 0
    if arguments.json:
        print("parley: --json goes with list", file=sys.stderr)
        return BAD_USAGE
    asked_for = set(arguments.names) or {"all"}
    steps: dict[str, Callable[[], str]] = {
        **{each.name: partial(_pull, each, arguments.to) for each in checkpoints},
        "english": partial(_pull_english, arguments.to),
    }
    for name, step in steps.items():
        if asked_for & {name, "all"}:
            print(f"{name}: {step()}", flush=True)
    return 0


def _checkpoints(settings: Settings) -> tuple[Checkpoint, ...]:
    default = Settings()
    return (
        Checkpoint(
            "voxtral",
            "LLM_ENGINE=voxtral",
            voxtral.FILES,
            "VOXTRAL_MODEL",
            settings.voxtral_model,
            default.voxtral_model,
        ),
        Checkpoint(
            "kokoro",
            "TTS_ENGINE=kokoro",
            kokoro.FILES,
            "KOKORO_MODEL",
            settings.kokoro_model,
            default.kokoro_model,
        ),
    )


# ---- pull


def _pull(wanted: Checkpoint, to: Path | None) -> str:
    """Get it, see that it is found where it was put, and say where."""
    if wanted.is_folder and to is None:
        if (place := wanted.place()) is not None:
            return f"all of it is in {place}"
        raise CannotPull(
            f"{wanted.setting} is the folder {wanted.source}, and not all of it is there: unset it to pull "
            "into the hub's cache, or pull into a folder with --to"
        )
    source = wanted.default if wanted.is_folder else wanted.source
    if to is None:
        hub.pull(source, wanted.files)
        place = checkpoint.find(source, wanted.files, f"parley models pull {wanted.name}")
        return f"{source} is in {place}"
    folder = hub.pull(source, wanted.files, to.absolute() / wanted.name)
    return f"{source} is in {folder}; use it with {wanted.setting}={shlex.quote(str(folder))}"


def _pull_english(to: Path | None) -> str:
    if to is not None:
        wheel = english.download(to.absolute())
        return f"{wheel}; install it with: python -m pip install --no-deps {shlex.quote(str(wheel))}"
    if english.place() is None:
        english.install()
    return f"{english.PACKAGE} is in {english.place()}"


# ---- list


def _line(wanted: Checkpoint) -> Line:
    place = wanted.place()
    size = 0 if place is None else hub.size_bytes(place, wanted.files)
    return Line(wanted.name, wanted.used_by, wanted.source, place, size)


def _english_line() -> Line:
    place = english.place()
    size = 0 if place is None else hub.size_bytes(place, ("**/*",))
    source = f"{english.PACKAGE} {english.VERSION}"
    return Line("english", "Kokoro's English", source, place, size)


def _print_json(lines: Sequence[Line]) -> None:
    records = [
        {
            "name": line.name,
            "used_by": line.used_by,
            "source": line.source,
            "there": line.place is not None,
            "place": None if line.place is None else str(line.place),
            "size_bytes": line.size_bytes if line.place else None,
        }
        for line in lines
    ]
    print(json.dumps(records, indent=2, ensure_ascii=False))


def _print_table(lines: Sequence[Line]) -> None:
    table = [("NAME", "FOR", "WHAT", "SIZE", "WHERE")]
    for line in lines:
        where = f"missing: parley models pull {line.name}" if line.place is None else str(line.place)
        size = "-" if line.place is None else f"{line.size_bytes / 1e6:,.1f} MB"
        table.append((line.name, line.used_by, line.source, size, where))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
    if not packages.installed("torch", "transformers", "kokoro"):
        print(f"\nThe packages that they need are not installed: {packages.COMMAND}")
