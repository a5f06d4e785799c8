"""One tiny model, and what it says alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.workers.llm.engines.voxtral.tiny import Alone, tiny_model
from workers.llm.engines.voxtral.checkpoint import load_vocabulary
from workers.llm.engines.voxtral.decoder import Decoder
from workers.llm.engines.voxtral.text import Vocabulary


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny matrices gain nothing from threads, and tests that run beside this one lose."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def model() -> Any:
    return tiny_model()


@pytest.fixture(scope="session")
def alone(model: Any) -> Alone:
    return Alone(model)


@pytest.fixture
def decoder(model: Any) -> Decoder:
    """Three slots of 2,048 tokens."""
    return Decoder(model, slots=3, context=2048)


@pytest.fixture(scope="session")
def vocabulary(voxtral_folder: Path) -> Vocabulary:
    """The tokenizer of the tiny checkpoint."""
    return load_vocabulary(voxtral_folder / "tekken.json")
