"""What `make` would run: which packages come with which command."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from tests.deploy.support import OUTER, ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make on this machine")


def commands(*words: str) -> str:
    """What `make` would run."""
    environ = {name: value for name, value in os.environ.items() if name not in OUTER}
    told = subprocess.run(
        ["make", "--dry-run", "--always-make", *words], cwd=ROOT, env=environ, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
    return told.stdout


def test_a_server_is_run_without_the_packages_of_the_models() -> None:
    assert "--editable ." in commands("run")
    assert "models" not in commands("run")


def test_torch_comes_from_another_index_where_one_is_named() -> None:
    index = "--index-url 'https://example.org/whl/cpu' --force-reinstall --no-deps torch"
    assert index in commands("models", "TORCH=https://example.org/whl/cpu")
    assert "--index-url" not in commands("models")
    assert "'.[models,openai]'" in commands("models")
