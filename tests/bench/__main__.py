"""`python -m tests.bench [name …]`: run the benchmarks and print their tables."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

from tests.bench import (
    batch,
    detection,
    ears,
    first_audio,
    hops,
    idle,
    overload,
    takeover,
    thinking_ahead,
    turn_taking,
)

BENCHES = {
    "first-audio": first_audio.run,
    "hops": hops.run,
    "takeover": takeover.run,
    "turn-taking": turn_taking.run,
    "thinking-ahead": thinking_ahead.run,
    "batch": batch.run,
    "ears": ears.run,
    "detection": detection.run,
    "overload": overload.run,
    "idle": idle.run,
}


def main() -> int:
    """Run what was asked for, all of it by default."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*BENCHES, []], help="which ones (all)")
    parser.add_argument("--turns", type=int, default=200, help="turns of first-audio (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures into this file too")
    args = parser.parse_args()
    figures = {name: asyncio.run(BENCHES[name](args.turns)) for name in args.names or BENCHES}
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
