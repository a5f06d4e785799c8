"""`python -m tests.bench.models [section …]`: how fast the models are, beside the plain way and the floor.

The real classes with random weights, of full size where there is a GPU. No time makes it fail: the exit
status is 1 only where a section could not be measured at all.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.bench.models.budget import Budget

SECTIONS = ("floor", "plain", "batch", "voice", "pipeline")
"""In this order; each is a module of this package."""

OUT = Path("build") / "bench-models"

LIBRARIES = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
"""Read by the model libraries as they are imported: nothing is downloaded, whatever is missing."""


def main(words: Sequence[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="make bench-models", description=__doc__)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], help="which ones (all)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--size", choices=["auto", "full", "tiny"], default="auto", help="auto: full on CUDA")
    parser.add_argument("--full-cpu", action="store_true", help="on a CPU, a short look at full size too")
    parser.add_argument("--minutes", type=float, default=9.0, help="time that it may take (%(default)s)")
    parser.add_argument(
        "--out", type=Path, default=OUT, help="folder of the JSON and the plots (%(default)s)"
    )
    asked = parser.parse_args(words)
    budget = Budget(asked.minutes)  # counts from here: the libraries take their time too
    os.environ.update(LIBRARIES)
    from tests.bench.models import suite

    wanted = [name for name in SECTIONS if name in (asked.sections or SECTIONS)]
    return suite.measure(suite.plans(asked.device, asked.size, asked.full_cpu), wanted, budget, asked.out)


if __name__ == "__main__":
    sys.exit(main())
