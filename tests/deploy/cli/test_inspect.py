from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from deploy.cli.main import main
from shared.keys import log_key
from shared.log import LogWriter
from shared.store import Store
from shared.wire import Chunk, Log, Open, Payload, ReplyEnd, Semantic, Token, UtteranceEnd, new_tag
from tests.conftest import WITHIN_S
from tests.shared.support import spoil

ID = "4f1c9a0be27d6358"
THE_END = b"stop, 2 tokens, 1 chunks\n"


async def write(store: Store, log: Log, *payloads: Payload, turn: int = 1) -> None:
    key = log_key(ID, log)
    writer = LogWriter(store, key, turn, new_tag(), max_turn_bytes=1 << 20, ttl_s=60)
    await writer.append(*payloads)


async def write_a_turn(store: Store, turn: int = 1) -> None:
    pcm = bytes(640)
    await write(
        store, Log.AUDIO, Open(), Chunk(0, pcm), Chunk(320, pcm), UtteranceEnd("client", 640), turn=turn
    )
    await write(
        store,
        Log.TEXT,
        Token("Hello"),
        Token("!"),
        Semantic("Hello!", 0, 6, "sentence_end"),
        ReplyEnd("stop", 2, 1),
        turn=turn,
    )


async def inspect(*words: str) -> int:
    """`parley inspect`, in a thread: it has an event loop of its own."""
    return await asyncio.to_thread(main, ["inspect", *words])


@asynccontextmanager
async def following(*options: str) -> AsyncIterator[tuple[Process, asyncio.StreamReader]]:
    """`parley inspect --follow` as a process, and what it prints, once it has shown a turn to its end."""
    words = ("-m", "deploy.cli", "inspect", ID, "--follow", *options)
    process = await asyncio.create_subprocess_exec(sys.executable, *words, stdout=PIPE, stderr=PIPE)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(WITHIN_S):
            await process.stdout.readuntil(THE_END)
            yield process, process.stdout
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture(autouse=True)
def to_this_redis(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)


async def test_a_conversation_is_shown_as_one_timeline(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    await write_a_turn(store)
    assert await inspect(ID) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["ms", "log", "address", "writer", "kind", "what"]
    assert [line.split()[1:3] for line in lines[:7]] == [
        ["audio", "1-0"],
        ["audio", "1-1…2"],
        ["audio", "1-3"],
        ["text", "1-0"],
        ["text", "1-1"],
        ["text", "1-2"],
        ["text", "1-3"],
    ]
    assert "turn 1: 0.04 s of speech; being answered" in lines


async def test_one_turn_can_be_asked_for(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    await write_a_turn(store, 1)
    await write_a_turn(store, 2)
    assert await inspect(ID, "--turn", "2", "--all") == 0
    lines = capsys.readouterr().out.splitlines()
    addresses = [line.split()[2] for line in lines[1:9]]
    assert addresses == ["2-0", "2-1", "2-2", "2-3"] * 2


async def test_everything_can_be_had_as_json(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    await write_a_turn(store)
    assert await inspect(ID, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["conversation"] == ID
    assert [entry["kind"] for entry in found["entries"]] == [
        *("open", "chunk", "chunk", "end"),
        *("token", "token", "semantic", "end"),
    ]
    assert found["entries"][1]["pcm_bytes"] == 640
    assert found["turns"][0]["tokens"] == 2


async def test_an_entry_that_cannot_be_read_stands_where_it_is_and_hides_no_other(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """As one of a newer worker does, while its peers are replaced."""
    await write_a_turn(store)
    await store.call("XADD", log_key(ID, Log.TEXT), "1-4", "w", "a-tag", "kind", "laughter", "at", "1")
    assert await inspect(ID) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1:5] for line in lines if line.split()[2:3] == ["1-4"]] == [
        ["text", "1-4", "a-tag", "?"]
    ]
    assert "turn 1: 0.04 s of speech; being answered" in lines
    assert await inspect(ID, "--json") == 0
    assert json.loads(capsys.readouterr().out)["entries"][-1]["kind"] == "?"


async def test_a_conversation_that_is_not_there_is_said_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert await inspect(ID) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("words", [["conv:{x}"], ["*"], [ID, "--turn", "0"]])
async def test_what_cannot_be_asked_for_is_bad_usage(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert await inspect(*words) == 2
    assert capsys.readouterr().err.count("\n") == 1


async def test_a_redis_that_is_not_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    assert await inspect(ID) == 1
    assert capsys.readouterr().err.count("\n") == 1


async def test_a_living_conversation_can_be_followed(store: Store) -> None:
    await write_a_turn(store)
    async with following("--all") as (process, printed):
        await write_a_turn(store, 2)
        written = await printed.readuntil(THE_END)
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
    assert [line.split()[2] for line in written.decode().splitlines()] == ["2-0", "2-1", "2-2", "2-3"] * 2


async def test_an_entry_that_cannot_be_read_ends_the_following_in_one_line(store: Store) -> None:
    await write_a_turn(store)
    async with following() as (process, _):
        await spoil(store, log_key(ID, Log.TEXT))
        _, err = await process.communicate()
    assert process.returncode == 1
    assert err.startswith(b"parley: text: 1-4 cannot be read")
    assert err.count(b"\n") == 1


async def test_a_story_that_was_lost_while_it_was_followed_is_one_line(store: Store) -> None:
    await write_a_turn(store)
    async with following() as (process, printed):
        await write(store, Log.TEXT, Token("Hello"), Token("!"), turn=2)
        await printed.readuntil(b"'!'")
        await store.call("DEL", *(log_key(ID, log) for log in Log))
        await write_a_turn(store, 2)
        _, err = await process.communicate()
    assert process.returncode == 1
    assert err.startswith(b"parley: ")
    assert err.count(b"\n") == 1
