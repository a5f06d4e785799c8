"""The English word lists: a wheel by its address and its hash, through pip."""

from __future__ import annotations

import functools
import hashlib
import threading
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deploy.cli import english
from deploy.cli.hub import CannotPull


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A wheel of that name that holds an empty package."""
    path = tmp_path / "release" / english.WHEEL
    path.parent.mkdir()
    info = f"{english.PACKAGE}-{english.VERSION}.dist-info"
    version = f"Name: {english.PACKAGE}\nVersion: {english.VERSION}\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{english.PACKAGE}/__init__.py", "")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\n{version}")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def release_url(wheel: Path) -> Iterator[str]:
    """Where the wheel is to be had."""
    handler = functools.partial(_Silent, directory=wheel.parent)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of this environment."""
    target = tmp_path / "installed"
    monkeypatch.setenv("PIP_TARGET", str(target))
    return target


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_they_are_installed_where_they_are_found(
    wheel: Path, release_url: str, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    english.install(release_url, sha256(wheel))
    monkeypatch.syspath_prepend(target)
    assert english.place() == target / english.PACKAGE


def test_another_file_of_that_name_is_refused(release_url: str, target: Path) -> None:
    with pytest.raises(CannotPull, match="is not that file: its hash differs"):
        english.install(release_url)
    assert not target.exists()


def test_the_wheel_can_be_fetched_for_another_machine(wheel: Path, release_url: str, tmp_path: Path) -> None:
    fetched = english.download(tmp_path / "there", release_url, sha256(wheel))
    assert fetched.read_bytes() == wheel.read_bytes()


def test_a_release_out_of_reach_is_one_line(release_url: str, target: Path) -> None:
    with pytest.raises(
        CannotPull, match=r"^the English word lists: pip cannot get them \(no network\?\): "
    ) as told:
        english.install(f"{release_url}/elsewhere")
    assert "\n" not in str(told.value)
