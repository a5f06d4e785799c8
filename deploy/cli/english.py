"""The English word lists: a small model of spaCy, which comes as a wheel of its own and not from PyPI.

Kokoro's pronunciation of English asks it for parts of speech ("I read it" today or yesterday). Installed with
pip into the environment that runs this.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

from deploy.cli.hub import CannotPull
from workers import packages

PACKAGE = "en_core_web_sm"
VERSION = "3.8.0"
WHEEL = f"{PACKAGE}-{VERSION}-py3-none-any.whl"
SHA256 = "1932429db727d4bff3deed6b34cfc05df17794f4a52eeb26cf8928f7c1a0fb85"
RELEASE_URL = f"https://github.com/explosion/spacy-models/releases/download/{PACKAGE}-{VERSION}"


def place() -> Path | None:
    """The folder of the installed package; `None` if it is not there."""
    importlib.invalidate_caches()
    found = importlib.util.find_spec(PACKAGE)
    return None if found is None or found.origin is None else Path(found.origin).parent


def install(release_url: str = RELEASE_URL, sha256: str = SHA256) -> None:
    """Fetch the wheel, check its hash and install it. Raises `CannotPull`."""
    if not packages.installed("spacy"):
        raise CannotPull(f"spaCy, which reads the word lists, is not installed: {packages.COMMAND}")
    _pip("install", "--no-deps", "--upgrade", f"{release_url}/{WHEEL}#sha256={sha256}")


def download(folder: Path, release_url: str = RELEASE_URL, sha256: str = SHA256) -> Path:
    """Fetch the wheel into `folder`, for a machine that has no network. Raises `CannotPull`."""
    _pip("download", "--no-deps", "--dest", str(folder), f"{release_url}/{WHEEL}#sha256={sha256}")
    return folder / WHEEL


def _pip(*words: str) -> None:
    if not packages.installed("pip"):
        raise CannotPull(f"there is no pip in this environment; install {RELEASE_URL}/{WHEEL} by other means")
    command = [
        sys.executable,
        "-m",
        "pip",
        "--quiet",
        "--disable-pip-version-check",
        "--retries",
        "2",
        *words,
    ]
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if ended.returncode:
        raise CannotPull(f"the English word lists: {_reason(ended.stderr)}")


def _reason(complaint: str) -> str:
    if "No space left" in complaint:
        return "no space left on the disk"
    if "DO NOT MATCH THE HASHES" in complaint:
        return f"what came as {WHEEL} is not that file: its hash differs"
    marked = re.findall(
        "^(?:ERROR:|\N{MULTIPLICATION SIGN}) (.*)", complaint, re.MULTILINE
    )  # how pip begins what went wrong
    return f"pip cannot get them (no network?): {marked[0] if marked else complaint.strip()[-200:]}"
