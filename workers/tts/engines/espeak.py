"""espeak-ng in process: the embedded voice, in every language that the library knows.

    text ─> the library's one thread ─> pieces of 60 ms, 22,050 Hz ─> trimmed, 24,000 Hz ─> the event loop

The library is loaded at run time from the wheel `espeakng-loader` and called through ctypes (`speak_lib.h`).
There is one of it in a process, with one voice and one callback, so all of it happens in one thread, which
takes chunks in the order in which they were asked for: 10 ms for the longest, so nobody waits long. It pushes
its pieces; they wait in the loop, and not in the thread, where a slow reader would stand in others' way.
"""

from __future__ import annotations

import asyncio
import ctypes
import re
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import espeakng_loader

from shared.audio import OUTPUT_RATE, Resampler
from shared.errors import EngineError
from shared.text import speakable
from workers.tts.engines import SpeechRequest, Voice, choose_voice, whole_speech

DEFAULT_VOICE = "en-US"

WORDS_PER_MINUTE = 175
"""At speed 1.0: the library's own default. It speaks 80 to 450."""

MAX_TEXT = 500
"""Characters given to the library at once, so that a long text cannot keep it from other conversations."""

MAX_PAUSE_MS = 350.0
"""At speed 1.0. It gives a full stop 300, and 600 to one inside quotation marks."""

MUTE = frozenset({"gmq/fo", "trk/kaa", "art/xex"})
"""Languages whose dictionaries are not in the wheel: nothing is said in them."""

Put = Callable[[bytes], bool]
"""Takes a piece; answers whether more is wanted."""


class Espeak:
    """The engine. Raises `EngineError` when the library cannot be loaded."""

    name = "espeak"
    default_voice = DEFAULT_VOICE

    def __init__(self) -> None:
        self._library = _library()

    def voices(self) -> tuple[Voice, ...]:
        """A voice for each language and dialect, by its tag; American English first."""
        return self._library.voices

    async def synthesize_speech_streaming(self, request: SpeechRequest) -> AsyncGenerator[bytes, None]:
        """Yield pieces of 60 ms, the first after a fraction of a millisecond. Closing stops the library at
        its next piece. `speed` is obeyed from 0.5 to 2.0, and as the nearest of these beyond.
        """
        voice = choose_voice(self._library.voices, request)
        words_per_minute = round(WORDS_PER_MINUTE * min(max(request.speed, 0.5), 2.0))
        for text in _parts(request.text):
            if speakable(text):
                speaking = _Speaking(self._library, voice, words_per_minute, text)
                try:
                    while (pcm := await speaking.next()) is not None:
                        yield pcm
                finally:
                    speaking.stop()

    async def synthesize_speech(self, request: SpeechRequest) -> bytes:
        """The whole chunk at once."""
        return await whole_speech(self, request)


