"""Silero VAD: tells a voice from everything else, for many conversations in one batch.

    hear ─ as many windows as are full ─┐
    hear ─ …                            ├─> line ─ one window of each, at most 32 ─> one call ─> who waits
    hear ─ …                            ┘   ▲                                         │
                                            └──────── those with more windows ────────┘

One thread makes the calls. While one runs, what arrives collects for the next; alone, a window waits for
nothing. The event loop only puts a request into the line, and is told once a call of all that it answered.

The model lies beside this file: `silero_vad_16k_op15.onnx` out of the wheel silero-vad 6.2.3 on PyPI, MIT
(`silero_vad.LICENSE`), https://github.com/snakers4/silero-vad. It takes windows of 512 samples at 16 kHz,
each with the 64 samples before it, and carries a state of 2 x 128 numbers from one window to the next.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edge.detection import WINDOW_SAMPLES, Heard
from shared.audio import INPUT_RATE, SAMPLE_BYTES
from shared.errors import EngineError

MODEL = Path(__file__).parent / "silero_vad_16k_op15.onnx"
SHA256 = "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49"

CONTEXT_SAMPLES = 64
STATE_SIZE = 128

MAX_BATCH = 32
"""Windows in one call. From 8 on a window costs the same, and who comes next waits for the whole call."""

_WINDOW_BYTES = WINDOW_SAMPLES * SAMPLE_BYTES
_CONTEXT_BYTES = CONTEXT_SAMPLES * SAMPLE_BYTES
_FULL_SCALE = np.float32(1 / 32768)
_ERRORS_ONLY = 3
_ENDED = "the voice activity detection has ended"

Floats = NDArray[np.float32]


class Model(Protocol):
    """What judges a batch of windows."""

    def __call__(self, windows: Floats, state: Floats) -> tuple[Floats, Floats]:
        """How likely each holds a voice, and the state after it.

        `windows` [n, 64 + 512] in -1 to 1, `state` [2, n, 128]; the answer is [n] and [2, n, 128].
        """
        ...


def load(path: Path = MODEL) -> Model:
    """The model in a file, ready to be called. Raises `EngineError` if it is not the one that was tried."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EngineError(f"the model of the voice activity detection cannot be read: {error}") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256:
        raise EngineError(
            f"{path} is not the model of Silero VAD 6.2.3: its SHA-256 is {digest}, not {SHA256}"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    rate = np.array(INPUT_RATE, np.int64)

    def judge(windows: Floats, state: Floats) -> tuple[Floats, Floats]:
        voice, after = session.run(None, {"input": windows, "state": state, "sr": rate})
        return voice[:, 0], after

    return judge


class Silero:
    """Hears for all conversations of one event loop. Loading takes a few hundredths of a second.

    Raises `EngineError` if the model's file is missing or another one.
    """

    name = "silero"

    def __init__(self, model: Model | None = None) -> None:
        self._model = model or load()
        self._asked: SimpleQueue[_Request | None] = SimpleQueue()
        self.closed = False
        self._thread = threading.Thread(target=self._work, name=self.name, daemon=True)
        self._thread.start()

    def ear(self) -> SileroEar:
        """For one more conversation; it needs no closing."""
        return SileroEar(self)

    def close(self) -> None:
        """Wait for the call that runs, and end. Who still waits gets an `EngineError`."""
        self.closed = True
        self._asked.put(None)
        self._thread.join()

    def ask(self, request: _Request) -> None:
        """Put a request into the line."""
        if self.closed:
            raise EngineError(_ENDED)
        self._asked.put(request)

    def _work(self) -> None:
        line: deque[_Request] = deque()
        while not self.closed:
            unfinished = self._judge(_next_batch(line))
            self._collect(line, wait=not line and not unfinished)
            line.extend(unfinished)
        self._collect(line, wait=False)
        _fail(line, _ENDED)

    def _collect(self, line: deque[_Request], *, wait: bool) -> None:
        try:
            while request := self._asked.get(block=wait):
                line.append(request)
                wait = False
        except Empty:
            return

    def _judge(self, batch: list[_Request]) -> list[_Request]:
        """Make one call; those with more windows."""
        if not batch:
            return []
        try:
            self._call(batch)
        except Exception as error:
            _fail(batch, f"the voice activity detection failed: {error}", error.with_traceback(None))
            return []
        _tell([request for request in batch if request.complete])
        return [request for request in batch if not request.complete]

    def _call(self, batch: list[_Request]) -> None:
        windows = np.empty((len(batch), CONTEXT_SAMPLES + WINDOW_SAMPLES), np.float32)
        before = np.empty((2, len(batch), STATE_SIZE), np.float32)
        for row, request in enumerate(batch):
            windows[row] = request.window
            before[:, row] = request.state
        windows *= _FULL_SCALE
        voices, after = self._model(windows, before)
        for row, (request, voice) in enumerate(zip(batch, voices.tolist(), strict=True)):
            request.state[...] = after[:, row]
            request.heard.append(Heard(voice))


class SileroEar:
    """One conversation's input. One call of `hear` at a time."""

    def __init__(self, detector: Silero) -> None:
        self._detector = detector
        self.forget()

    def forget(self) -> None:
        """What comes next has nothing to do with what came before; left-over input is dropped."""
        self.state = np.zeros((2, STATE_SIZE), np.float32)
        """What the model carries from one window to the next."""
        self._rest = bytes(_CONTEXT_BYTES)
        """What the next window needs and is there: the samples before it, and its beginning."""

    async def hear(self, pcm: bytes) -> list[Heard]:
        """Take more input (PCM16 mono 16 kHz, of any length) and judge each window that is full by it.

        What is left over is the beginning of the next window. Raises `EngineError` if one of the windows
        could not be judged. Then, and when it is cancelled, what was given is lost, and the ear forgets.
        """
        pcm = self._rest + pcm
        full = (len(pcm) - _CONTEXT_BYTES) // _WINDOW_BYTES
        self._rest = pcm[full * _WINDOW_BYTES :]
        if not full:
            return []
        request = _Request(self.state, pcm, full)
        self._detector.ask(request)
        try:
            return await request.answer
        except BaseException:
            self.forget()
            raise


class _Request:
    """Windows of one ear, and who waits for them. `heard` and the state are the thread's."""

    __slots__ = ("_full", "_pcm", "answer", "error", "heard", "state")

    def __init__(self, state: Floats, pcm: bytes, full: int) -> None:
        self.state = state
        self.answer: asyncio.Future[list[Heard]] = asyncio.get_running_loop().create_future()
        self.heard: list[Heard] = []
        self.error: Exception | None = None
        self._pcm = pcm
        self._full = full

    @property
    def window(self) -> NDArray[np.int16]:
        """The next one, with the samples before it."""
        start = len(self.heard) * _WINDOW_BYTES
        return np.frombuffer(self._pcm, "<i2", CONTEXT_SAMPLES + WINDOW_SAMPLES, start)

    @property
    def complete(self) -> bool:
        return len(self.heard) == self._full

    def tell(self) -> None:
        """On the event loop: wake who waits, if anybody still does."""
        if self.answer.done():
            return
        if self.error:
            self.answer.set_exception(self.error)
        else:
            self.answer.set_result(self.heard)


def _next_batch(line: deque[_Request]) -> list[_Request]:
    batch: list[_Request] = []
    while line and len(batch) < MAX_BATCH:
        request = line.popleft()
        if not request.answer.cancelled():
            batch.append(request)
    return batch


def _fail(requests: Iterable[_Request], message: str, cause: Exception | None = None) -> None:
    failed = [request for request in requests if not request.answer.cancelled()]
    for request in failed:
        request.error = EngineError(message, retryable=cause is not None)
        request.error.__cause__ = cause
    _tell(failed)


def _tell(requests: list[_Request]) -> None:
    if requests:
        with suppress(RuntimeError):  # The loop is closed, and all who waited on it are gone.
            requests[0].answer.get_loop().call_soon_threadsafe(_wake, requests)


def _wake(requests: list[_Request]) -> None:
    for request in requests:
        request.tell()
