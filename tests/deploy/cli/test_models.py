"""`parley models` with the hub's real client, against a hub on this machine."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.deploy.cli.fake_hub import FakeHub, serving
from tests.deploy.support import ROOT

FILES = {
    "config.json": b"{}",
    "kokoro-v1_0.pth": b"weights" * 1000,
    "voices/af_heart.pt": b"voice",
    "voices/ef_dora.pt": b"another",
    "README.md": b"not needed",
    "samples/HEARME.wav": b"not needed either",
}
NEEDED = {"config.json", "kokoro-v1_0.pth", "voices/af_heart.pt", "voices/ef_dora.pt"}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serving(FakeHub("somebody/kokoro", FILES)) as hub:
        yield hub


@pytest.fixture
def environ(hub: FakeHub, tmp_path: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "KOKORO_MODEL": hub.name}


def start(environ: Mapping[str, str], *words: str) -> subprocess.Popen[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.Popen(
        [sys.executable, "-m", "deploy.cli", "models", *words],
        cwd=ROOT,
        env={**inherited, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def parley_models(environ: Mapping[str, str], *words: str) -> tuple[int, str, str]:
    """Its exit code, and what it wrote to stdout and stderr."""
    with start(environ, *words) as process:
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def only_line(err: str) -> str:
    line, *more = err.splitlines()
    assert not more, err
    return line


def listed(environ: Mapping[str, str]) -> dict[str, object]:
    code, out, _ = parley_models(environ, "list", "--json")
    assert code == 0
    return {str(line["name"]): line["place"] for line in json.loads(out)}


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_what_was_pulled_is_found_and_nothing_else_was_fetched(hub: FakeHub, environ: dict[str, str]) -> None:
    assert listed(environ)["kokoro"] is None
    code, out, _ = parley_models(environ, "pull", "kokoro")
    assert code == 0
    place = listed(environ)["kokoro"]
    assert isinstance(place, str) and place in out
    assert files_below(Path(place)) == NEEDED == set(hub.fetched)
    assert (Path(place) / "voices/af_heart.pt").read_bytes() == b"voice"


def test_a_second_pull_fetches_only_what_is_missing(
    hub: FakeHub, environ: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    parley_models(environ, "pull", "kokoro", "--to", str(folder))
    (folder / "kokoro" / "voices" / "ef_dora.pt").unlink()
    hub.fetched.clear()
    code, out, _ = parley_models(environ, "pull", "kokoro", "--to", str(folder))
    assert code == 0
    assert hub.fetched == ["voices/ef_dora.pt"]
    assert f"KOKORO_MODEL={folder / 'kokoro'}" in out
    assert listed(environ | {"KOKORO_MODEL": str(folder / "kokoro")})["kokoro"] == str(folder / "kokoro")


@pytest.mark.parametrize(
    ("status", "code", "why"),
    [
        (403, "GatedRepo", "its owner wants its terms accepted: do so on the hub, then set HF_TOKEN"),
        (401, "RepoNotFound", "there is no such repository on the hub, or it is private"),
        (404, "RevisionNotFound", "the repository has no such revision"),
        (418, "", "answered with status 418"),
    ],
)
def test_a_refusal_of_the_hub_is_one_line(
    hub: FakeHub, environ: dict[str, str], status: int, code: str, why: str
) -> None:
    hub.refusal = (status, code)
    exit_code, _, err = parley_models(environ, "pull", "kokoro")
    assert exit_code == 1
    assert only_line(err).startswith(f"parley: {hub.name}: ")
    assert why in err


def test_a_hub_out_of_reach_is_one_line(environ: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
    code, _, err = parley_models(environ | {"HF_ENDPOINT": nobody}, "pull", "kokoro")
    assert code == 1
    assert f"{nobody} cannot be reached" in only_line(err)


def test_a_machine_told_to_stay_offline_says_so(environ: dict[str, str]) -> None:
    code, _, err = parley_models(environ | {"HF_HUB_OFFLINE": "1"}, "pull", "kokoro")
    assert code == 1
    assert "HF_HUB_OFFLINE is set: unset it to pull" in only_line(err)


def test_another_checkpoint_is_refused_before_it_is_fetched(hub: FakeHub, environ: dict[str, str]) -> None:
    del hub.files["kokoro-v1_0.pth"]
    code, _, err = parley_models(environ, "pull", "kokoro")
    assert code == 1
    assert "holds no *.pth" in only_line(err)
    assert not hub.fetched


def test_a_disk_too_small_is_refused_before_the_first_byte(hub: FakeHub, environ: dict[str, str]) -> None:
    hub.claimed_bytes = 1 << 50
    code, _, err = parley_models(environ, "pull", "kokoro")
    assert code == 1
    assert "no space: it takes" in only_line(err)
    assert not hub.fetched


def test_ctrl_c_ends_a_pull_at_once_and_leaves_nothing_half_written(
    hub: FakeHub, environ: dict[str, str], tmp_path: Path
) -> None:
    hub.endless = True
    with start(environ, "pull", "kokoro") as process:
        assert hub.began.wait(60)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert hub.broken.wait(60)
    assert "Traceback" not in out + err
    assert not list((tmp_path / "hf").rglob("*.incomplete"))


def test_without_the_packages_it_says_what_installs_them(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['huggingface_hub'] = None\n")
    code, _, err = parley_models(environ | {"PYTHONPATH": str(tmp_path)}, "pull", "kokoro")
    assert code == 1
    assert "the hub's client is not installed: make models" in only_line(err)


def test_a_folder_that_is_not_whole_is_not_pulled_into_unasked(
    hub: FakeHub, environ: dict[str, str], tmp_path: Path
) -> None:
    code, _, err = parley_models(environ | {"KOKORO_MODEL": str(tmp_path / "mine")}, "pull", "kokoro")
    assert code == 1
    assert "KOKORO_MODEL is the folder" in only_line(err)
    assert not hub.fetched


@pytest.mark.parametrize("words", [["pull", "vortex"], ["list", "kokoro"], ["pull", "--json"]])
def test_bad_usage_has_its_own_exit_code(environ: dict[str, str], words: list[str]) -> None:
    assert parley_models(environ, *words)[0] == 2
