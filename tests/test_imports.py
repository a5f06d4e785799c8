"""Who may import whom: the rooms of the house, and the models behind their engines."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = {"shared", "edge", "workers", "deploy"}

ALLOWED = {
    "shared": {"shared"},
    "edge": {"edge", "shared"},
    "workers": {"workers", "shared"},
    "deploy": {"deploy", "shared"},
}
MAY_IMPORT_ALL = "deploy/cli/"

MODELS = {"torch", "transformers", "kokoro", "pocketsphinx", "espeakng_loader"}
ENGINES = ("workers/llm/engines/", "workers/tts/engines/")


def _sources() -> list[Path]:
    return [path for room in sorted(ROOMS) for path in sorted((ROOT / room).rglob("*.py"))]


def _imported(path: Path) -> Iterator[str]:
    """The top-level packages that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("path", _sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_its_room_may(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    imported = set(_imported(path))
    if not name.startswith(MAY_IMPORT_ALL):
        assert imported & ROOMS <= ALLOWED[name.partition("/")[0]]
    if not name.startswith(ENGINES):
        assert not imported & MODELS
    assert "tests" not in imported
