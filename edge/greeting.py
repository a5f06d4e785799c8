"""What a client learns of this server in its first message."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from edge.protocols import messages
from edge.protocols.messages import Message
from edge.protocols.native import MAX_TEXT, TurnDetection
from edge.services import Services
from shared.audio import FRAME_MS, INPUT_RATE, OUTPUT_RATE


def server_config(services: Services) -> Message:
    """The `server_config` of a `connection`."""
    settings = services.settings
    return messages.server_config(
        sample_rate=INPUT_RATE,
        output_sample_rate=OUTPUT_RATE,
        frame_ms=FRAME_MS,
        streaming_mode="chunked_streaming",
        turn_detection=[each.value for each in TurnDetection],
        engines=services.room.engines(),
        voices=[voice.name for voice in services.room.voices()],
        limits={
            "max_message_bytes": settings.max_message_bytes,
            "max_utterance_s": settings.max_utterance_s,
            "max_text_characters": MAX_TEXT,
            "resume_window_s": settings.resume_window_s,
        },
        version=_VERSION,
    )


def _version() -> str:
    try:
        return version("parley")
    except PackageNotFoundError:
        return "0"  # Run from a source tree that was not installed.


_VERSION = _version()
