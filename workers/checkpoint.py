"""Where the files of a model lie: in a local folder, or in the hub's cache on this machine.

Owns what "it is there" means. Downloads nothing and reads no file: what stands in them is for the engines to
check.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from shared.errors import EngineError


def find(name: str, files: Sequence[str], command: str) -> Path:
    """The folder of a checkpoint, with a file in it for each of `files` (glob patterns, relative to it).

    `name` is a folder, or ORGANISATION/NAME@REVISION of the hub. Raises `EngineError`: what is missing, where
    it was looked for, and that `command` gets it.
    """
    if _is_folder(name):
        folder = Path(name)
        if not folder.is_dir():
            raise EngineError(f"no folder {folder}: put the checkpoint there, or get it with: {command}")
    else:
        folder = _in_cache(name, files, command)
    missing = [pattern for pattern in files if not any(folder.glob(pattern))]
    if missing:
        raise EngineError(f"missing in {folder}: {', '.join(missing)}; get it with: {command}")
    return folder


def present(name: str, files: Sequence[str]) -> bool:
    """Whether `find` would find it. Never raises; without the hub's library only folders count."""
    try:
        find(name, files, "")
    except (EngineError, OSError):
        return False
    return True


def _is_folder(name: str) -> bool:
    return name.startswith((".", "/"))


def _in_cache(name: str, files: Sequence[str], command: str) -> Path:
    try:
        from huggingface_hub import constants, snapshot_download
    except ImportError:
        raise EngineError(f"{name} is a name on the hub, and huggingface-hub is not installed") from None
    repository, _, revision = name.partition("@")
    try:
        folder = snapshot_download(
            repository, revision=revision, local_files_only=True, allow_patterns=list(files)
        )
    except (OSError, ValueError):
        where = constants.HF_HUB_CACHE
        raise EngineError(f"{name} is not, or not whole, in {where}; get it with: {command}") from None
    return Path(folder)
