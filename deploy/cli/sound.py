"""The microphone and the loudspeaker of this machine, where it has them and `sounddevice` is installed."""

from __future__ import annotations

import asyncio
import sys
import termios
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any, TextIO

from deploy.cli.recording import NothingAsked, Unusable
from shared.audio import SAMPLE_BYTES

HOW_TO = "pip install sounddevice, and PortAudio beside it (Debian: apt install libportaudio2)"

PIECE_MS = 20
"""How much the loudspeaker is given at a time: as long it goes on at the most, once it shall fall silent."""


class Microphone:
    """The default input device, at its own rate. Raises `Unusable` where there is none.

    `until_enter`: what is said ends with a key, so it is of no use either where none can be pressed.
    """

    def __init__(self, slice_ms: float, *, until_enter: bool) -> None:
        module = _sounddevice()
        self.length_s: float | None = None
        self._left = False
        self._heard: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._keyboard = _keyboard(self._loop)
        if until_enter and self._keyboard is None:
            raise Unusable("Enter asks, and standard input is no keyboard; --hands-free needs none")
        try:
            self.rate = int(module.query_devices(kind="input")["default_samplerate"])
            self._stream = module.RawInputStream(
                samplerate=self.rate,
                channels=1,
                dtype="int16",
                blocksize=int(slice_ms * self.rate / 1000),
                callback=self._hear,
            )
        except (ValueError, module.PortAudioError) as error:
            raise Unusable(f"there is no microphone here: {error}") from None

    async def slices(self, slice_ms: float) -> AsyncGenerator[bytes, None]:
        """What is said until Enter is pressed; slices are as long as first given.

        Raises `NothingAsked` when standard input ends, as by Ctrl-D.
        """
        async with aclosing(self._hear_until(self._read_line)) as slices:
            async for data in slices:
                yield data
        if self._left:
            raise NothingAsked("nothing was said")

    def endless(self, slice_ms: float) -> AsyncGenerator[bytes, None]:
        """Everything until standard input ends, as by Ctrl-D, or for ever where it is no keyboard; slices are
        as long as first given."""
        return self._hear_until(self._pass_over_line)

    def close(self) -> None:
        """Give the device back."""
        self._stream.close()

    def _hear(self, data: Any, *_: object) -> None:
        # Called in a thread of PortAudio's, whose buffer is only lent.
        self._loop.call_soon_threadsafe(self._heard.put_nowait, bytes(data))

    async def _hear_until(self, typed: Callable[[TextIO], None]) -> AsyncGenerator[bytes, None]:
        """Every slice up to a `None`, which `typed` puts behind them: it is called when there is a line."""
        keyboard = self._keyboard
        if keyboard is not None:
            _forget_what_was_typed(keyboard)
            self._loop.add_reader(keyboard, typed, keyboard)
        try:
            self._stream.start()
            while (data := await self._heard.get()) is not None:
                yield data
        finally:
            if keyboard is not None:
                self._loop.remove_reader(keyboard)
            self._stream.abort()
            self._heard = asyncio.Queue()

    def _read_line(self, keyboard: TextIO) -> None:
        self._left = not keyboard.readline()
        self._heard.put_nowait(None)

    def _pass_over_line(self, keyboard: TextIO) -> None:
        if not keyboard.readline():
            self._heard.put_nowait(None)


class Speaker:
    """The default output device, at `rate` samples a second. Raises `Unusable` where there is none.

    Should it fail later, `note` gets a line that says so, and what is due is passed over in silence.
    """

    def __init__(self, rate: int, note: Callable[[str], None]) -> None:
        module = _sounddevice()
        try:
            self._stream = module.RawOutputStream(samplerate=rate, channels=1, dtype="int16", latency="low")
        except (ValueError, module.PortAudioError) as error:
            raise Unusable(f"there is no loudspeaker here: {error}") from None
        self.turn = 0
        """The turn that is being played, or was the last."""
        self._rate = rate
        self._note = note
        self._failure: type[Exception] = module.PortAudioError
        self._failed = False
        self._piece_bytes = round(PIECE_MS * rate / 1000) * SAMPLE_BYTES
        self._due: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()
        self._written_bytes = 0
        self._drops = 0
        # All that is done to the stream, one thing after the other: it may not be stopped under a write.
        self._device = ThreadPoolExecutor(1, thread_name_prefix="speaker")
        self._playing = asyncio.create_task(self._play(), name="speaker")

    @property
    def played_ms(self) -> float:
        """How much of `turn` was heard, without what the device holds still."""
        written_ms = self._written_bytes / SAMPLE_BYTES / self._rate * 1000
        held_ms = 0.0 if self._stream.stopped else float(self._stream.latency) * 1000
        return max(0.0, written_ms - held_ms)

    def say(self, pcm16: bytes, turn: int = 0) -> None:
        """Play this after what was given before."""
        self._due.put_nowait((turn, pcm16))

    def drop(self) -> None:
        """Fall silent: what was given and not heard is forgotten."""
        self._drops += 1
        while not self._due.empty():
            self._due.get_nowait()
            self._due.task_done()
        self._device.submit(self._silence)

    async def finish(self) -> None:
        """Wait until everything was played."""
        await self._due.join()
        await self._do(self._stream.stop)

    async def close(self) -> None:
        """Fall silent, and give the device back."""
        self._playing.cancel()
        self.drop()
        await asyncio.get_running_loop().run_in_executor(self._device, self._stream.close)
        self._device.shutdown()

    async def _play(self) -> None:
        while True:
            turn, pcm16 = await self._due.get()
            if not self._failed:
                await self._play_one(turn, pcm16)
            self._due.task_done()

    async def _play_one(self, turn: int, pcm16: bytes) -> None:
        if turn != self.turn:
            self.turn, self._written_bytes = turn, 0
        drops = self._drops
        for start in range(0, len(pcm16), self._piece_bytes):
            await self._do(self._write, pcm16[start : start + self._piece_bytes])
            if self._drops != drops or self._failed:
                return

    async def _do(self, what: Callable[..., None], *arguments: bytes) -> None:
        """Do something to the stream, unless it has failed."""
        if self._failed:
            return
        try:
            await asyncio.get_running_loop().run_in_executor(self._device, what, *arguments)
        except self._failure as error:
            self._failed = True
            self._note(f"parley: the loudspeaker failed ({error}); going on without sound")

    def _write(self, piece: bytes) -> None:
        if self._stream.stopped:
            self._stream.start()
        self._stream.write(piece)
        self._written_bytes += len(piece)

    def _silence(self) -> None:
        if not self._stream.stopped:
            self._stream.abort()


def _keyboard(loop: asyncio.AbstractEventLoop) -> TextIO | None:
    """Standard input, if a line on it can be waited for: not on a file, nor on nothing."""
    try:
        loop.add_reader(sys.stdin, lambda: None)
    except (OSError, ValueError):
        return None
    loop.remove_reader(sys.stdin)
    return sys.stdin


def _forget_what_was_typed(keyboard: TextIO) -> None:
    """A second Enter, pressed while the answer came, is no question."""
    if keyboard.isatty():
        termios.tcflush(keyboard, termios.TCIFLUSH)


def _sounddevice() -> Any:
    """The library, imported here: it is no part of a plain installation, and looks for devices at once."""
    try:
        import sounddevice
    except ImportError:
        raise Unusable(f"the sound of this machine needs a library: {HOW_TO}") from None
    except OSError as error:  # it is there, and PortAudio is not
        raise Unusable(f"{error}: {HOW_TO}") from None
    return sounddevice
