from __future__ import annotations

import asyncio
import signal
import sys
import wave
from pathlib import Path

import pytest

from deploy.cli.main import main
from shared.audio import to_wav
from shared.errors import ClientError
from tests.conftest import WITHIN_S, eventually
from tests.deploy.cli.fake_edge import FRAMES, WORDS, World, serving
from tests.deploy.cli.terminal import on_terminal

PCM = bytes(range(256)) * 25
"""0.2 s of sound."""
REPLY = "".join(WORDS)


@pytest.fixture
def question(tmp_path: Path) -> str:
    path = tmp_path / "question.wav"
    path.write_bytes(to_wav(PCM, 16_000))
    return str(path)


async def talk(*words: str) -> int:
    """`parley talk`, in a thread: it has an event loop of its own."""
    return await asyncio.to_thread(main, ["talk", *words])


async def test_a_recording_is_answered_in_words_and_in_a_file(
    question: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world, output = World(), tmp_path / "answer.wav"
    async with serving(world) as url:
        assert await talk(question, "-o", str(output), "--url", url) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{REPLY}\n"
    assert [line.split("  ")[0] for line in shown.err.splitlines()[1:4]] == [
        "first token",
        "first audio",
        "last frame",
    ]
    assert world.heard == [PCM]
    with wave.open(str(output)) as answer:
        assert answer.getframerate() == 24_000
        assert answer.readframes(answer.getnframes()) == b"".join(
            bytes([1, seq]) * 2400 for seq in range(FRAMES)
        )


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
async def test_a_typed_question_is_answered_in_either_encoding(
    encoding: str, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World()
    async with serving(world) as url:
        assert await talk("--text", "how are you?", "--url", url, "--encoding", encoding) == 0
    assert world.heard == ["how are you?"]
    assert capsys.readouterr().out == f"{REPLY}\n"


async def test_what_is_wished_for_reaches_the_server(question: str) -> None:
    world = World()
    async with serving(world) as url:
        await talk(question, "--url", url, "--voice", "fake", "--language", "en", "--speed", "1.5")
    (settings,) = world.settings
    wished = {name: settings[name] for name in ("voice", "language", "speed", "pacing", "input_sample_rate")}
    assert wished == {
        "voice": "fake",
        "language": "en",
        "speed": 1.5,
        "pacing": "none",
        "input_sample_rate": 16_000,
    }


async def test_a_lost_socket_is_mentioned_and_costs_nothing(
    question: str, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(cuts=[6, 16])
    async with serving(world) as url:
        assert await talk(question, "--url", url) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{REPLY}\n"
    assert shown.err.count("(reconnected)") == 2
    assert world.heard == [PCM]


async def test_a_turn_that_is_refused_is_one_line_and_exit_code_1(
    question: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refusal = ClientError("overloaded", "every worker is busy", retryable=True, retry_after_ms=1500.0)
    async with serving(World(refusal=refusal)) as url:
        assert await talk(question, "--url", url) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "parley: every worker is busy (overloaded); try again in 1.5 s\n"


async def test_a_conversation_that_is_lost_is_exit_code_3(
    question: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving(World(cuts=[6], forgets=True)) as url:
        assert await talk(question, "--url", url) == 3
    assert "does not know the conversation" in capsys.readouterr().err


async def test_no_server_is_exit_code_3(question: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert await talk(question, "--url", "ws://127.0.0.1:1/ws") == 3
    assert capsys.readouterr().err == "parley: ws://127.0.0.1:1/ws: nobody listens there\n"


async def test_a_server_that_is_full_says_when_to_try_again_and_is_exit_code_3(
    question: str, capsys: pytest.CaptureFixture[str]
) -> None:
    full = ClientError("overloaded", "no more conversations here", retryable=True, retry_after_ms=1500.0)
    world = World(refused_with=full)
    async with serving(world) as url:
        assert await talk(question, "--url", url) == 3
    said = "answers 503 (no more conversations here); try again in 1.5 s"
    assert capsys.readouterr().err == f"parley: {url} {said}\n"
    assert len(world.asked_for) == 1


async def test_by_default_the_server_of_this_host_is_asked(
    question: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PORT", "1")
    assert await talk(question) == 3
    assert "ws://127.0.0.1:1/ws" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["missing.wav"], [__file__]])
async def test_a_file_that_is_no_recording_is_exit_code_2(
    wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert await talk(*wrong) == 2
    assert capsys.readouterr().err.count("\n") == 1


async def test_an_answer_that_cannot_be_written_is_known_before_the_question_is_asked(
    question: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World()
    async with serving(world) as url:
        assert await talk(question, "--url", url, "-o", str(tmp_path / "no" / "answer.wav")) == 2
        assert await talk(question, "--url", url, "-o", str(tmp_path)) == 2
    assert capsys.readouterr().err.count("cannot be written") == 2
    assert world.sockets == 0


async def test_a_key_comes_out_of_a_file_or_the_settings_and_is_shown_in_the_handshake(
    question: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, file = World(), tmp_path / "key"
    file.write_text("a-key-in-a-file\n")
    monkeypatch.setenv("PARLEY_API_KEYS", "a-key-of-this-host,another-key")
    async with serving(world) as url:
        await talk("--text", "one", "--url", url)
        await talk("--text", "two", "--url", url, "--key-file", str(file))
    assert world.keys == ["Bearer a-key-of-this-host", "Bearer a-key-in-a-file"]


@pytest.mark.parametrize("held", [None, "", "a-key\nanother-key\n", "a key", "a-k\x00ey"])
async def test_a_key_file_that_holds_no_key_is_exit_code_2_and_shown_to_nobody(
    held: str | None, question: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "key"
    if held is not None:
        file.write_text(held)
    world = World()
    async with serving(world) as url:
        assert await talk(question, "--url", url, "--key-file", str(file)) == 2
    assert capsys.readouterr().err == f"parley: {file}: no key can be read from it\n"
    assert world.asked_for == []


async def test_no_more_is_sent_than_one_utterance_may_hold(
    question: str, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(max_utterance_s=0.1)
    async with serving(world) as url:
        assert await talk(question, "--url", url) == 0
    assert world.heard == [PCM[:3200]]
    assert "no more than 0.1 s at once" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--chunk-ms", "0"], ["--chunk-ms", "x"], ["--encoding", "xml"]])
async def test_bad_usage_is_exit_code_2(question: str, words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        await talk(question, *words)
    assert caught.value.code == 2


async def test_ctrl_c_ends_the_conversation_and_is_exit_code_130(question: str) -> None:
    world = World(silent=True)
    async with serving(world) as url:
        words = ("-m", "deploy.cli", "talk", question, "--url", url)
        talking = await asyncio.create_subprocess_exec(
            sys.executable, *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        try:
            await eventually(lambda: world.heard == [PCM], "a question")
            talking.send_signal(signal.SIGINT)
            out, err = await asyncio.wait_for(talking.communicate(), WITHIN_S)
        finally:
            if talking.returncode is None:
                talking.kill()
                await talking.communicate()
        await eventually(lambda: world.goodbyes == 1, "a goodbye")
    assert (talking.returncode, out, err) == (130, b"", b"")


async def test_without_a_sound_library_one_line_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert await talk() == 2
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1
    assert "pip install sounddevice" in shown.err


async def test_an_answer_in_one_piece_is_shown_with_the_time_that_it_took(
    question: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world, output = World(), tmp_path / "answer.wav"
    async with serving(world) as url:
        assert await talk(question, "--batch", "-o", str(output), "--url", url) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{REPLY}\n"
    assert [line.split("  ")[0] for line in shown.err.splitlines()[1:2]] == ["whole answer"]
    assert "server 90 ms" in shown.err
    assert (world.heard, world.batch) == ([PCM], {1})
    assert output.stat().st_size == 44 + FRAMES * 4800


async def test_a_server_without_a_jobs_worker_says_so(
    question: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refusal = ClientError("overloaded", "no jobs worker is running", retryable=True, retry_after_ms=1000.0)
    async with serving(World(no_jobs=refusal)) as url:
        assert await talk(question, "--batch", "--url", url) == 1
    assert capsys.readouterr().err == "parley: no jobs worker is running (overloaded); try again in 1 s\n"


async def test_on_a_terminal_the_words_stand_between_progress_and_waterfall(question: str) -> None:
    """On a real one, as a terminal emulator would read it."""
    async with serving(World()) as url:
        async with on_terminal("talk", question, "--url", url) as terminal:
            assert await terminal.ended() == 0
    progress, _, rest = terminal.shown.partition(REPLY)
    assert "question.wav ━" in progress
    assert "0.2 / 0.2 s" in progress
    assert rest.startswith("\r\n\r\nfirst token  █")
