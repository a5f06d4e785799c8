"""The microphone and the loudspeaker of this machine, where it has them and `sounddevice` is installed."""

from __future__ import annotations

import asyncio
import sys
import termios
from collections.abc import AsyncGenerator
from typing import Any

from deploy.cli.recording import NothingAsked, Unusable

HOW_TO = "pip install sounddevice, and PortAudio beside it (Debian: apt install libportaudio2)"


class Microphone:
    """The default input device, at its own rate. Raises `Unusable` where there is none."""

    def __init__(self, slice_ms: float) -> None:
        module = _sounddevice()
        self.length_s: float | None = None
        self._left = False
        self._heard: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
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
        _forget_what_was_typed()
        self._loop.add_reader(sys.stdin, self._read_line)
        try:
            self._stream.start()
            while (data := await self._heard.get()) is not None:
                yield data
            if self._left:
                raise NothingAsked("nothing was said")
        finally:
            self._loop.remove_reader(sys.stdin)
            self._stream.abort()
            self._heard = asyncio.Queue()

    def close(self) -> None:
        """Give the device back."""
        self._stream.close()

    def _hear(self, data: Any, *_: object) -> None:
        # Called in a thread of PortAudio's, whose buffer is only lent.
        self._loop.call_soon_threadsafe(self._heard.put_nowait, bytes(data))

    def _read_line(self) -> None:
        self._left = not sys.stdin.readline()
        self._heard.put_nowait(None)


class Speaker:
    """The default output device, at `rate` samples a second. Raises `Unusable` where there is none."""

    def __init__(self, rate: int) -> None:
        module = _sounddevice()
        try:
            self._stream = module.RawOutputStream(samplerate=rate, channels=1, dtype="int16")
        except (ValueError, module.PortAudioError) as error:
            raise Unusable(f"there is no loudspeaker here: {error}") from None
        self._due: asyncio.Queue[bytes] = asyncio.Queue()
        self._playing = asyncio.create_task(self._play(), name="speaker")

    def say(self, pcm16: bytes) -> None:
        """Play this after what was given before."""
        self._due.put_nowait(pcm16)

    async def finish(self) -> None:
        """Wait until everything was played."""
        await self._due.join()
        await asyncio.to_thread(self._stream.stop)

    def close(self) -> None:
        """Stop at once."""
        self._playing.cancel()
        self._stream.abort()
        self._stream.close()

    async def _play(self) -> None:
        while True:
            pcm16 = await self._due.get()
            if self._stream.stopped:
                self._stream.start()
            await asyncio.to_thread(self._stream.write, pcm16)
            self._due.task_done()


def _forget_what_was_typed() -> None:
    """A second Enter, pressed while the answer came, is no question."""
    if sys.stdin.isatty():
        termios.tcflush(sys.stdin, termios.TCIFLUSH)


def _sounddevice() -> Any:
    """The library, imported here: it is no part of a plain installation, and looks for devices at once."""
    try:
        import sounddevice
    except ImportError:
        raise Unusable(f"the sound of this machine needs a library: {HOW_TO}") from None
    except OSError as error:  # it is there, and PortAudio is not
        raise Unusable(f"{error}: {HOW_TO}") from None
    return sounddevice
