"""The seam of the voices: what every synthesizer does, and how one is chosen by name.

Knows no voice library: each engine is one module, imported only when it is asked for.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from shared.errors import EngineError, SettingsError
from shared.settings import Settings
from shared.text import speaks
from workers import checkpoint, packages
from workers.packages import installed, needed_for
from workers.tts.engines.kokoro import files

KOKORO_PACKAGES = ("huggingface_hub", "torch", "kokoro", "misaki")

ASKED_FOR = "TTS_ENGINE asks for it"


@dataclass(frozen=True, slots=True)
class Voice:
    """A voice as clients name it, and a language it speaks (a BCP 47 tag)."""

    name: str
    language: str

    def speaks(self, language: str) -> bool:
        """Whether `language` means this voice's: `en` every kind of English, `en-GB` only that one."""
        return speaks(self.language, language)


@dataclass(frozen=True, slots=True)
class SpeechRequest:
    """One semantic chunk to speak. `voice` and `language` are `None` for the engine's default.

    `dry_at_s`: when the listener will have heard all that was made before it (`time.monotonic`); `None` for
    the first chunk of a turn, which somebody is waiting for in silence.
    """

    conversation: str
    turn: int
    chunk: int
    text: str
    voice: str | None = None
    language: str | None = None
    speed: float = 1.0
    dry_at_s: float | None = None


class Synthesizer(Protocol):
    """Text in, PCM out."""

    name: str
    default_voice: str

    def voices(self) -> tuple[Voice, ...]:
        """Every voice that the engine speaks with, the default one first, and of each language the one that
        it is spoken with unless another is asked for. A voice of two languages stands here twice."""
        ...

    def synthesize_speech_streaming(self, request: SpeechRequest) -> AsyncGenerator[bytes, None]:
        """Yield PCM16 mono 24 kHz in pieces of whole samples, of any length, as soon as each exists.

        Text that holds nothing to speak yields nothing. Closing the iterator cancels the work. Raises
        `EngineError`, with `retryable=False` for a voice or language that does not exist.
        """
        ...

    async def synthesize_speech(self, request: SpeechRequest) -> bytes:
        """The whole chunk at once, PCM16 mono 24 kHz. Raises `EngineError`."""
        ...


def load(name: str, settings: Settings) -> tuple[Synthesizer, str]:
    """The engine that `TTS_ENGINE` names, and one plain line: which one was taken, and why.

    Only `auto` chooses; an engine that is asked for by name is that one or none. Blocks while the engine
    loads. Raises `SettingsError` for a name that no engine has, `EngineError` for an engine that cannot be
    loaded.
    """
    match name:
        case "auto":
            lacking = _lacking_for_kokoro(settings)
            if lacking is None:
                return _kokoro(settings, "its weights are here")
            return _espeak(), f"espeak, the embedded engine: {lacking}"
        case "kokoro":
            return _kokoro(settings, ASKED_FOR)
        case "espeak":
            return _espeak(), f"espeak: {ASKED_FOR}"
        case "scripted":
            from workers.tts.engines.scripted import Scripted

            return Scripted(settings), f"scripted: {ASKED_FOR}"
    raise SettingsError(f"TTS_ENGINE is {name!r}; expected auto, kokoro, espeak or scripted")


def _kokoro(settings: Settings, why: str) -> tuple[Synthesizer, str]:
    with needed_for("TTS_ENGINE=kokoro", *KOKORO_PACKAGES):
        # Known at once, and not after the seconds that the imports take.
        checkpoint.find(settings.kokoro_model, files.FILES, files.COMMAND)
        from workers.tts.engines.kokoro.engine import Kokoro

        engine = Kokoro(settings)
        return engine, f"kokoro ({engine.description}): {why}"


def _espeak() -> Synthesizer:
    from workers.tts.engines.espeak import Espeak

    return Espeak()


def _lacking_for_kokoro(settings: Settings) -> str | None:
    """What keeps `auto` from taking Kokoro; `None`: nothing. Imports no model library to find out."""
    if not installed(*KOKORO_PACKAGES):
        return f"the packages of the models are not installed ({packages.COMMAND})"
    if not checkpoint.present(settings.kokoro_model, files.FILES):
        return f"no weights of Kokoro here ({files.COMMAND})"
    return None


def choose_voice(voices: Iterable[Voice], request: SpeechRequest) -> Voice:
    """The voice that a request means, out of what an engine's `voices()` says.

    A voice by its name, and a language besides only if that voice speaks it; a language alone by the first
    voice that speaks it; neither by the first of all. Raises `EngineError` where there is none.
    """
    named = [voice for voice in voices if request.voice in (None, voice.name)]
    if not named:
        raise EngineError(f"there is no voice {request.voice!r}")
    for voice in named:
        if request.language is None or voice.speaks(request.language):
            return voice
    who = "no voice speaks" if request.voice is None else f"the voice {request.voice!r} does not speak"
    raise EngineError(f"{who} the language {request.language!r}")


async def whole_speech(engine: Synthesizer, request: SpeechRequest) -> bytes:
    """The speech of a chunk as a whole, from an engine that makes it in pieces."""
    async with aclosing(engine.synthesize_speech_streaming(request)) as pieces:
        return b"".join([piece async for piece in pieces])