class _Speaking:
    """One text on its way through the library's thread and back to the loop that wants it."""

    def __init__(self, library: _Library, voice: Voice, words_per_minute: int, text: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._arrived: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue()
        self._stopped = False
        self._trimmer = _Trimmer(library.rate * MAX_PAUSE_MS / 1000 * WORDS_PER_MINUTE / words_per_minute)
        self._resampler = Resampler(library.rate, OUTPUT_RATE)
        self._work = library.thread.submit(self._run, library, voice, words_per_minute, text)

    async def next(self) -> bytes | None:
        """The next piece; `None` when all was said. Raises `EngineError`."""
        arrived = await self._arrived.get()
        if isinstance(arrived, BaseException):
            raise arrived
        return arrived

    def stop(self) -> None:
        """Nothing more is wanted."""
        self._stopped = True
        self._work.cancel()

    def _run(self, library: _Library, voice: Voice, words_per_minute: int, text: str) -> None:
        try:
            library.speak(voice, words_per_minute, text, self._put)
            rest = self._resampler.feed(self._trimmer.finish()) + self._resampler.flush()
            if rest:
                self._tell(rest)
            self._tell(None)
        except BaseException as error:  # whatever it is, a reader that is not told would wait for ever
            self._tell(error)

    def _put(self, pcm: bytes) -> bool:
        piece = self._resampler.feed(self._trimmer.feed(pcm))
        return self._tell(piece) if piece else not self._stopped

    def _tell(self, what: bytes | BaseException | None) -> bool:
        if not self._stopped:
            try:
                self._loop.call_soon_threadsafe(self._arrived.put_nowait, what)
            except RuntimeError:  # the loop is closed: its readers are gone
                self._stopped = True
        return not self._stopped


class _Trimmer:
    """Takes the silence off the head of a text, and shortens it at the end. Silence is exact zeros."""

    def __init__(self, max_pause_samples: float) -> None:
        self._max_pause_bytes = 2 * int(max_pause_samples)
        self._begun = False
        self._silent_bytes = 0

    def feed(self, pcm: bytes) -> bytes:
        """The sound so far, without silence that may be the last."""
        if not self._begun:
            pcm = pcm[(len(pcm) - len(pcm.lstrip(b"\0"))) & ~1 :]
            self._begun = bool(pcm)
        sound = pcm.rstrip(b"\0")
        sound += bytes(len(sound) % 2)
        silent_before, self._silent_bytes = self._silent_bytes, len(pcm) - len(sound)
        if sound:
            return bytes(silent_before) + sound
        self._silent_bytes += silent_before
        return b""

    def finish(self) -> bytes:
        """The silence at the end, as much as a pause may be."""
        return bytes(min(self._silent_bytes, self._max_pause_bytes)) if self._begun else b""


# From here on: the library, as espeak-ng's `speak_lib.h` (1.52) declares it.

_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_CHARS_UTF8 = 1
_ENDPAUSE = 0x1000
_POS_CHARACTER = 1
_RATE = 1
_BUFFER_MS = 60

_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


class _VoiceRecord(ctypes.Structure):
    """`espeak_VOICE`. `languages`: a priority (a byte, lower is better) and a string for each; then a 0."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("languages", ctypes.POINTER(ctypes.c_ubyte)),
        ("identifier", ctypes.c_char_p),
        ("gender", ctypes.c_ubyte),
        ("age", ctypes.c_ubyte),
        ("variant", ctypes.c_ubyte),
        ("xx1", ctypes.c_ubyte),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    )


class _Library:
    """The one library of the process. Its `speak` is called in its `thread` only."""

    def __init__(self) -> None:
        try:
            self._lib = ctypes.CDLL(espeakng_loader.get_library_path())
            data = espeakng_loader.get_data_path()
        except (OSError, RuntimeError) as error:
            raise EngineError(f"espeak-ng cannot be loaded: {error}") from error
        self._declare()
        self.rate = self._lib.espeak_Initialize(
            _AUDIO_OUTPUT_SYNCHRONOUS, _BUFFER_MS, data.encode(), _INITIALIZE_DONT_EXIT
        )
        if self.rate <= 0:
            raise EngineError(f"espeak-ng cannot be started with the data in {Path(data)}")
        self._put: Put = _refuse
        self._error: BaseException | None = None
        self._callback = _CALLBACK(self._on_pcm)  # kept, for the library keeps only its address
        self._lib.espeak_SetSynthCallback(self._callback)
        self._identifiers, self.voices = _catalogue(self._lib.espeak_ListVoices(None))
        self._voice_set = b""
        self._set_voice(self.voices[0].name)  # the first time takes 10 ms
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="espeak")

    def speak(self, voice: Voice, words_per_minute: int, text: str, put: Put) -> None:
        """Say a text; returns when all of it was put, or no more is wanted. Raises `EngineError`."""
        self._set_voice(voice.name)
        self._lib.espeak_SetParameter(_RATE, words_per_minute, 0)
        # The pause belongs to the punctuation: a chunk that ends within a clause has none.
        flags = _CHARS_UTF8 if text.rstrip()[-1:].isalnum() else _CHARS_UTF8 | _ENDPAUSE
        utf8 = text.encode()
        self._put, self._error = put, None
        try:
            status = self._lib.espeak_Synth(utf8, len(utf8) + 1, 0, _POS_CHARACTER, 0, flags, None, None)
            if self._error is not None:
                raise self._error
        finally:
            self._put, self._error = _refuse, None
        if status != 0:
            raise EngineError(f"espeak-ng does not speak: status {status}")

    def _set_voice(self, name: str) -> None:
        identifier = self._identifiers[name]
        if identifier != self._voice_set:
            if self._lib.espeak_SetVoiceByName(identifier) != 0:
                raise EngineError(f"espeak-ng cannot load its voice {identifier.decode()!r}")
            self._voice_set = identifier

    def _on_pcm(self, pcm: int | None, samples: int, events: int | None) -> int:
        """The library's callback: 1 stops it. What is raised here would be lost in it."""
        if not pcm or samples <= 0:
            return 0
        try:
            return 0 if self._put(ctypes.string_at(pcm, 2 * samples)) else 1
        except BaseException as error:
            self._error = error
            return 1

    def _declare(self) -> None:
        lib, integer, text, pointer = self._lib, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p
        lib.espeak_Initialize.argtypes = [integer, integer, text, integer]
        lib.espeak_SetSynthCallback.argtypes = [_CALLBACK]
        lib.espeak_SetSynthCallback.restype = None
        lib.espeak_ListVoices.argtypes = [pointer]
        lib.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(_VoiceRecord))
        lib.espeak_SetVoiceByName.argtypes = [text]
        lib.espeak_SetParameter.argtypes = [integer, integer, integer]
        unsigned = ctypes.c_uint
        lib.espeak_Synth.argtypes = [
            text, ctypes.c_size_t, unsigned, integer, unsigned, unsigned, pointer, pointer,
        ]  # fmt: skip


