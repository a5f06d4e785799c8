from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from edge.server import UNREAD_TIMEOUT_MS, UNSENT_BYTES, listen
from shared.keys import WORKERS, Role, worker_key
from shared.settings import EX_CONFIG
from shared.store import Store
from shared.work import Announcement
from tests.conftest import eventually
from tests.edge.world import Client
from tests.stack import free_port, get

ROOT = Path(__file__).parent.parent.parent


@contextmanager
def edge(redis_url: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "edge"],
        cwd=ROOT,
        env={**os.environ, "REDIS_URL": redis_url, "DRAIN_S": "2", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


async def announce(store: Store) -> None:
    """Both workers live, as far as anybody can see."""
    for role, engine in ((Role.REPLY, "parrot"), (Role.SPEAK, "espeak")):
        said = Announcement(role.value, role, engine, f"{engine}: nothing better is here", 64)
        await store.call("SET", worker_key(role.value), said.dump(0))
        await store.call("SADD", WORKERS, role.value)


async def serves(process: subprocess.Popen[str], port: int) -> None:
    def healthy() -> bool:
        assert process.poll() is None, process.communicate()
        return get(f"http://127.0.0.1:{port}/healthz")[0] == 200

    await eventually(healthy, "the edge serves")


async def ready(port: int) -> None:
    await eventually(lambda: get(f"http://127.0.0.1:{port}/readyz")[0] == 200, "the edge is ready")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_edge_in_order_and_in_time(
    redis_url: str, store: Store, number: signal.Signals
) -> None:
    port = free_port()
    await announce(store)
    with edge(redis_url, PORT=str(port)) as process:
        await serves(process, port)
        await ready(port)
        async with connect(f"ws://127.0.0.1:{port}/ws?encoding=msgpack", proxy=None) as bare:
            client = await Client(bare, "msgpack").greet()
            process.send_signal(number)
            await client.until("going_away")
            assert await client.closed() == 1012
        output, errors = process.communicate(timeout=10)
        assert process.returncode == 0, errors
        assert "Traceback" not in errors
        assert output.count("\n") == 1, "it said that it was ready, and nothing else"


async def test_an_edge_that_stops_tells_who_comes_to_go_elsewhere(redis_url: str, store: Store) -> None:
    port = free_port()
    url = f"ws://127.0.0.1:{port}/ws?encoding=msgpack"
    await announce(store)
    with edge(redis_url, PORT=str(port), DRAIN_S="4") as process:
        await serves(process, port)
        await ready(port)
        async with connect(url, proxy=None) as bare:
            client = await Client(bare, "msgpack").greet()
            await client.configure()
            await client.speak()
            await client.until("speech_stopped")
            process.terminate()
            away = await client.until("going_away")
            assert get(f"http://127.0.0.1:{port}/readyz")[0] == 503
            assert get(f"http://127.0.0.1:{port}/healthz")[0] == 200
            with pytest.raises(InvalidStatus) as refused:
                await connect(url, proxy=None)
            assert refused.value.response.status_code == 503
            assert 0 < away["deadline_ms"] < 4000
            assert await client.closed() == 1012
        _, errors = process.communicate(timeout=10)
        assert process.returncode == 0, errors
        assert "ERROR" not in errors


async def test_once_ready_the_edge_says_where_to_talk_and_to_which_engines(
    redis_url: str, store: Store
) -> None:
    port = free_port()
    with edge(redis_url, PORT=str(port)) as process:
        await serves(process, port)
        assert get(f"http://127.0.0.1:{port}/readyz")[0] == 503
        await announce(store)
        await ready(port)
        process.terminate()
        output, _ = process.communicate(timeout=10)
    assert output == (
        f"Parley is ready: http://127.0.0.1:{port}"
        " (llm: parrot: nothing better is here; tts: espeak: nothing better is here)\n"
    )


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"HOST": "0.0.0.0"}, "PARLEY_API_KEYS"),
        ({"PORT": "none"}, "PORT"),
    ],
)
def test_a_setting_that_cannot_be_used_stops_the_edge_with_one_line(
    redis_url: str, env: dict[str, str], said: str
) -> None:
    with edge(redis_url, **env) as process:
        _, errors = process.communicate(timeout=20)
    assert process.returncode == EX_CONFIG
    assert said in errors
    assert len(errors.splitlines()) == 1


def test_a_port_that_is_taken_is_said_in_one_line(redis_url: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with edge(redis_url, PORT=str(port)) as process:
            _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert f"127.0.0.1:{port}" in errors
    assert len(errors.splitlines()) == 1


def test_of_a_client_that_does_not_take_what_is_sent_the_kernel_keeps_little_and_not_for_long() -> None:
    with listen("127.0.0.1", 0) as listening:
        listening.listen()
        with socket.create_connection(listening.getsockname()):
            accepted, _ = listening.accept()
            with accepted:
                timeout_ms = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
                unsent_bytes = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
    assert (timeout_ms, unsent_bytes) == (UNREAD_TIMEOUT_MS, UNSENT_BYTES)
