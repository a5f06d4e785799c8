"""`python -m tests.bench.models.worker llm|tts SIZE`: a worker whose Voxtral has random weights.

Like `python -m workers.llm` and `python -m workers.tts` in all else. What Voxtral says is `SCRIPT_TOKENS`: it
does all its work, and these words are put in place of what it sampled.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from shared.settings import Settings
from tests.bench.models import kokoro_alone
from tests.bench.models.plan import PLANS
from workers.llm.handler import ReplyHandler
from workers.process import main
from workers.tts.handler import SpeechHandler


def _reply_handler(settings: Settings, size: str) -> ReplyHandler:
    from tests.bench.models.models import Models
    from workers.llm.engines.voxtral.engine import Voxtral

    plan = replace(PLANS[size, settings.device], dtype=settings.voxtral_dtype)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Models(plan, Path(folder)).checkpoint
    engine = Voxtral(settings, checkpoint, settings.script_tokens)
    return ReplyHandler(engine, f"{size}, random weights", settings.history_tokens)


def _speech_handler(settings: Settings) -> SpeechHandler:
    from workers.tts import engines

    kokoro_alone.let_import_alone()
    return SpeechHandler(*engines.load("kokoro", settings))


def run() -> int:
    """The exit status of the worker."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=["llm", "tts"])
    parser.add_argument("size", choices=sorted({size for size, _ in PLANS}))
    asked = parser.parse_args()
    if asked.role == "tts":
        return main("tts", _speech_handler)
    return main("llm", lambda settings: _reply_handler(settings, asked.size))


if __name__ == "__main__":
    sys.exit(run())
