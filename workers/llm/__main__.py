"""`python -m workers.llm`: one LLM worker."""

import sys

from shared.settings import Settings
from workers.llm import engines
from workers.llm.handler import ReplyHandler
from workers.process import main


def _handler(settings: Settings) -> ReplyHandler:
    engine, reason = engines.load(settings.llm_engine, settings)
    return ReplyHandler(engine, reason, settings.history_tokens, settings.think_ahead)


if __name__ == "__main__":
    sys.exit(main("llm", _handler))
