from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shared.portfile import PortFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "redis.port"


def test_an_announced_port_can_be_read_and_is_plain_text(path: Path) -> None:
    announced = PortFile(path)
    announced.announce(6391)
    assert PortFile(path).read() == 6391
    assert PortFile(path).read_stale() is None
    assert path.read_text() == "6391\n"
    announced.withdraw()


def test_a_port_can_be_announced_anew(path: Path) -> None:
    announced = PortFile(path)
    announced.announce(6391)
    announced.announce(6392)
    assert PortFile(path).read() == 6392
    announced.withdraw()


def test_a_withdrawn_port_leaves_nothing(path: Path) -> None:
    announced = PortFile(path)
    announced.announce(6391)
    announced.withdraw()
    announced.withdraw()
    assert PortFile(path).read() is None
    assert list(path.parent.iterdir()) == []


def test_a_reader_withdraws_nothing(path: Path) -> None:
    announced = PortFile(path)
    announced.announce(6391)
    PortFile(path).withdraw()
    assert PortFile(path).read() == 6391
    announced.withdraw()


def test_a_port_whose_process_died_is_no_living_one(path: Path) -> None:
    announce_and_die = (
        "import os, pathlib, sys; from shared.portfile import PortFile;"
        "PortFile(pathlib.Path(sys.argv[1])).announce(6391); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", announce_and_die, str(path)], check=True, timeout=60)
    assert path.read_text() == "6391\n"
    assert PortFile(path).read() is None
    assert PortFile(path).read_stale() == 6391


@pytest.mark.parametrize("content", [b"", b"port", b"\xff\xfe", b"-1"])
def test_a_file_of_something_else_holds_no_port(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert PortFile(path).read() is None
    assert PortFile(path).read_stale() is None
