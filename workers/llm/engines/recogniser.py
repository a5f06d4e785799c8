"""Speech to words on the CPU: pocketsphinx, with the small English model of its wheel.

Owns the one decoder and where a voice begins; knows nothing of turns, threads or answers. The wheel's Python
binding holds the interpreter's lock while it decodes: for 11 s of speech nothing else ran in the process for
4.9 s. So the same C functions are called through ctypes, which lets go of it: 5 ms.
"""

from __future__ import annotations

import ctypes
import json
from functools import cache
from pathlib import Path

import pocketsphinx
from pocketsphinx import _pocketsphinx

from shared.errors import EngineError

SAMPLE_RATE = 16_000
SAMPLE_BYTES = 2
SECOND_BYTES = SAMPLE_RATE * SAMPLE_BYTES

# `fwdflat` is another pass over the whole utterance after its end: 0.7 s for 11 s of speech, and other words
# rather than better ones. `maxwpf` bounds the words of a frame in the last lattice: the same words, and 0.02
# instead of 0.3 s. Live, the words of those 11 s are there 0.2 s after their end.
_OPTIONS = {"fwdflat": False, "bestpath": True, "maxwpf": 10, "samprate": SAMPLE_RATE, "loglevel": "FATAL"}

_WORDS = b"_default"
_NO_WORDS = b"mean"

_int, _str, _ptr, _size = ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t
_SIGNATURES: dict[str, tuple[object, ...]] = {
    "err_set_loglevel_str": (_str, _str),
    "ps_config_parse_json": (_ptr, _ptr, _str),
    "ps_config_free": (_int, _ptr),
    "ps_init": (_ptr, _ptr),
    "ps_free": (_int, _ptr),
    "ps_add_keyphrase": (_int, _ptr, _str, _str),
    "ps_activate_search": (_int, _ptr, _str),
    "ps_reinit_feat": (_int, _ptr, _ptr),
    "ps_set_cmn": (_int, _ptr, _str),
    "ps_get_cmn": (_str, _ptr, _int),
    "ps_start_utt": (_int, _ptr),
    "ps_process_raw": (_int, _ptr, _str, _size, _int, _int),
    "ps_end_utt": (_int, _ptr),
    "ps_get_hyp": (_str, _ptr, _ptr),
}


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(_pocketsphinx.__file__)
    for name, (result, *arguments) in _SIGNATURES.items():
        try:
            function = getattr(library, name)
        except AttributeError:
            raise EngineError(f"this build of pocketsphinx does not export {name}") from None
        function.restype, function.argtypes = result, arguments
    library.err_set_loglevel_str(b"FATAL")
    return library


class Recogniser:
    """One decoder, for one utterance at a time and one thread at a time. Loads in 0.4 s and takes 95 MB.

    The same audio after the same mean gives the same words, in pieces of whatever length. All audio is PCM16
    mono 16 kHz, of whole samples. Raises `EngineError`.
    """

    def __init__(self) -> None:
        self._library = _library()
        model = Path(pocketsphinx.get_model_path("en-us"))
        options = {
            "hmm": str(model / "en-us"),
            "lm": str(model / "en-us.lm.bin"),
            "dict": str(model / "cmudict-en-us.dict"),
            **_OPTIONS,
        }
        config = self._library.ps_config_parse_json(None, json.dumps(options).encode())
        self._decoder = self._library.ps_init(config)
        self._library.ps_config_free(config)
        if not self._decoder:
            raise EngineError(f"pocketsphinx cannot load its model from {model}")
        self._listening = False
        # A search for a single word costs a tenth of one for all words, and the mean comes with it.
        self._check(self._library.ps_add_keyphrase(self._decoder, _NO_WORDS, b"hello"))

    def __del__(self) -> None:
        if getattr(self, "_decoder", None):
            self._library.ps_free(self._decoder)

    def mean_of(self, pcm: bytes) -> bytes:
        """The cepstral mean of a stretch of speech, as `begin` wants it; 30 ms of work for a second.

        It stands for voice, microphone and room. With one that does not fit the decoder hears nonsense; the
        mean of a whole utterance needs its end; that of its first three seconds gives the same words.
        """
        self._start(_NO_WORDS)
        self._process(pcm, whole=True)
        self._end()
        mean: bytes = self._library.ps_get_cmn(self._decoder, False)
        return mean

    def begin(self, mean: bytes) -> None:
        """Begin an utterance; one that was left unfinished is forgotten."""
        self._start(_WORDS, mean)

    def hear(self, pcm: bytes) -> None:
        """Decode the next piece: 0.3 to 0.45 s of work for a second, on one core."""
        self._process(pcm)

    def finish(self) -> list[str]:
        """End the utterance: its words, in lower case."""
        self._end()
        words: bytes | None = self._library.ps_get_hyp(self._decoder, None)
        return (words or b"").decode().split()

    def _start(self, search: bytes, mean: bytes | None = None) -> None:
        if self._listening:
            self._end()
        # Without new features the noise floor of the utterance before would shift this one's.
        self._check(self._library.ps_reinit_feat(self._decoder, None))
        self._check(self._library.ps_activate_search(self._decoder, search))
        if mean is not None:
            self._check(self._library.ps_set_cmn(self._decoder, mean))
        self._check(self._library.ps_start_utt(self._decoder))
        self._listening = True

    def _process(self, pcm: bytes, whole: bool = False) -> None:
        samples = len(pcm) // SAMPLE_BYTES
        self._check(self._library.ps_process_raw(self._decoder, pcm, samples, whole, whole))

    def _end(self) -> None:
        self._listening = False
        self._check(self._library.ps_end_utt(self._decoder))

    def _check(self, status: int) -> None:
        if status < 0:
            raise EngineError("pocketsphinx failed", retryable=True)


class Onset:
    """Where a voice begins: passes on what comes from then, and holds back the silence or noise before it.

    Ahead of a voice there is little to hear and much to get wrong: noise shifts the mean and makes up words.
    """

    FRAME_S = 0.03
    LEAD_BYTES = SECOND_BYTES // 10
    """Passed on of what was before the voice, for soft first sounds."""
    VOICED_FRAMES = 4
    """So many in a row make a voice: single ones are in any noise."""
    STRICTNESS = 2
    """Of the detector's 0 to 3: below 2 it takes steady noise for a voice."""

    def __init__(self) -> None:
        self._detector = pocketsphinx.Vad(self.STRICTNESS, SAMPLE_RATE, self.FRAME_S)
        self._frame_bytes: int = self._detector.frame_bytes
        self._held = bytearray()
        self._seen = 0
        self._voiced = 0
        self.found = False

    def feed(self, pcm: bytes) -> bytes:
        """What is to be heard of it, from a little before the voice. Nothing as long as there is none."""
        if self.found:
            return pcm
        self._held += pcm
        while not self.found and self._seen + self._frame_bytes <= len(self._held):
            frame = bytes(self._held[self._seen : self._seen + self._frame_bytes])
            self._voiced = self._voiced + 1 if self._detector.is_speech(frame) else 0
            self._seen += self._frame_bytes
            self.found = self._voiced == self.VOICED_FRAMES
        # Kept, as long as no voice is found: what a voice that begins with the next frame would want.
        lead = self.LEAD_BYTES + self.VOICED_FRAMES * self._frame_bytes
        dropped = max(0, self._seen - lead)
        del self._held[:dropped]
        self._seen -= dropped
        if not self.found:
            return b""
        heard, self._held = bytes(self._held), bytearray()
        return heard
