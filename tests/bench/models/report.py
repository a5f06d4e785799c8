"""What comes out: a JSON, a plot of each run, a table on the terminal."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from tests.bench.models.goals import GOALS
from tests.bench.models.rows import Row, rows

VERSIONS = ("torch", "transformers", "kokoro", "misaki", "mistral-common", "numpy", "redis", "uvicorn")

Run = dict[str, Any]


def machine() -> dict[str, Any]:
    """Where this runs, and on what."""
    cuda = torch.cuda.is_available()
    return {
        "processor": f"{os.cpu_count()} x {_processor()}",
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "gpu_bytes": torch.cuda.get_device_properties(0).total_memory if cuda else None,
        "cuda": torch.version.cuda if cuda else None,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in VERSIONS},
    }


def document(runs: Sequence[Run], budget_minutes: float, took_s: float) -> dict[str, Any]:
    """Everything, as it goes into the JSON."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "minutes": budget_minutes,
        "took_s": round(took_s, 1),
        "runs": [
            {
                **run,
                "rows": [row._asdict() for row in rows(run["figures"])],
                "goals": [
                    goal.judge(run["figures"])
                    for goal in GOALS
                    if (goal.size, goal.device) == (run["size"], run["device"])
                ],
            }
            for run in runs
        ],
    }


def write(document: dict[str, Any], folder: Path) -> Path:
    """Write the JSON, and the plots beside it; where the JSON is."""
    from tests.bench.models.plot import plot

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "models.json"
    path.write_text(json.dumps(document, indent=2) + "\n")
    for run in document["runs"]:
        plot(run, folder / f"models-{run['size']}-{run['device']}.png", document["machine"])
    return path


def show(document: dict[str, Any]) -> None:
    """Print the tables."""
    device = document["machine"]["gpu"] or document["machine"]["processor"]
    for run in document["runs"]:
        print(f"\n{' and '.join(_names(run['configuration'])) or run['size']}, random weights, on {device}")
        print(f"{'':44} {'':>5} {'p50':>10} {'p99':>10} {'plain':>10} {'floor':>10}")
        for row in (Row(**row) for row in run["rows"]):
            numbers = (row.ours, row.tail, row.plain, row.floor)
            print(f"{row.what:44} {row.unit:>5} " + " ".join(f"{_number(value):>10}" for value in numbers))
        for goal in run["goals"]:
            bound = f"at most {goal['at_most']}" if "at_most" in goal else f"at least {goal['at_least']}"
            verdict = {None: "not measured", True: "met", False: "NOT met"}[goal["met"]]
            print(f"goal: {goal['goal']}: {bound} {goal['unit']}: {_number(goal['measured'])}, {verdict}")
        for what in run["left_out"]:
            print(f"left out: {what}")
        for section, error in run["errors"].items():
            print(f"FAILED: {section}: {error}")


def _names(configuration: dict[str, Any]) -> list[str]:
    return [f"{model['name']} in {model['dtype']}" for model in configuration.values()]


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
