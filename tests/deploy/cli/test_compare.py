from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from deploy.cli import compare as compare_module
from deploy.cli.compare import Result, Times
from deploy.cli.main import main
from deploy.cli.screen import ERASE
from shared.audio import to_wav
from shared.errors import ClientError
from tests.conftest import eventually
from tests.deploy.cli.fake_edge import World, serving
from tests.deploy.cli.terminal import on_terminal

PCM = bytes(range(256)) * 25

BATCH = (Times(400, 400, 400, 400), Times(300, 300, 300, 300), Times(900, 900, 900, 900))
STREAMING = (Times(80, 90, 100, 400), Times(70, 80, 90, 390), Times(90, 100, 140, 500))


@pytest.fixture
def question(tmp_path: Path) -> str:
    path = tmp_path / "question.wav"
    path.write_bytes(to_wav(PCM, 16_000))
    return str(path)


async def compare(*words: str) -> int:
    """`parley compare`, in a thread: it has an event loop of its own."""
    return await asyncio.to_thread(main, ["compare", *words])


# ---- the table


def test_the_table_shows_medians_the_worst_and_what_is_gained() -> None:
    result = Result({"llm": "fake"}, BATCH, STREAMING)
    assert list(result.table()) == [
        "                            batch            streaming",
        "ms               median       max     median       max  improvement",
        "first token         400       900         80        90         80 %",
        "first word          400       900         90       100         78 %",
        "first audio         400       900        100       140         75 %",
        "total               400       900        400       500          0 %",
    ]


def test_of_many_the_99th_percentile_is_shown() -> None:
    many = [Times(ms, ms, ms, ms) for ms in range(1, 201)]
    result = Result({}, many, many)
    assert result.worst_name == "p99"
    assert result.record()["batch"]["p99_ms"]["total"] == 198


def test_what_took_no_time_cannot_be_improved() -> None:
    nothing = [Times(0, 0, 0, 0)]
    assert Result({}, nothing, BATCH).record()["improvement_percent"]["total"] == 0


# ---- asking


@pytest.mark.parametrize("how", [[], ["--at-once"]])
async def test_a_question_is_asked_in_both_ways_by_turns_each_time_in_a_conversation_of_its_own(
    how: list[str], question: str, capsys: pytest.CaptureFixture[str]
) -> None:
    worlds: list[World] = []

    def anew() -> World:
        worlds.append(World())
        return worlds[-1]

    async with serving(anew) as url:
        assert await compare(question, "--times", "2", "--url", url, *how) == 0
    assert [world.heard for world in worlds] == [[PCM]] * 6
    assert [bool(world.batch) for world in worlds] == [True, False] * 3
    assert all(world.settings[0]["pacing"] == "none" for world in worlds)
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines[0] == "question.wav, 0.2 s, 2 times in each way"
    assert lines[1] == "llm: fake, tts: fake"
    assert [line.split("  ")[0] for line in lines[5:]] == [
        "first token",
        "first word",
        "first audio",
        "total",
    ]
    assert shown.err == ""


async def test_everything_can_be_had_as_json(question: str, capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(World) as url:
        assert await compare(question, "--times", "3", "--json", "--url", url) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["engines"] == {"llm": "fake", "tts": "fake"}
    assert len(found["batch"]["answers_ms"]) == len(found["streaming"]["answers_ms"]) == found["times"] == 3
    for answer in found["batch"]["answers_ms"]:
        assert answer["first_token"] == answer["first_audio"] == answer["total"] > 0
    for answer in found["streaming"]["answers_ms"]:
        assert 0 <= answer["first_token"] <= answer["first_audio"] <= answer["total"]
    assert set(found["improvement_percent"]) == {"first_token", "first_word", "first_audio", "total"}


async def test_a_server_without_a_jobs_worker_says_so_and_it_is_exit_code_1(
    question: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refusal = ClientError("overloaded", "no jobs worker is running", retryable=True, retry_after_ms=1000.0)
    async with serving(World(no_jobs=refusal)) as url:
        assert await compare(question, "--url", url) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "parley: no jobs worker is running (overloaded); try again in 1 s\n"


async def test_an_answer_that_does_not_come_is_not_waited_for_for_ever(
    question: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(silent=True)
    async with serving(world) as url:
        asking = asyncio.create_task(compare(question, "--url", url))
        await eventually(lambda: world.hearing, "the question has begun")
        monkeypatch.setattr(compare_module, "WITHIN_S", 0.0)
        assert await asking == 1
        await eventually(lambda: world.heard == [PCM], "the whole question: only the answer is late")
    assert capsys.readouterr().err == "parley: no answer within 0 s\n"


async def test_on_a_terminal_a_failure_stands_on_a_line_of_its_own(question: str) -> None:
    refusal = ClientError("overloaded", "no jobs worker is running", retryable=True)
    async with serving(World(no_jobs=refusal)) as url:
        async with on_terminal("compare", question, "--url", url) as terminal:
            assert await terminal.ended() == 1
    assert terminal.shown.endswith(f"{ERASE}parley: no jobs worker is running (overloaded)\r\n")


async def test_no_server_is_exit_code_3(question: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert await compare(question, "--url", "ws://127.0.0.1:1/ws") == 3
    assert capsys.readouterr().err == "parley: ws://127.0.0.1:1/ws: nobody listens there\n"


async def test_a_file_that_is_no_recording_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert await compare(__file__) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("times", ["0", "x"])
async def test_bad_usage_is_exit_code_2(question: str, times: str) -> None:
    with pytest.raises(SystemExit) as caught:
        await compare(question, "--times", times)
    assert caught.value.code == 2
