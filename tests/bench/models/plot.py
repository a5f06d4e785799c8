"""One picture of a run: a token's time against the size of the batch, and when the first sound came."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot

from tests.bench.models.goals import at

SCENES = {
    "one": "one conversation",
    "found": "one, found by voice",
    "many": "many, at random phase",
    "burst": "all at the same moment",
}


def plot(run: dict[str, Any], path: Path, machine: dict[str, Any]) -> None:
    """Draw the run into a PNG."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    device = machine["gpu"] or machine["processor"]
    figure.suptitle(f"{run['size']} models, random weights, on {device}")
    _tokens(left, run["figures"])
    _first_audio(right, run["figures"])
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _tokens(axes: Any, figures: dict[str, Any]) -> None:
    axes.set(title="a token for each conversation of the batch", xlabel="conversations", ylabel="ms")
    measured = at(figures, ("batch", "token_ms")) or {}
    sizes = [int(size) for size in measured]
    if sizes:
        axes.plot(sizes, [spread["p50"] for spread in measured.values()], "o-", label="the batch, p50")
        axes.plot(sizes, [spread["p99"] for spread in measured.values()], "o:", label="the batch, p99")
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes])
    plain, floor = at(figures, ("plain", "token_ms", "p50")), at(figures, ("floor", "token_ms"))
    if plain is not None:
        turns = sizes or [1]
        axes.plot(turns, [plain * size for size in turns], "s--", label="generate(), one after the other")
        axes.axhline(plain, color="gray", linestyle="--", label="generate(), one conversation")
    if floor is not None:
        axes.axhline(floor, color="black", label="floor: bytes of the weights / copy speed")
    if sizes or plain is not None or floor is not None:
        axes.set_yscale("log")
        axes.legend(fontsize=8)


def _first_audio(axes: Any, figures: dict[str, Any]) -> None:
    axes.set(title="first audio at the client", xlabel="ms after the utterance", ylabel="share of turns")
    drawn = False
    for name, title in SCENES.items():
        values = sorted(at(figures, ("pipeline", name, "first_audio_values_ms")) or ())
        if values:
            shares = [(place + 1) / len(values) for place in range(len(values))]
            axes.step(values, shares, where="post", label=f"{title} ({len(values)} turns)")
            drawn = True
    if drawn:
        axes.set_xscale("log")
        axes.set_ylim(0, 1.02)
        axes.legend(fontsize=8)
    else:
        axes.text(0.5, 0.5, "not measured", ha="center", transform=axes.transAxes)
