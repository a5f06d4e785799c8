"""The pinned versions: all that is installed, and nothing else."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.deploy.support import ROOT

EXTRAS = {"dev", "models", "openai"}


def pinned() -> dict[str, Requirement]:
    """What is pinned for this Python, by name."""
    lines = (ROOT / "deploy" / "constraints.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if not line.startswith("#")]
    return {canonicalize_name(each.name): each for each in found if applies(each, set())}


def applies(requirement: Requirement, extras: set[str]) -> bool:
    """Whether it holds for this Python and one of these extras."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in extras | {""})


def needed(name: str, extras: set[str], found: dict[str, set[str]]) -> dict[str, set[str]]:
    """Everything that a distribution needs, with the extras of each."""
    for each in map(Requirement, requires(name) or ()):
        key = canonicalize_name(each.name)
        if applies(each, extras) and not (key in found and each.extras <= found[key]):
            found[key] = found.get(key, set()) | each.extras
            try:
                needed(key, found[key], found)
            except PackageNotFoundError:
                continue  # reported by its name: it has no version here
    return found


def test_every_package_that_is_needed_is_pinned_to_what_is_installed() -> None:
    pins = pinned()
    # torch pins the packages of its CUDA build itself.
    with_cuda = ("nvidia-", "cuda-", "triton")
    names = [name for name in needed("parley", EXTRAS, {}) if not name.startswith(with_cuda)]
    assert not [name for name in names if name not in pins]
    wrong = {
        name: version(name) for name in names if not pins[name].specifier.contains(Version(version(name)))
    }
    assert not wrong


def test_nothing_is_pinned_that_nobody_needs() -> None:
    assert not pinned().keys() - needed("parley", EXTRAS, {}).keys()
