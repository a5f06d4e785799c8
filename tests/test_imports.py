"""Who may import whom: the rooms of the house, and the models behind their engines."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
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

MODELS = {
    "torch", "transformers", "mistral_common", "kokoro", "misaki", "spacy", "phonemizer", "openai",
    "pocketsphinx", "espeakng_loader", "onnxruntime",
}  # fmt: skip
BASE_MODELS = {"pocketsphinx", "espeakng_loader", "onnxruntime"}
EXTRA = sorted(MODELS - BASE_MODELS | {"huggingface_hub", "safetensors", "loguru"})
"""What the base installation does without."""
ENGINES = ("workers/llm/engines/", "workers/tts/engines/")
DETECTOR = "edge/detection/silero.py"


def _sources() -> list[Path]:
    return [path for room in sorted(ROOMS) for path in sorted((ROOT / room).rglob("*.py"))]


def _imported(path: Path) -> Iterator[str]:
    """The top-level packages that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _models_for(name: str) -> set[str]:
    if name == DETECTOR:
        return {"onnxruntime"}
    return MODELS - {"onnxruntime"} if name.startswith(ENGINES) else set()


@pytest.mark.parametrize("path", _sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_its_room_may(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    imported = set(_imported(path))
    if not name.startswith(MAY_IMPORT_ALL):
        assert imported & ROOMS <= ALLOWED[name.partition("/")[0]]
    assert imported & MODELS <= _models_for(name)
    assert "tests" not in imported


BASE = """
import sys
from importlib import import_module

from shared.settings import Settings
from deploy.cli.main import COMMANDS

for command in COMMANDS:
    import_module(f"deploy.cli.{command}")
for module in ("edge.server", "workers.process", "workers.llm.handler", "workers.tts.handler"):
    import_module(module)
for role in ("llm", "tts"):
    engine, reason = import_module(f"workers.{role}.engines").load("auto", Settings())
    print(engine.name, reason)
print("imported:", *(name for name in sys.argv[1:] if sys.modules.get(name)))
"""


def _start_the_base(tmp_path: Path, before: str) -> list[str]:
    environ = {**os.environ, "HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", before + BASE, *EXTRA]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def test_everything_starts_without_the_packages_of_the_models(tmp_path: Path) -> None:
    hide = f"import sys; sys.modules.update(dict.fromkeys({EXTRA}))\n"
    llm, tts, imported = _start_the_base(tmp_path, hide)
    assert llm.startswith("parrot parrot, ") and llm.endswith("are not installed (make models)")
    assert tts.startswith("espeak espeak, ") and tts.endswith("are not installed (make models)")
    assert imported == "imported:"


def test_without_weights_no_model_library_is_imported(tmp_path: Path) -> None:
    llm, tts, imported = _start_the_base(tmp_path, "")
    assert llm.endswith("no weights of Voxtral here (parley models pull voxtral)")
    assert tts.endswith("no weights of Kokoro here (parley models pull kokoro)")
    assert imported in ("imported:", "imported: huggingface_hub"), "the hub's client looks into its cache"