@cache
def _library() -> _Library:
    return _Library()


def _refuse(pcm: bytes) -> bool:
    return False


def _parts(text: str) -> Iterator[str]:
    """The text in parts of `MAX_TEXT` at most, cut between words, without what is no character."""
    clean = re.sub("[\0\ud800-\udfff]", " ", text)
    while len(clean) > MAX_TEXT:
        cut = clean.rfind(" ", 1, MAX_TEXT) + 1 or MAX_TEXT
        yield clean[:cut]
        clean = clean[cut:]
    yield clean


def _catalogue(
    records: ctypes._Pointer[ctypes._Pointer[_VoiceRecord]],
) -> tuple[dict[str, bytes], tuple[Voice, ...]]:
    """The library's identifier for each voice's name, and the voices: a language's best one first."""
    identifiers: dict[str, bytes] = {}
    ranked: list[tuple[bool, bool, str, int, Voice]] = []
    place = 0
    while records[place]:
        record = records[place].contents
        place += 1
        identifier: bytes = record.identifier
        if identifier.decode() in MUTE:
            continue
        priorities = dict(_languages(record))
        first, *others = priorities
        # Two ways of writing one language share its tag; the file's name tells them apart.
        name = _tag(first) if _tag(first) not in identifiers else Path(identifier.decode()).name
        identifiers[name] = identifier
        for tag in (name, *(_tag(other) for other in others if not first.startswith(other))):
            language = tag.partition("-")[0]
            priority = priorities.get(language, 99)
            ranked.append((name != DEFAULT_VOICE, tag != name, language, priority, Voice(name, tag)))
    ranked.sort(key=lambda each: each[:-1])
    return identifiers, tuple(voice for *_, voice in ranked)


def _languages(record: _VoiceRecord) -> Iterator[tuple[str, int]]:
    place = 0
    while priority := record.languages[place]:
        end = place + 1
        while record.languages[end]:
            end += 1
        yield bytes(record.languages[place + 1 : end]).decode(), priority
        place = end + 1


def _tag(language: str) -> str:
    """A language of the library as BCP 47 writes it: `en-us` is `en-US`, `fa-latn` is `fa-Latn`."""
    public, private, rest = language.partition("-x-")
    first, *others = public.split("-")
    cased = [each.upper() if len(each) == 2 else each.title() if len(each) == 4 else each for each in others]
    return "-".join([first, *cased]) + private + rest
