"""Plans carried out, section by section, and what came of it written down."""

from __future__ import annotations

import importlib
import sys
import tempfile
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from tests.bench.models import report
from tests.bench.models.bench import Bench
from tests.bench.models.budget import Budget
from tests.bench.models.models import Models
from tests.bench.models.plan import PLANS, Plan

INTERRUPTED = 130
"""The exit status of a program that Ctrl-C has ended, as shells have it."""


def plans(device: str, size: str, full_cpu: bool) -> list[Plan]:
    """What is measured: `device` auto, cpu or cuda; `size` auto, tiny or full."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if size == "auto":
        size = "full" if device == "cuda" else "tiny"
    sizes = [size]
    if full_cpu and device == "cpu" and size != "full":
        sizes.append("full")
    return [PLANS[size, device] for size in sizes]


def measure(plans: Iterable[Plan], sections: Iterable[str], budget: Budget, out: Path) -> int:
    """Carry the plans out, write and print what they gave; the exit status. Ctrl-C ends it early."""
    runs: list[report.Run] = []
    status = 0
    try:
        for plan in plans:
            with tempfile.TemporaryDirectory() as folder:
                bench = Bench(plan, Models(plan, Path(folder)), budget)
                runs.append(_run(bench))
                _carry_out(bench, sections, runs[-1])
    except KeyboardInterrupt:
        print("\ninterrupted: what was measured so far", file=sys.stderr)
        status = INTERRUPTED
    document = report.document(runs, budget.minutes, budget.spent_s)
    report.show(document)
    print(f"\nwritten: {report.write(document, out)}, after {budget.spent_s:.0f} s")
    return status or int(any(run["errors"] for run in runs))


def _run(bench: Bench) -> report.Run:
    return {
        "size": bench.plan.size,
        "device": bench.plan.device,
        "configuration": {},
        "figures": bench.figures,
        "left_out": bench.left_out,
        "errors": {},
    }


def _carry_out(bench: Bench, sections: Iterable[str], run: report.Run) -> None:
    """Measure, on as many threads as the plan wants."""
    threads = torch.get_num_threads()
    torch.set_num_threads(bench.plan.threads or threads)
    try:
        bench.say(f"making the {bench.plan.size} model on {bench.plan.device} in {bench.plan.dtype}")
        run["configuration"] = bench.models.configuration
        for name in sections:
            _measure_section(bench, name, run["errors"])
    finally:
        torch.set_num_threads(threads)


def _measure_section(bench: Bench, name: str, errors: dict[str, Any]) -> None:
    """A section that fails is reported with what it had found by then, and the others go on."""
    if bench.budget.left_s <= 0:
        return bench.leave_out(f"{name}: no time")
    try:
        section = importlib.import_module(f"tests.bench.models.{name}")
        section.run(bench, bench.figures.setdefault(name, {}))
    except Exception as error:
        traceback.print_exc()
        reason = next(iter(str(error).splitlines()), "")
        errors[name] = f"{type(error).__name__}: {reason}"
        bench.say(f"{name} failed")
