"""`python -m workers.tts`: one TTS worker."""

import sys

from shared.settings import Settings
from workers.process import main
from workers.tts import engines
from workers.tts.handler import SpeechHandler


def _handler(settings: Settings) -> SpeechHandler:
    return SpeechHandler(*engines.load(settings.tts_engine, settings))


if __name__ == "__main__":
    sys.exit(main("tts", _handler))
