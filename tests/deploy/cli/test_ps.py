"""`parley ps` over a real Redis, with what its real writers write."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from deploy.cli import overview
from deploy.cli.main import main
from deploy.cli.overview import Holder, Overview, Worker, look, state_of
from deploy.cli.ps import HOME, LEAVE, REST_OF_LINE, REST_OF_PAGE, fitting, report
from deploy.embedded import start_server
from edge.conversation import State
from shared.hold import Hold, Lease
from shared.keys import DEAD, WORKERS, Role, batch_key, log_key, worker_key
from shared.log import LogWriter
from shared.portfile import PortFile
from shared.settings import PORT_FILE
from shared.store import Store
from shared.wire import (
    Address,
    Chunk,
    Closed,
    Entry,
    Frame,
    Log,
    Open,
    Pause,
    Payload,
    ReplyEnd,
    SpeechEnd,
    Take,
    Token,
    UtteranceEnd,
    new_tag,
)
from shared.work import Announcement, Claim, WorkQueue, offer
from tests.conftest import eventually
from tests.deploy.cli.terminal import Terminal, on_terminal

ONE, TWO, THREE = "1" * 16, "2" * 16, "3" * 16
AUDIO = (Open(), Chunk(0, bytes(640)), Pause(320), Chunk(320, bytes(640)))
END = UtteranceEnd("silence", 640)
FRAME = Frame(0, 0, False, bytes(4800))


@pytest.fixture(autouse=True)
def to_this_redis(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)


async def write(store: Store, conversation: str, log: Log, *payloads: Payload, turn: int = 1) -> None:
    key = log_key(conversation, log)
    await LogWriter(store, key, turn, new_tag(), max_turn_bytes=1 << 20, ttl_s=60).append(*payloads)


async def announce(store: Store, said: Announcement, attached: int, **counts: int) -> None:
    await store.call("SADD", WORKERS, said.name)
    await store.call("SET", worker_key(said.name), said.dump(attached, counts))


async def ps(*words: str) -> int:
    """`parley ps`, in a thread: it has an event loop of its own."""
    return await asyncio.to_thread(main, ["ps", *words])


async def seen(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert await ps("--json") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


# ---- where a conversation is


def entry(turn: int, payload: Payload) -> Entry:
    return Entry(Address(turn, 1), new_tag(), 0, payload)


TOKEN, TAKE, CUT = Token("a"), Take(), Closed("barge_in")
HEARD, SPOKEN = Closed("heard"), SpeechEnd("stop", 1)


@pytest.mark.parametrize(
    ("audio", "text", "speech", "state"),
    [
        (None, None, None, "listening"),
        ((1, AUDIO[1]), (1, TAKE), (1, TAKE), "hearing"),
        ((1, AUDIO[2]), None, None, "hearing"),
        ((1, END), None, None, "thinking"),
        ((1, END), (1, TOKEN), (1, TAKE), "thinking"),
        ((1, END), (1, TOKEN), (1, FRAME), "speaking"),
        ((1, END), (1, ReplyEnd("stop", 1, 1)), (1, SPOKEN), "speaking"),
        ((1, END), (1, ReplyEnd("stop", 1, 1)), (1, HEARD), "listening"),
        ((1, END), (1, CUT), None, "listening"),
        ((1, Closed("abandoned")), None, None, "listening"),
        ((2, AUDIO[1]), (1, CUT), (1, CUT), "hearing"),
        ((2, END), (1, CUT), (1, CUT), "thinking"),
        ((2, END), (1, ReplyEnd("stop", 1, 1)), (1, FRAME), "speaking"),
    ],
)
def test_where_a_conversation_is_follows_from_the_last_entries_of_its_logs(
    audio: tuple[int, Payload] | None,
    text: tuple[int, Payload] | None,
    speech: tuple[int, Payload] | None,
    state: str,
) -> None:
    tails = {log: each and entry(*each) for log, each in zip(Log, (audio, text, speech), strict=True)}
    assert state_of(tails) == State(state)


# ---- what is found


async def test_workers_say_what_they_tell_and_no_more(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    llm = Announcement("a.1", Role.REPLY, "parrot", "parrot", 8)
    await announce(store, llm, 3, computing=1, started_ahead=12, wasted_starts=4)
    await announce(store, Announcement("b.1", Role.SPEAK, "espeak", "espeak", 4), 0)
    await announce(store, Announcement("c.1", "jobs", "parrot, espeak", "both", 1), 0, computing=0)
    await store.call("SADD", WORKERS, "dead", "odd")
    await store.call("SET", worker_key("odd"), "[]")
    found = await seen(capsys)
    assert [(each["role"], each["name"], each["engine"]) for each in found["workers"]] == [
        ("?", "odd", "?"),
        ("jobs", "c.1", "parrot, espeak"),
        ("llm", "a.1", "parrot"),
        ("tts", "b.1", "espeak"),
    ]
    assert found["workers"][2] == {
        "name": "a.1",
        "role": "llm",
        "engine": "parrot",
        "attached": 3,
        "computing": 1,
        "slots": 8,
        "started_ahead": 12,
        "wasted_starts": 4,
    }
    assert found["workers"][3]["started_ahead"] is None
    assert await ps("--once") == 0
    assert (
        "a.1     llm   parrot                 3          1      8     12       4" in capsys.readouterr().out
    )


async def test_a_backlog_is_what_waits_and_what_is_in_hands(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = await seen(capsys)
    assert [(each["name"], each["length"]) for each in empty["backlogs"]] == [
        ("work:reply:0", 0),
        ("work:speak:0", 0),
        ("batch", 0),
    ]
    for turn in (1, 2, 3):
        await offer(store, Role, ONE, turn)
    queue = WorkQueue(store, Role.REPLY, "a.1", lease_s=2.0)
    claims: list[Claim] = []
    while len(claims) < 2:  # the first read makes the group
        claims += await queue.wait(2 - len(claims))
    await store.call("RPUSH", batch_key(), f"{ONE}-4")
    await store.call("ZADD", overview.RUNNING, 1, f"{ONE}-3")
    await store.call("XADD", DEAD, "*", "reason", "a test")
    found = await seen(capsys)
    reply, speak, batch = found["backlogs"]
    assert (reply["length"], reply["unclaimed"], reply["pending"]) == (3, 1, 2)
    assert (speak["length"], speak["unclaimed"], speak["pending"]) == (3, 3, 0)
    assert speak["oldest_s"] >= reply["oldest_s"] >= 0
    assert (batch["length"], batch["unclaimed"], batch["pending"]) == (2, 1, 1)
    assert found["dead_letters"] == 1
    claims += await queue.wait(1)
    await queue.close()
    reply, *_ = (await seen(capsys))["backlogs"]
    assert (reply["unclaimed"], reply["oldest_s"], reply["pending"]) == (0, None, 3)


async def test_a_conversation_is_held_or_waits_for_its_client_or_has_ended(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (ONE, TWO):
        hold = Hold(store, name, new_tag(), lease=Lease(5.0, 120.0), edge="e")
        await hold.begin("token", {})
        await write(store, name, Log.AUDIO, *AUDIO)
    await hold.release(ended=False)
    await write(store, TWO, Log.TEXT, TOKEN)
    newer, older = (await seen(capsys))["conversations"]
    assert (newer["id"], newer["holder"], newer["state"]) == (TWO, "awaits client", "hearing")
    assert (older["id"], older["holder"], older["turn"]) == (ONE, "session", 1)
    assert newer["entries"] == {"audio": 4, "text": 1, "speech": 0}
    assert 60 < older["ttl_s"] <= 120
    assert newer["age_s"] <= older["age_s"]
    assert await ps() == 0, "once, for standard output is no terminal here"
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(TWO))
    assert "hearing  awaits client" in line
    await hold.release(ended=True)
    assert (await seen(capsys))["conversations"][0]["holder"] == "ended"


@pytest.mark.parametrize(
    "fields",
    [
        {"w": "a", "kind": "laughter", "at": 1},
        {"w": "a", "at": 1},
        {"w": "a", "kind": "token", "at": "yesterday"},
        {"kind": "token", "at": 1, "text": b"\xff"},
    ],
)
async def test_an_entry_that_cannot_be_read_hides_no_conversation(
    fields: dict[str, Any], store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """As one of a newer worker is, while its peers are replaced."""
    await write(store, ONE, Log.AUDIO, *AUDIO, END)
    flat = [word for pair in fields.items() for word in pair]
    await store.call("XADD", log_key(ONE, Log.TEXT), "1-0", *flat)
    await write(store, TWO, Log.AUDIO, *AUDIO)
    newer, older = (await seen(capsys))["conversations"]
    assert (newer["id"], newer["state"]) == (TWO, "hearing")
    assert (older["id"], older["turn"], older["state"]) == (ONE, 1, None)
    assert older["entries"] == {"audio": 5, "text": 1, "speech": 0}
    assert await ps() == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(ONE))
    assert line.split()[1] == "?"
    await store.call("DEL", log_key(ONE, Log.TEXT))


async def test_only_the_newest_are_listed_and_the_others_counted(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (ONE, TWO, THREE):
        await write(store, name, Log.AUDIO, *AUDIO)
    assert await ps("-n", "2") == 0
    out = capsys.readouterr().out
    assert THREE in out
    assert TWO in out
    assert ONE not in out
    assert out.endswith("\n1 more\n")


async def test_what_it_costs_is_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (ONE, TWO, THREE):
        await write(store, name, Log.AUDIO, *AUDIO)
    monkeypatch.setattr(overview, "LOOKED_AT", 2)
    found = await look(store, 10)
    assert (len(found.conversations), found.found, found.looked_at, found.more) == (2, 3, 2, False)
    assert list(report(found))[-2:] == ["1 more", "(the newest of 2 that were looked at)"]
    monkeypatch.setattr(overview, "SCANS", 1)
    monkeypatch.setattr(overview, "KEYS_A_SCAN", 1)
    await store.call("MSET", *(word for number in range(200) for word in (f"other:{number}", "x")))
    found = await look(store, 10)
    assert found.more
    await store.call("DEL", *(f"other:{number}" for number in range(200)))


async def test_nothing_at_all_is_said_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert await ps("--once") == 0
    out = capsys.readouterr().out
    assert "no worker is running" in out
    assert out.endswith("no conversation\n")


async def test_without_redis_it_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    assert await ps("--once") == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("parley: ")
    assert said.err.count("\n") == 1


# ---- live


def test_a_low_terminal_gets_fewer_conversations_and_their_number() -> None:
    conversations = [
        overview.Conversation(
            f"{n:016x}", 1, State.HEARING, 0.0, Holder.SESSION, 9.0, {"audio": 1, "text": 0, "speech": 0}
        )
        for n in range(9)
    ]
    found = Overview(
        [Worker("a", "llm", "e", 0, 0, 1, None, None)], [], 0, conversations, found=9, looked_at=9, more=False
    )
    whole = list(report(found))
    assert fitting(found, len(whole)) == whole
    lines = fitting(found, len(whole) - 3)
    assert len(lines) == len(whole) - 3
    assert lines[-1] == "4 more"


def pages(terminal: Terminal) -> list[str]:
    """What it drew, page by page."""
    return terminal.shown.split(HOME)


async def test_on_a_terminal_it_goes_on_until_ctrl_c_and_leaves_it_as_it_was(store: Store) -> None:
    await write(store, ONE, Log.AUDIO, *AUDIO)
    async with on_terminal("ps", "--interval", "0.2", columns=40) as terminal:
        await eventually(lambda: ONE in terminal.shown, "a conversation")
        await write(store, TWO, Log.AUDIO, *AUDIO)
        await eventually(lambda: TWO in terminal.shown, "another one")
        terminal.process.send_signal(signal.SIGINT)
        assert await terminal.ended() == 130
    assert terminal.shown.endswith(LEAVE)
    assert "Traceback" not in terminal.shown
    last = pages(terminal)[-1].removesuffix(LEAVE).replace(REST_OF_PAGE, "")
    assert max(len(line.rstrip("\r").removesuffix(REST_OF_LINE)) for line in last.split("\n")) == 40


async def test_while_redis_is_away_what_was_seen_stays_and_it_goes_on_afterwards(tmp_path: Path) -> None:
    server = start_server(tmp_path)
    url = server.url
    port = int(url.rpartition(":")[2])
    try:
        store = Store(url)
        await write(store, ONE, Log.AUDIO, *AUDIO)
        async with on_terminal("ps", "--interval", "0.2", env={"REDIS_URL": url}) as terminal:
            await eventually(lambda: ONE in terminal.shown, "a conversation")
            await store.close()
            server.stop()
            await eventually(
                lambda: any("Redis is away" in page and ONE in page for page in pages(terminal)),
                "what was seen, and that Redis is away",
            )
            server = start_server(tmp_path, port)
            store = Store(url)
            await write(store, TWO, Log.AUDIO, *AUDIO)
            await eventually(
                lambda: any(TWO in page and "away" not in page for page in pages(terminal)), "another one"
            )
            await store.close()
    finally:
        server.stop()


async def test_a_redis_that_comes_back_elsewhere_is_found_and_the_old_one_let_go(
    tmp_path: Path, store: Store, redis_url: str
) -> None:
    async def connections() -> int:
        return len((await store.call("CLIENT", "LIST")).splitlines())

    async def only_ours() -> bool:
        return await connections() == ours

    ours = await connections()
    await write(store, ONE, Log.AUDIO, *AUDIO)
    file = PortFile(tmp_path / PORT_FILE)
    other = start_server(tmp_path / "other")
    try:
        file.announce(int(redis_url.rpartition(":")[2]))
        environment = {"REDIS_URL": "", "PARLEY_DATA": str(tmp_path)}
        async with on_terminal("ps", "--interval", "0.2", env=environment) as terminal:
            await eventually(lambda: ONE in terminal.shown, "a conversation")
            assert await connections() == ours + 1
            file.announce(int(other.url.rpartition(":")[2]))
            await eventually(lambda: "no conversation" in terminal.shown, "the other one holds none")
            await eventually(only_ours, "the connection is closed")
    finally:
        file.withdraw()
        other.stop()


async def test_it_changes_nothing(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    await write(store, ONE, Log.AUDIO, *AUDIO)
    await announce(store, Announcement("a.1", Role.REPLY, "parrot", "parrot", 8), 0)
    await store.call("SADD", WORKERS, "dead")

    async def keys() -> dict[bytes, bytes]:
        names = sorted(await store.call("KEYS", "*"))
        return dict(zip(names, await store.call_all([("DUMP", name) for name in names]), strict=True))

    before = await keys()
    await seen(capsys)
    assert await keys() == before


@pytest.mark.parametrize(
    "words", [["--interval", "0"], ["-n", "0"], ["--once", "--json"], ["--interval", "x"]]
)
async def test_bad_usage_is_exit_code_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        await ps(*words)
    assert caught.value.code == 2
