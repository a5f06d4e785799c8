"""Kokoro's model without the rest of its package, which wants spaCy: 50 MB of wheels, and seconds to import.

The package imports its pipeline as it is imported, and that imports spaCy. Nobody here uses that pipeline, so
a machine on which spaCy cannot be installed can do without.
"""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec, module_from_spec


def let_import_alone() -> None:
    """From now on `from kokoro import KModel` imports the model and nothing else of the package."""
    found = find_spec("kokoro") if "kokoro" not in sys.modules else None
    if found is None:
        return
    package = module_from_spec(found)  # not executed: its modules are found, and none is imported
    sys.modules["kokoro"] = package
    logger = importlib.import_module("loguru").logger
    logger.disable("kokoro")  # as the package does: else every phoneme is told
    package.KModel = importlib.import_module("kokoro.model").KModel  # type: ignore[attr-defined]
