"""The benchmark of the models, on its tiny ones and with next to nothing of everything: that it runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.bench.models import floor, plain, suite, voice
from tests.bench.models.bench import Bench, Figures
from tests.bench.models.budget import Budget
from tests.bench.models.figures import spread
from tests.bench.models.plan import PLANS

LITTLE = replace(
    PLANS["tiny", "cpu"],
    slots=8,
    context=1024,
    batches=(1, 2),
    utterance_s=0.3,
    steps=3,
    firsts=2,
    long_places=500,
    plain_runs=1,
    plain_tokens=3,
    others=1,
    joins=1,
    compared=1,
    compared_tokens=2,
    races=1,
    race_tokens=2,
    spoken=1,
    voices_at_once=(2,),
    turns=1,
    haste=10.0,
    conversations=2,
    rounds=1,
    each_s=0.5,
    bursts=1,
)

MUCH_TIME = 60.0


def _measured(folder: Path, *sections: str, minutes: float = MUCH_TIME) -> tuple[int, dict[str, Any]]:
    """The exit status, and what stands in the JSON."""
    status = suite.measure([LITTLE], sections, Budget(minutes), folder)
    return status, json.loads((folder / "models.json").read_text())


def test_the_sections_measure_the_models_beside_the_plain_way_and_the_floor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(voice, "TEXTS", {"Hello!": "Hello!", "15 words": "Not so many."})
    status, document = _measured(tmp_path, "floor", "plain", "batch", "voice")
    (run,) = document["runs"]
    assert (status, run["errors"], run["left_out"]) == (0, {}, [])
    assert run["configuration"]["voxtral"]["name"] and document["machine"]["versions"]["torch"]
    rows = {row["what"]: row for row in run["rows"]}
    for what in ("first token, Voxtral alone", "a token for each of 2", "first sound of Hello!"):
        assert min(rows[what][column] for column in ("ours", "tail", "plain", "floor")) > 0, what
    assert 0 <= run["figures"]["batch"]["equal_to_float32"]["share"] <= 1
    (goal,) = run["goals"]
    assert goal["measured"] == run["figures"]["batch"]["race"]["times_alone"]
    assert goal["met"] is (goal["measured"] >= 4)
    assert (tmp_path / "models-tiny-cpu.png").read_bytes().startswith(b"\x89PNG")


def test_the_whole_pipeline_is_measured_alone_among_many_and_in_a_burst(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRIPT_TOKENS", '["Hello", "!"]')
    status, document = _measured(tmp_path, "pipeline")
    (run,) = document["runs"]
    assert (status, run["errors"], run["left_out"]) == (0, {}, [])
    rows = {row["what"]: row["ours"] for row in run["rows"]}
    for what in ("one conversation", "one found by voice", "2 conversations", "2 at the same moment"):
        assert 0 < rows[f"first token, {what}"] < rows[f"first audio, {what}"], what


def test_a_section_that_fails_is_told_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(bench: Bench, figures: Figures) -> None:
        figures["token_ms"] = 2.0
        raise RuntimeError("out of luck\nand more")

    monkeypatch.setattr(floor, "run", fail)
    monkeypatch.setattr(plain, "run", lambda bench, figures: figures.update(token_ms=spread([1.0])))
    status, document = _measured(tmp_path, "floor", "plain")
    (run,) = document["runs"]
    assert status == 1
    assert run["errors"] == {"floor": "RuntimeError: out of luck"}
    assert run["figures"] == {"floor": {"token_ms": 2.0}, "plain": {"token_ms": spread([1.0])}}


def test_an_interrupt_leaves_what_was_measured_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(bench: Bench, figures: Figures) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(floor, "run", lambda bench, figures: figures.update(token_ms=2.0))
    monkeypatch.setattr(plain, "run", interrupt)
    status, document = _measured(tmp_path, "floor", "plain", "batch")
    assert status == 130
    assert document["runs"][0]["figures"] == {"floor": {"token_ms": 2.0}, "plain": {}}


def test_what_there_is_no_time_for_is_left_out_and_told(tmp_path: Path) -> None:
    status, document = _measured(tmp_path, "floor", "pipeline", minutes=0.0)
    assert status == 0
    assert document["runs"][0]["left_out"] == ["floor: no time", "pipeline: no time"]


def test_a_spread_is_of_all_values() -> None:
    values = [float(value) for value in range(101)]
    assert spread(values[::-1]) == {"p50": 50, "p95": 95, "p99": 99, "min": 0, "max": 100, "n": 101}
    assert spread([3.0]) == {"p50": 3, "p95": 3, "p99": 3, "min": 3, "max": 3, "n": 1}
