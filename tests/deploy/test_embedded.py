from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest
import redis

from deploy.embedded import start_server
from deploy.embedded.probe import is_free
from shared.portfile import PortFile
from shared.settings import EX_CONFIG
from tests.deploy.support import Running, lives, running, wait_until

PORTS = iter(range(14_000 + os.getpid() % 1000 * 5, 20_000))


@pytest.fixture
def port() -> int:
    """A port that is free, and so are the four after it."""
    return next(port for port in PORTS if all(is_free(port + offset) for offset in range(5)))


@pytest.fixture
def taken(port: int) -> Iterator[socket.socket]:
    """Something else listens on `port`."""
    with socket.create_server(("127.0.0.1", port)) as listening:
        yield listening


def embedded(folder: Path, port: int, **environ: str) -> AbstractContextManager[Running]:
    folder.mkdir(exist_ok=True)
    settings = {"PARLEY_DATA": "data", "PARLEY_REDIS_PORT": str(port), "REDIS_URL": "", **environ}
    return running(folder, "deploy.embedded", **settings)


def announced(folder: Path) -> int:
    """The port that the embedded Redis over `folder` has announced, once it has."""
    port_file = PortFile(folder / "data" / "redis.port")
    wait_until(lambda: port_file.read() is not None, "a port is announced")
    return port_file.read() or 0


def connect(port: int) -> redis.Redis:
    return redis.Redis(port=port, decode_responses=True)


def server_pid(port: int) -> int:
    with connect(port) as client:
        return int(client.info("server")["process_id"])


def test_it_announces_a_server_that_answers_and_leaves_nothing_behind(tmp_path: Path, port: int) -> None:
    with embedded(tmp_path, port) as role:
        assert announced(tmp_path) == port
        pid = server_pid(port)
        role.process.terminate()
        assert role.ended() == 0
        assert not lives(pid)
        assert not (tmp_path / "data" / "redis.port").exists()
        assert role.output.count("\n") == 1 and f"Redis is on 127.0.0.1:{port}, its data in" in role.output


def test_what_was_written_stands_there_after_a_stop_and_a_start(tmp_path: Path, port: int) -> None:
    for expected in (None, "yes"):
        with embedded(tmp_path, port) as role:
            with connect(announced(tmp_path)) as client:
                assert client.get("kept") == expected
                client.set("kept", "yes")
            role.process.terminate()
            assert role.ended() == 0


@pytest.mark.parametrize("fsync", ["everysec", "always"])
def test_it_writes_to_the_disk_as_it_is_told(tmp_path: Path, port: int, fsync: str) -> None:
    with embedded(tmp_path, port, PARLEY_REDIS_FSYNC=fsync), connect(announced(tmp_path)) as client:
        assert client.config_get("appendfsync") == {"appendfsync": fsync}


def test_if_the_port_is_taken_it_takes_the_next_and_says_so(
    tmp_path: Path, port: int, taken: socket.socket
) -> None:
    with embedded(tmp_path, port) as role:
        assert announced(tmp_path) == port + 1
        assert server_pid(port + 1)
        role.wait_for(f"127.0.0.1:{port + 1} (port {port} is taken)")


def test_many_that_start_at_once_all_find_a_port(tmp_path: Path, port: int) -> None:
    folders = [tmp_path / str(number) for number in range(4)]
    with ExitStack() as stack:
        for folder in folders:
            stack.enter_context(embedded(folder, port))
        assert len({announced(folder) for folder in folders}) == len(folders)
        assert len({server_pid(announced(folder)) for folder in folders}) == len(folders)


def test_without_a_free_port_it_ends_with_one_line(tmp_path: Path) -> None:
    with socket.socket() as last:
        last.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        last.bind(("127.0.0.1", 65535))
        last.listen()
        with embedded(tmp_path, 65535) as role:
            assert role.ended() == 1
            assert role.output.count("\n") == 1 and "no free port from 65535 on" in role.output


def test_a_second_one_over_the_same_folder_is_refused(tmp_path: Path, port: int) -> None:
    with embedded(tmp_path, port) as first:
        announced(tmp_path)
        with embedded(tmp_path, port) as second:
            assert second.ended() == 1
            assert f"another server runs over {tmp_path}/data/redis (process {first.pid})" in second.output
        assert announced(tmp_path) == port
        assert server_pid(port)


