"""Getting a checkpoint from the hub, through the hub's own client: what it costs, then the files themselves.

Knows a checkpoint as a name with its revision and the patterns of its files. A file that is there already is
not fetched again, so a pull that was interrupted goes on with the files that are missing.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from types import FrameType
from typing import Any

from shared.errors import ParleyError
from workers import packages

MARGIN_BYTES = 64 << 20
"""What a pull leaves free on the disk."""


ASKED_WITHIN_S = 10.0


class CannotPull(ParleyError):
    """Raised when something cannot be fetched; the message says what, why, and what to do."""


def pull(name: str, files: Sequence[str], folder: Path | None = None) -> Path:
    """Fetch the files of `name`, ORGANISATION/NAME@REVISION, that match `files`; returns their folder.

    Into `folder` as plain files, or into the hub's cache on this machine. Progress goes to stderr. Raises
    `CannotPull`; `KeyboardInterrupt` on Ctrl-C, with nothing half written left behind.
    """
    if not packages.installed("huggingface_hub"):
        raise CannotPull(f"the hub's client is not installed: {packages.COMMAND}")
    # Before its import, when it reads this. What it fetches by its own protocol instead can neither be
    # stopped with Ctrl-C nor seen growing.
    os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HTTPError

    repository, _, revision = name.partition("@")
    where = Path(constants.HF_HUB_CACHE) if folder is None else folder
    wanted: dict[str, Any] = {"revision": revision, "allow_patterns": list(files), "local_dir": folder}
    try:
        # It does not try again and again, as what follows does: no network is known at once.
        HfApi().model_info(repository, revision=revision, timeout=ASKED_WITHIN_S)
        with _without_bars():
            planned = snapshot_download(repository, dry_run=True, **wanted)
        _check_whole(name, files, [each.filename for each in planned])
        _check_space(name, sum(each.file_size for each in planned if each.will_download), where)
        with _stoppable() as bar:
            return Path(snapshot_download(repository, tqdm_class=bar, **wanted))
    except (OSError, HTTPError) as error:
        raise CannotPull(f"{name}: {_reason(error, where)}") from error


def size_bytes(folder: Path, files: Sequence[str]) -> int:
    """What the files of a checkpoint that match `files` take on the disk."""
    return sum(path.stat().st_size for path in {path for each in files for path in folder.glob(each)})


def _check_whole(name: str, files: Sequence[str], found: Sequence[str]) -> None:
    missing = [pattern for pattern in files if not any(fnmatch(each, pattern) for each in found)]
    if missing:
        raise CannotPull(f"{name} holds no {', no '.join(missing)}: is it the right checkpoint?")


def _check_space(name: str, needed_bytes: int, where: Path) -> None:
    """Before the first byte: a disk that fills up takes down more than a download."""
    there = next(each for each in (where, *where.absolute().parents) if each.exists())
    free_bytes = shutil.disk_usage(there).free
    if needed_bytes + MARGIN_BYTES > free_bytes:
        raise CannotPull(
            f"{name}: no space: it takes {_gigabytes(needed_bytes)} more, and {_gigabytes(free_bytes)} are "
            f"free in {where} (HF_HOME, or --to, names another disk)"
        )


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"


@contextmanager
def _without_bars() -> Iterator[None]:
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


@contextmanager
def _stoppable() -> Iterator[type[Any]]:
    """A progress bar for the hub's client that ends the download on Ctrl-C.

    The client fetches in threads and, interrupted, waits until each has its whole file: gigabytes. They all
    tell the bar of every 10 MB that have arrived; there they are stopped, and tidy up as after any error.
    """
    from huggingface_hub.utils import tqdm

    stopped = threading.Event()

    class Bar(tqdm):  # type: ignore[misc] # `Any` to the type checker
        """The client's own bar, shown or not."""

        def update(self, n: float | None = 1) -> Any:
            """Called from every thread, for every piece."""
            if stopped.is_set():
                raise KeyboardInterrupt
            return super().update(n)

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()
        signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield Bar
    finally:
        signal.signal(signal.SIGINT, before)


def _reason(error: BaseException, where: Path) -> str:
    """Why, and what to do about it. The client hides some causes behind others, so all are looked at."""
    from huggingface_hub import constants, errors

    causes = list(_causes(error))
    for each in causes:
        match each:
            case errors.GatedRepoError():
                return "its owner wants its terms accepted: do so on the hub, then set HF_TOKEN"
            case errors.RepositoryNotFoundError():
                return "there is no such repository on the hub, or it is private (then set HF_TOKEN)"
            case errors.RevisionNotFoundError():
                return "the repository has no such revision"
            case errors.OfflineModeIsEnabled():
                return "HF_HUB_OFFLINE is set: unset it to pull"
            case errors.HfHubHTTPError() if each.response is not None:
                return (
                    f"{constants.ENDPOINT} answered with status {each.response.status_code}: try again later"
                )
            case OSError(errno=errno.ENOSPC):
                return f"no space left in {where}"
            case OSError(errno=errno.EACCES | errno.EROFS | errno.EPERM):
                return f"{where} cannot be written"
    last = f"{type(causes[-1]).__name__}: {causes[-1]}".splitlines()[0]
    return f"{constants.ENDPOINT} cannot be reached, or the connection broke ({last}); pull again to go on"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
