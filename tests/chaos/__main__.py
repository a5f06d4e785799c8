"""`python -m tests.chaos`: break everything while conversations run, and say what came of it.

Its exit status is 1 where a promise was not kept, or a control did not fail as it must.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time
from functools import partial

import uvloop

from tests.chaos import campaign, controls, report
from tests.chaos.faults import FAULTS

DURATION_S = 240.0
CONVERSATIONS = 4


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="for the same places again (random)")
    parser.add_argument("--duration", type=float, default=DURATION_S, help="seconds of faults (%(default)g)")
    parser.add_argument(
        "--faults", nargs="+", type=_counted, metavar="NAME=COUNT", help=f"only these: {', '.join(FAULTS)}"
    )
    parser.add_argument("--conversations", type=int, default=CONVERSATIONS, help="at once (%(default)s)")
    parser.add_argument("--controls", action="store_true", help="break the rules too, one at a time")
    args = parser.parse_args()
    seed = random.randrange(1 << 32) if args.seed is None else args.seed
    print(f"seed {seed}")
    logging.getLogger("shared.reader").setLevel(logging.ERROR)  # its interruptions are what is asked for
    if args.faults:
        faults = partial(campaign.by_count, dict(args.faults))
    else:
        faults = partial(campaign.by_time, args.duration)
    outcome = uvloop.run(
        campaign.run(faults, seed=seed, conversations=args.conversations, tell=_tell(time.monotonic()))
    )
    print(f"\n\n{report.table(outcome.history, outcome.violations)}\n")
    print(report.verdicts(outcome.history, outcome.violations, outcome.deaths))
    if outcome.violations:
        print(f"history and logs: {outcome.kept}")
    wrong = [_control(control) for control in controls.CONTROLS] if args.controls else []
    return 1 if outcome.violations or any(wrong) else 0


def _control(control: controls.Control) -> bool:
    """Whether the checker missed a broken rule, or blamed another."""
    outcome = uvloop.run(controls.run(control))
    wrong = controls.verdict(control, outcome)
    print(f"without its rule: {wrong or f'{control.rule}: {control.check}, as it must'}")
    if wrong:
        print(f"history and logs: {outcome.kept}")
    return wrong is not None


def _counted(text: str) -> tuple[str, int]:
    name, _, count = text.partition("=")
    if name not in FAULTS or not (count or "1").isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a fault and how often, as in kill-llm=5")
    return name, int(count or "1")


def _tell(began_s: float) -> campaign.Tell:
    """One live line on a terminal, else one each."""
    head, tail = ("\r", "") if sys.stdout.isatty() else ("", "\n")

    def tell(line: str) -> None:
        sys.stdout.write(f"{head}{time.monotonic() - began_s:6.1f} s {line}{tail}")
        sys.stdout.flush()

    return tell


if __name__ == "__main__":
    sys.exit(main())