def test_a_killed_server_is_up_again_within_a_second_where_it_was_with_its_data(
    tmp_path: Path, port: int, taken: socket.socket
) -> None:
    with embedded(tmp_path, port) as role, connect(announced(tmp_path)) as client:
        client.config_set("appendfsync", "always")
        client.set("kept", "yes")
        taken.close()  # the wanted port is free now, but the others know this one
        first = server_pid(port + 1)
        killed_at = time.monotonic()
        os.kill(first, signal.SIGKILL)
        role.wait_for("the server is up again")
        assert time.monotonic() - killed_at < 1
        assert announced(tmp_path) == port + 1
        assert server_pid(port + 1) != first
        assert client.get("kept") == "yes"


def test_the_server_ends_with_its_supervisor_and_the_next_one_takes_its_place(
    tmp_path: Path, port: int, taken: socket.socket
) -> None:
    with embedded(tmp_path, port) as role:
        with connect(announced(tmp_path)) as client:
            client.set("kept", "yes")
        pid = server_pid(port + 1)
        role.process.kill()
        role.ended()
        with embedded(tmp_path, port):
            assert announced(tmp_path) == port + 1
            assert not lives(pid)
            with connect(port + 1) as client:
                assert client.get("kept") == "yes"


def test_a_port_of_another_setting_is_not_kept_after_a_crash(tmp_path: Path, port: int) -> None:
    with embedded(tmp_path, port + 1) as role:
        announced(tmp_path)
        role.process.kill()
        role.ended()
    with embedded(tmp_path, port + 2):
        assert announced(tmp_path) == port + 2


def test_with_a_redis_url_it_is_idle_until_it_is_stopped(tmp_path: Path, port: int) -> None:
    with embedded(tmp_path, port, REDIS_URL="redis://elsewhere:6379/0") as role:
        role.wait_for("REDIS_URL is set: no embedded Redis")
        assert is_free(port)
        assert not (tmp_path / "data").exists()
        role.process.terminate()
        assert role.ended() == 0


def test_at_a_stop_it_stays_until_the_others_are_gone(tmp_path: Path, port: int) -> None:
    with embedded(tmp_path, port, DRAIN_S="600") as role:
        with connect(announced(tmp_path)) as client, connect(port) as watching:
            client.ping()
            role.process.terminate()
            wait_until(lambda: len(watching.client_list()) == 3, "it asks who is connected")
            client.set("last", "words")
        assert role.ended() == 0
        assert "still open" not in role.output
    server = start_server(tmp_path / "data" / "redis")
    with connect(server.port) as client:
        assert client.get("last") == "words"
    server.stop()


def test_it_does_not_wait_for_the_others_for_ever(tmp_path: Path, port: int) -> None:
    with embedded(tmp_path, port, DRAIN_S="0") as role, connect(announced(tmp_path)) as client:
        client.ping()
        role.process.terminate()
        assert role.ended() == 0
        assert "stopping, with connections still open: 1" in role.output


def test_data_that_cannot_be_read_ends_it_with_the_reason(tmp_path: Path, port: int) -> None:
    with embedded(tmp_path, port) as role:
        announced(tmp_path)
        role.process.terminate()
        role.ended()
    manifest = tmp_path / "data" / "redis" / "appendonlydir" / "appendonly.aof.manifest"
    manifest.write_text("nonsense\n")
    with embedded(tmp_path, port) as role:
        assert role.ended() == 1
        assert role.output.count("\n") == 1
        assert "the server in" in role.output and "manifest" in role.output


def test_a_folder_that_cannot_be_made_ends_it_with_one_line(tmp_path: Path, port: int) -> None:
    (tmp_path / "data").write_text("in the way")
    with embedded(tmp_path, port) as role:
        assert role.ended() == 1
        assert role.output.count("\n") == 1 and "Not a directory" in role.output


def test_a_bad_setting_ends_it_with_its_own_exit_code(tmp_path: Path) -> None:
    with embedded(tmp_path, 0) as role:
        assert role.ended() == EX_CONFIG
        assert (
            role.output == "bad setting: PARLEY_REDIS_PORT is '0'; expected a whole number from 1 to 65535\n"
        )
