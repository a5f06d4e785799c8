from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from deploy.embedded import FolderInUse, PortTaken, RedisServer, ServerError, start_server
from deploy.embedded.probe import Probe, is_free
from deploy.embedded.server import embedded_binary
from tests.deploy.support import lives, wait_until

BINARIES = {"embedded": None, "redis-server": shutil.which("redis-server")}


@pytest.fixture(params=BINARIES)
def binary(request: pytest.FixtureRequest) -> Path | None:
    """The embedded server, and another where there is one."""
    if request.param == "redis-server" and BINARIES["redis-server"] is None:
        pytest.skip("there is no redis-server on this machine")
    path = BINARIES[request.param]
    return Path(path) if path else None


@pytest.fixture
def server(tmp_path: Path, binary: Path | None) -> Iterator[RedisServer]:
    server = start_server(tmp_path / "redis", binary=binary)
    yield server
    server.kill()


def client(server: RedisServer) -> redis.Redis:
    return redis.Redis.from_url(server.url, decode_responses=True)


def test_a_server_that_is_started_answers_and_keeps_what_it_is_told(server: RedisServer) -> None:
    with client(server) as connection:
        assert connection.ping()
        configured = connection.config_get("*")
    expected = {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "bind": "127.0.0.1",
        "protected-mode": "yes",
        "save": "",
        "aof-load-truncated": "yes",
    }
    assert {name: configured[name] for name in expected} == expected


@pytest.mark.parametrize("end", [RedisServer.stop, RedisServer.kill])
def test_its_data_and_port_outlive_an_end_and_a_restart(server: RedisServer, end: object) -> None:
    with client(server) as connection:
        connection.config_set("appendfsync", "always")
        connection.set("kept", "yes")
        before = server.url
        assert callable(end)
        end(server)
        assert not lives(server.pid)
        server.restart()
        assert server.url == before
        assert connection.get("kept") == "yes"


def test_a_log_cut_off_in_mid_write_costs_that_write_only(server: RedisServer) -> None:
    with client(server) as connection:
        connection.config_set("appendfsync", "always")
        connection.set("first", "1")
        connection.set("second", "2")
        server.kill()
        [log] = (server.directory / "appendonlydir").glob("*.incr.aof")
        os.truncate(log, log.stat().st_size - 3)
        server.restart()
        assert connection.mget("first", "second") == ["1", None]


def test_a_server_is_not_ready_while_it_loads(tmp_path: Path) -> None:
    # The delay stands for a big log: microseconds for each key.
    slow = {"appendfsync": "always", "key-load-delay": "300", "loading-process-events-interval-bytes": "1024"}
    server = start_server(tmp_path, options=slow)
    try:
        with client(server) as connection:
            connection.mset({f"key-{number}": "value" * 10 for number in range(1000)})
            connection.execute_command("BGREWRITEAOF")
            wait_until(
                lambda: connection.info("persistence")["aof_rewrite_in_progress"] == 0, "the log is rewritten"
            )
            server.kill()
            server.launch()
            answers: list[tuple[bool, bool]] = []

            def is_loaded() -> bool:
                answers.append((_is_loading(server), server.is_ready()))
                return answers[-1][1]

            wait_until(is_loaded, "the data is loaded")
            assert any(loading for loading, _ in answers)
            assert connection.dbsize() == 1000
    finally:
        server.kill()


def _is_loading(server: RedisServer) -> bool:
    try:
        with Probe(server.port) as probe:
            return probe.info()["loading"] == "1"
    except OSError:
        return False


def test_two_servers_never_run_over_one_folder(server: RedisServer, binary: Path | None) -> None:
    with pytest.raises(FolderInUse, match=rf"{server.directory} \(process {os.getpid()}\)"):
        start_server(server.directory, binary=binary)
    with client(server) as connection:
        assert connection.ping()
    server.stop()
    start_server(server.directory, binary=binary).stop()


def test_the_folder_stays_locked_until_the_server_itself_is_gone(tmp_path: Path) -> None:
    # The object is lost, as in a process that was killed; its server is stopped and so cannot end.
    server = start_server(tmp_path)
    os.kill(server.pid, signal.SIGSTOP)
    server._lock.release()
    try:
        with pytest.raises(FolderInUse):
            start_server(tmp_path)
    finally:
        server.kill()
    start_server(tmp_path).stop()


def test_a_port_that_is_taken_is_told_apart_from_other_failures(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(PortTaken):
            start_server(tmp_path / "a", port=taken.getsockname()[1])
    with pytest.raises(ServerError, match=r"(?i)bad directive|unrecognized|unknown") as refused:
        start_server(tmp_path / "b", options={"no-such-option": "1"})
    assert not isinstance(refused.value, PortTaken)


def test_another_server_on_the_port_is_not_mistaken_for_the_own(server: RedisServer, tmp_path: Path) -> None:
    second = RedisServer(tmp_path / "second", server.port)
    second.launch()
    with pytest.raises(PortTaken):
        wait_until(second.is_ready, "ready")
    second.kill()


def test_a_folder_that_cannot_be_made_is_a_server_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ServerError, match="cannot start"):
        start_server(tmp_path / "file" / "redis")


def test_a_binary_that_does_not_exist_is_a_server_error(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="cannot start"):
        start_server(tmp_path, binary=tmp_path / "no-server")
    start_server(tmp_path).stop()


def test_the_embedded_binary_is_a_program() -> None:
    assert os.access(embedded_binary(), os.X_OK)


def test_other_connections_are_counted_without_the_probe(server: RedisServer) -> None:
    with Probe(server.port) as probe:
        assert probe.others() == 0
        with client(server) as connection:
            connection.ping()
            assert probe.others() == 1
        wait_until(lambda: probe.others() == 0, "nobody is connected")


def test_a_probe_of_something_else_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, Probe(listening.getsockname()[1]) as probe:
        accepted, _ = listening.accept()
        with accepted:
            accepted.sendall(b"-NOAUTH Authentication required.\r\n")
            with pytest.raises(ConnectionError, match="NOAUTH"):
                probe.info()
            accepted.sendall(b"$100\r\nshort")
            accepted.shutdown(socket.SHUT_WR)
            with pytest.raises(ConnectionError, match="broke off"):
                probe.info()


def test_a_port_in_use_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert not is_free(port)
    assert is_free(port)
