"""`parley talk --hands-free` with recordings, in which every sound is a voice."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from deploy.cli import handsfree
from deploy.cli.main import main
from deploy.cli.screen import PLAIN, STRUCK
from shared.audio import to_wav
from shared.errors import ClientError
from tests.deploy.cli.fake_edge import FRAMES, WORDS, World, serving
from tests.deploy.cli.terminal import on_terminal

VOICE = bytes(range(1, 65)) * 10
SILENCE = bytes(640)
"""20 ms each."""

FIRST, SECOND = VOICE * 5, VOICE * 3
REPLY = "".join(WORDS)


def recorded(folder: Path, pcm: bytes) -> str:
    path = folder / "said.wav"
    path.write_bytes(to_wav(pcm, 16_000))
    return str(path)


@pytest.fixture
def said(tmp_path: Path) -> str:
    """Two utterances; the file ends with the second."""
    return recorded(tmp_path, SILENCE * 2 + FIRST + SILENCE * 8 + SECOND)


async def talk(*words: str) -> int:
    """`parley talk --hands-free`, in a thread: it has an event loop of its own."""
    return await asyncio.to_thread(main, ["talk", "--hands-free", *words])


def notes(shown: str) -> list[str]:
    return re.findall(r"^\((.*)\)$", shown, re.MULTILINE)


async def test_a_recording_is_a_conversation_of_as_many_turns_as_the_server_finds(
    said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world, output = World(), tmp_path / "answers.wav"
    async with serving(world) as url:
        assert await talk(said, "--url", url, "-o", str(output)) == 0
    shown = capsys.readouterr()
    assert world.heard == [FIRST, SECOND]
    assert shown.out == f"{REPLY}\n{REPLY}\n"
    assert shown.err.count("first token") == 2
    assert output.stat().st_size == 44 + 2 * FRAMES * 4800
    told = notes(shown.err)
    assert told[:2] == ["listening", "hearing"]
    assert [each for each in told if "spoke" in each] == [
        "you spoke for 0.1 s; silence",
        "you spoke for 0.1 s; silence",
    ]
    assert told.count("speaking") == 2
    assert told[-1] == "listening"


async def test_what_the_server_is_asked_for(said: str) -> None:
    world = World()
    async with serving(world) as url:
        await talk(said, "--url", url, "--silence-ms", "150", "--voice", "fake")
    wished = world.settings[0]
    assert wished["turn_detection"] == {"type": "server_vad", "silence_ms": 150.0, "pause_ms": 150.0}
    assert (wished["voice"], wished["pacing"], wished["echo_cancelled"]) == ("fake", "realtime", True)


@pytest.mark.parametrize(
    ("words", "wished"),
    [
        ((), {"type": "server_vad"}),
        (("--silence-ms", "auto"), {"type": "server_vad", "silence_ms": "auto", "pause_ms": 200.0}),
        (("--silence-ms", "700"), {"type": "server_vad", "silence_ms": 700.0, "pause_ms": 200.0}),
    ],
)
async def test_the_silence_that_ends_an_utterance(
    words: tuple[str, ...], wished: dict[str, object], tmp_path: Path
) -> None:
    world = World()
    async with serving(world) as url:
        await talk(recorded(tmp_path, VOICE), "--url", url, *words)
    assert world.settings[0]["turn_detection"] == wished


async def test_where_the_user_spoke_over_the_answer_it_says_what_was_heard(
    said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving(World(unfinished={1})) as url:
        assert await talk(said, "--url", url) == 0
    shown = capsys.readouterr()
    assert 'interrupted after 0.2 s: "I heard"; not heard: "you."' in notes(shown.err)
    assert shown.out == f"{REPLY}\n{REPLY}\n"


async def test_on_a_terminal_what_was_not_heard_is_struck_out(said: str) -> None:
    async with serving(World(unfinished={1})) as url:
        async with on_terminal("talk", said, "--hands-free", "--url", url) as terminal:
            assert await terminal.ended() == 0
    assert f'(interrupted after 0.2 s: "I heard") {STRUCK}you.{PLAIN}' in terminal.shown
    assert "hearing" in terminal.shown
    assert "(hearing)" not in terminal.shown, "what passes leaves no line"


async def test_a_turn_that_ends_in_an_error_without_an_address_is_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving(World(broken={1})) as url:
        assert await talk(recorded(tmp_path, VOICE), "--url", url) == 1
    shown = capsys.readouterr().err
    assert shown.count("parley: a part of the answer was lost (engine_failed)") == 1
    assert notes(shown)[-1] == "listening"


async def test_an_answer_that_never_ends_is_not_waited_for_for_ever(
    said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handsfree, "QUIET_S", 0.1)
    async with serving(World(unfinished={2})) as url:
        assert await talk(said, "--url", url) == 1


async def test_a_server_that_says_nothing_of_any_turn_is_not_listened_to_for_ever(
    said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handsfree, "QUIET_S", 0.5)
    async with serving(World(grumbles=True)) as url:
        assert await talk(said, "--url", url) == 1


async def test_a_server_that_is_behind_is_waited_for(tmp_path: Path) -> None:
    world = World(late_by=10)
    async with serving(world) as url:
        assert await talk(recorded(tmp_path, VOICE * 2), "--url", url) == 0
    assert world.heard == [VOICE * 2]


async def test_a_recording_in_which_nobody_speaks_is_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving(World()) as url:
        assert await talk(recorded(tmp_path, SILENCE * 3), "--url", url) == 1
    assert capsys.readouterr().err.endswith("parley: the server heard no speech in said.wav\n")


async def test_an_utterance_that_is_refused_is_said_once_and_is_exit_code_1(
    said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refusal = ClientError("overloaded", "every worker is busy", retryable=True, retry_after_ms=1500.0)
    async with serving(World(refusal=refusal)) as url:
        assert await talk(said, "--url", url) == 1
    err = capsys.readouterr().err
    assert err.count("parley: every worker is busy (overloaded); try again in 1.5 s") == 2
    assert "no speech" not in err


async def test_a_lost_socket_is_mentioned_and_costs_no_word(
    said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(cuts=[8, 12])
    async with serving(world) as url:
        assert await talk(said, "--url", url) == 0
    assert world.heard == [FIRST, SECOND]
    shown = capsys.readouterr()
    assert shown.out == f"{REPLY}\n{REPLY}\n"
    assert shown.err.count("(reconnected)") == 2


@pytest.mark.parametrize(
    "words",
    [
        ["--hands-free", "--text", "hello"],
        ["--batch", "--text", "hello"],
        ["--headphones"],
        ["--silence-ms", "500"],
    ],
)
async def test_options_that_do_not_go_together_are_exit_code_2(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert await asyncio.to_thread(main, ["talk", *words]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("words", [["--silence-ms", "99"], ["--silence-ms", "x"], ["--batch"]])
async def test_bad_usage_is_exit_code_2(said: str, words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        await talk(said, *words)
    assert caught.value.code == 2
