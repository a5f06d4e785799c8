"""The effective settings of one conversation: defaults, what `configure` changed, what one turn overrides.

Pure. Knows neither whether a voice exists nor how a setting is obeyed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from edge.endpointing import AUTO_SILENCE_MS, ServerVad, Silence
from edge.protocols.native import (
    AudioChunk,
    Configure,
    InputFormat,
    OutputFormat,
    Pacing,
    TurnDetection,
)
from shared.audio import INPUT_RATE
from shared.errors import ClientError
from shared.wire import Open


@dataclass(frozen=True, slots=True)
class Configuration:
    """The whole set, named as in `configure`. `None` stands for a default that somebody else has."""

    voice: str | None = None
    language: str | None = None
    speed: float = 1.0
    prompt: str | None = None
    input_format: InputFormat = InputFormat.F32LE
    input_sample_rate: int = INPUT_RATE
    output_format: OutputFormat = OutputFormat.WAV
    turn_detection: ServerVad | None = None
    silence_ms: float | Silence = ServerVad().silence_ms
    interrupt: bool = True
    echo_cancelled: bool = True
    pacing: Pacing = Pacing.REALTIME
    max_reply_tokens: int = 256
    temperature: float = 0.2
    top_p: float = 0.95
    seed: int | None = None

    @property
    def vad(self) -> ServerVad | None:
        """How the server finds the ends of utterances; `None` where the client says them."""
        return self.turn_detection and replace(self.turn_detection, silence_ms=self.silence_ms)

    def changed(self, message: Configure) -> Configuration:
        """With what a client asked for; an empty text goes back to the default.

        Raises `ClientError` `bad_message` for settings that do not go together.
        """
        names = (field.name for field in fields(message))
        given: dict[str, Any] = {
            name: value for name in names if (value := getattr(message, name)) is not None
        }
        for name in [name for name, value in given.items() if value == ""]:
            given[name] = None
        match given.get("turn_detection"):
            case ServerVad(silence_ms=silence_ms):
                given = {"silence_ms": silence_ms, **given}
            case TurnDetection.NONE:
                given["turn_detection"] = None
        changed = replace(self, **given)
        changed._check()
        return changed

    def _check(self) -> None:
        vad = self.vad
        if vad is None:
            return
        shortest_ms = AUTO_SILENCE_MS if isinstance(vad.silence_ms, Silence) else vad.silence_ms
        if vad.pause_ms > shortest_ms:
            raise ClientError(
                "bad_message",
                f"configure.turn_detection: pause_ms is {vad.pause_ms:g}, after silence_ms, {shortest_ms:g}",
            )

    def for_utterance(self, message: AudioChunk) -> Configuration:
        """With what an utterance asks for itself."""
        return self.changed(Configure(voice=message.voice, prompt=message.prompt, speed=message.speed))

    def in_its_language(self, speaks: Callable[[str, str], bool]) -> Configuration:
        """With the voice's own language where another one was set before the voice was chosen.

        `speaks` says whether a voice, by its name, speaks a language.
        """
        if self.voice is None or self.language is None or speaks(self.voice, self.language):
            return self
        return replace(self, language=None)

    def opening(
        self,
        *,
        text: str | None = None,
        chunk_id: str | None = None,
        batch: bool = False,
        by_voice: bool = False,
    ) -> Open:
        """The first entry of a turn under these settings."""
        return Open(
            voice=self.voice,
            language=self.language,
            speed=self.speed,
            prompt=self.prompt,
            max_reply_tokens=self.max_reply_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            text=text,
            chunk_id=chunk_id,
            batch=batch,
            by_voice=by_voice,
        )

    def dump(self) -> dict[str, object]:
        """As a map of plain values, for a message or for Redis."""
        raw = {name: str(value) if isinstance(value, str) else value for name, value in asdict(self).items()}
        vad = self.vad
        raw["turn_detection"] = "none" if vad is None else {"type": "server_vad", **asdict(vad)}
        return raw

    @classmethod
    def load(cls, raw: Mapping[str, Any]) -> Configuration:
        """What `dump` wrote. What only another version understands is passed over."""
        names = {field.name for field in fields(cls)}
        values: dict[str, Any] = {}
        for name, value in raw.items():
            if name in names:
                with suppress(ValueError):
                    values[name] = _KINDS[name](value) if name in _KINDS else value
        return cls(**values)


def _turn_detection(raw: object) -> ServerVad | None:
    if not isinstance(raw, dict):
        return None
    names = {field.name for field in fields(ServerVad)}
    return ServerVad(**{name: value for name, value in raw.items() if name in names})


def _silence_ms(raw: Any) -> float | Silence:
    return Silence.AUTO if raw == Silence.AUTO else float(raw)


_KINDS: dict[str, Callable[[Any], Any]] = {
    "input_format": InputFormat,
    "output_format": OutputFormat,
    "turn_detection": _turn_detection,
    "silence_ms": _silence_ms,
    "pacing": Pacing,
}
