"""The body of a chat completion request: what is asked, as bytes of JSON.

    history ─> messages ─┐
    utterance ─> WAV ────┴─> base64 ─> body

Owns the shape of the messages. Half a minute of sound is more than a megabyte here, so all that is known
while the user still speaks is turned into its final bytes at once, and the end of the utterance only joins
them. Knows no connection and no library.

The messages are those of OpenAI's "Create chat completion", with the two further fields by which vLLM goes on
with an answer begun: `continue_final_message` and `add_generation_prompt`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from shared.audio import INPUT_RATE, to_wav
from shared.wire import Open
from workers.llm.history import Exchange

HEAD_BYTES = 44
"""The head of a WAV file, which tells its length and so is known last."""

GROUP_BYTES = 3
"""So many bytes become four characters of base64, whatever stands before them."""


@dataclass(frozen=True, slots=True)
class Sound:
    """A WAV file in base64, in pieces."""

    base64: tuple[bytes, ...]


Pieces = tuple[bytes, ...]
"""JSON: the pieces joined."""

Part = str | Sound
"""A part of what a user said: typed, or spoken."""


class SoundWriter:
    """Makes a `Sound` of PCM16 mono 16 kHz while it arrives, in pieces of whole samples."""

    def __init__(self) -> None:
        self._first = b""
        self._rest = b""
        self._encoded: list[bytes] = []
        self._pcm_bytes = 0

    @property
    def empty(self) -> bool:
        """Whether nothing has come."""
        return not self._pcm_bytes

    def feed(self, pcm: bytes) -> None:
        """Take the next piece."""
        self._pcm_bytes += len(pcm)
        if not self._first:
            # The head and the first byte are whole groups: so what follows can be encoded before them.
            self._first, pcm = pcm[: -HEAD_BYTES % GROUP_BYTES], pcm[-HEAD_BYTES % GROUP_BYTES :]
        pcm = self._rest + pcm
        whole = len(pcm) - len(pcm) % GROUP_BYTES
        self._encoded.append(base64.b64encode(pcm[:whole]))
        self._rest = pcm[whole:]

    def finish(self) -> Sound:
        """All of it."""
        head = bytearray(to_wav(b"", INPUT_RATE))
        head[4:8] = (HEAD_BYTES - 8 + self._pcm_bytes).to_bytes(4, "little")
        head[40:44] = self._pcm_bytes.to_bytes(4, "little")
        start = base64.b64encode(bytes(head) + self._first)
        return Sound((start, *self._encoded, base64.b64encode(self._rest)))


def sound(pcm: bytes) -> Sound:
    """The sound of an utterance that is there as a whole."""
    return Sound((base64.b64encode(to_wav(pcm, INPUT_RATE)),))


class Chat:
    """A conversation up to the reply that is asked for: exchanges first, then what the user says now."""

    def __init__(self, settings: Open) -> None:
        self.sound_and_prompt = False
        """Whether anything in it was spoken, and a prompt is there too: not every model takes both."""
        self._settings = settings
        self._messages: list[Pieces] = []
        self._said: list[Part] = []
        self._texts = [settings.prompt] if settings.prompt else []

    def add(self, exchange: Exchange) -> None:
        """The next of what was said before. One without a reply becomes a part of what the user said next."""
        if exchange.text is not None:
            self.say(exchange.text)
        elif exchange.audio:
            self.say(sound(exchange.audio))
        if exchange.reply:
            self._messages += (_user(self._said), _message("assistant", exchange.reply))
            self._texts.append(exchange.reply)
            self._said = []

    def say(self, part: Part) -> None:
        """What the user says now, or said before and got no answer to."""
        self._said.append(part)
        if isinstance(part, str):
            self._texts.append(part)
        else:
            self.sound_and_prompt = bool(self._settings.prompt)

    @property
    def texts(self) -> tuple[str, ...]:
        """Every text in it, the prompt too: what an error must not repeat."""
        return tuple(self._texts)

    def body(self, model: str, max_tokens: int, begun: str = "", *, system: bool = True) -> bytes:
        """The request, asking `model` for `max_tokens` at the most that follow after `begun`.

        Without `system` the prompt goes with the user's own words: behind the sound, before what was typed.
        """
        settings = self._settings
        asked: dict[str, Any] = {
            "model": model,
            "stream": True,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "max_tokens": max_tokens,
        }
        if settings.seed is not None:
            asked["seed"] = settings.seed
        if begun:
            asked |= {"continue_final_message": True, "add_generation_prompt": False}
        messages, said = list(self._messages), list(self._said)
        if settings.prompt and system:
            messages.insert(0, _message("system", settings.prompt))
        elif settings.prompt:
            said.insert(len(said) - (settings.text is not None), settings.prompt)
        messages.append(_user(said))
        if begun:
            messages.append(_message("assistant", begun))
        # Joined once: to copy megabytes takes milliseconds.
        return b"".join((_json(asked)[:-1], b',"messages":[', *_listed(messages), b"]}"))


def _message(role: str, text: str) -> Pieces:
    return (_json({"role": role, "content": text}),)


def _user(parts: Sequence[Part]) -> Pieces:
    if not parts:
        return _message("user", "")
    if len(parts) == 1 and isinstance(parts[0], str):
        return _message("user", parts[0])
    return (b'{"role":"user","content":[', *_listed(map(_part, parts)), b"]}")


def _part(part: Part) -> Pieces:
    if isinstance(part, str):
        return (_json({"type": "text", "text": part}),)
    # Base64 needs no escaping, and to look for what does takes long.
    return (b'{"type":"input_audio","input_audio":{"format":"wav","data":"', *part.base64, b'"}}')


def _listed(values: Iterable[Pieces]) -> Pieces:
    """The pieces of the values with commas between them."""
    return tuple(chain.from_iterable((b"," if place else b"", *value) for place, value in enumerate(values)))


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
