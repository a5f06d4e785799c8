"""With a stand-in for the sound library, for a machine that tests are run on has no devices."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from deploy.cli.main import main
from deploy.cli.recording import NothingAsked, Unusable
from deploy.cli.sound import Microphone, Speaker
from tests.conftest import WITHIN_S, eventually
from tests.deploy.cli.fake_edge import FRAMES, WORDS, World, serving

SLICE = bytes(range(64)) * 30


class PortAudioError(Exception):
    """What the library raises."""


@dataclass
class Devices:
    """What the library would find here."""

    has_input: bool = True
    rate: int = 48_000
    played: bytearray = field(default_factory=bytearray)
    heard: threading.Event = field(default_factory=threading.Event)
    """Set once the microphone has given its slices."""
    says: Iterable[bytes] = (SLICE,) * 3
    """What the microphone gives."""
    room: threading.Event = field(default_factory=threading.Event)
    """Whether the loudspeaker takes anything."""
    asked: int = 0
    """How often it was to take something."""
    aborted: int = 0
    """How often it was to forget what it had taken."""
    gone_after: int | None = None
    """How many pieces the loudspeaker takes before it is gone."""

    def __post_init__(self) -> None:
        self.room.set()


class _Microphone:
    def __init__(self, devices: Devices, callback: Callable[..., None], **_: object) -> None:
        self._devices, self._callback = devices, callback
        self._stopped = threading.Event()

    def start(self) -> None:
        self._stopped.clear()
        threading.Thread(target=self._speak, daemon=True).start()

    def _speak(self) -> None:
        for data in self._devices.says:
            if self._stopped.is_set():
                return
            self._callback(memoryview(data), len(data) // 2, None, None)
        self._devices.heard.set()

    def abort(self) -> None:
        self._stopped.set()

    def close(self) -> None:
        self._stopped.set()


class _Speaker:
    latency = 0.01

    def __init__(self, devices: Devices, **_: object) -> None:
        self._devices = devices
        self.stopped = True

    def start(self) -> None:
        self.stopped = False

    def write(self, pcm16: bytes) -> None:
        assert not self.stopped
        self._devices.asked += 1
        assert self._devices.room.wait(WITHIN_S)
        assert not self.stopped, "nobody stops it under a write"
        if self._devices.gone_after is not None and self._devices.asked > self._devices.gone_after:
            raise PortAudioError("Unanticipated host error")
        self._devices.played += pcm16

    def stop(self) -> None:
        self.stopped = True

    def abort(self) -> None:
        self.stopped = True
        self._devices.aborted += 1

    def close(self) -> None:
        self.stopped = True


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Devices:
    devices = Devices()
    module: Any = ModuleType("sounddevice")

    def query_devices(kind: str) -> dict[str, object]:
        if not devices.has_input:
            raise PortAudioError("no default input device")
        return {"default_samplerate": float(devices.rate)}

    module.PortAudioError = PortAudioError
    module.query_devices = query_devices
    module.RawInputStream = lambda **settings: _Microphone(devices, **settings)
    module.RawOutputStream = lambda **settings: _Speaker(devices, **settings)
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    return devices


@pytest.fixture
def keyboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Standard input; types lines into it."""
    reading, writing = os.pipe()
    with open(reading) as stdin, open(writing, "w", buffering=1) as keys:
        monkeypatch.setattr(sys, "stdin", stdin)

        def press(text: str) -> None:
            if text:
                keys.write(text)
            else:
                keys.close()

        yield press


async def test_a_microphone_listens_until_enter(devices: Devices, keyboard: Callable[[str], None]) -> None:
    microphone = Microphone(20, until_enter=True)
    assert microphone.rate == 48_000
    for _ in range(2):
        devices.heard.clear()
        heard = []
        async for data in microphone.slices(20):
            heard.append(data)
            if len(heard) == 3:
                keyboard("\n")
        assert heard == [SLICE] * 3
    microphone.close()


async def test_who_leaves_has_asked_nothing(devices: Devices, keyboard: Callable[[str], None]) -> None:
    microphone = Microphone(20, until_enter=True)
    keyboard("")
    with pytest.raises(NothingAsked):
        async for data in microphone.slices(20):
            assert data == SLICE
    microphone.close()


async def test_a_host_without_a_microphone_is_said_so(devices: Devices) -> None:
    devices.has_input = False
    with pytest.raises(Unusable, match="no microphone here: no default input device"):
        Microphone(20, until_enter=False)


async def test_a_speaker_plays_everything_in_order_and_again_after_a_pause(devices: Devices) -> None:
    speaker = Speaker(24_000, pytest.fail)
    speaker.say(b"one")
    speaker.say(b"two")
    await speaker.finish()
    speaker.say(b"three")
    await speaker.finish()
    await speaker.close()
    assert devices.played == b"onetwothree"


async def test_a_speaker_falls_silent_in_the_middle_of_a_word_and_then_says_the_next_thing(
    devices: Devices,
) -> None:
    speaker = Speaker(24_000, pytest.fail)
    devices.room.clear()
    for _ in range(10):
        speaker.say(bytes(4800), 1)
    await eventually(lambda: devices.asked == 1, "the first piece is being written")
    speaker.drop()
    assert not devices.aborted
    devices.room.set()
    await eventually(lambda: devices.aborted == 1, "what the device held was forgotten")
    assert devices.played == bytes(960), "20 ms and no more"
    speaker.say(b"next", 2)
    await speaker.finish()
    assert devices.played == bytes(960) + b"next"
    await speaker.close()


async def test_a_speaker_that_has_nothing_left_to_say_forgets_what_the_device_holds(devices: Devices) -> None:
    speaker = Speaker(24_000, pytest.fail)
    speaker.say(bytes(4800), 1)
    await eventually(lambda: speaker.played_ms == 90.0, "all was written")
    assert devices.aborted == 0
    speaker.drop()
    await eventually(lambda: devices.aborted == 1, "what the device held was forgotten")
    await speaker.close()


async def test_a_speaker_that_fails_in_the_middle_says_so_once_and_passes_over_what_is_due(
    devices: Devices,
) -> None:
    said: list[str] = []
    devices.gone_after = 1
    speaker = Speaker(24_000, said.append)
    for _ in range(3):
        speaker.say(bytes(4800), 1)
    await speaker.finish()
    assert said == ["parley: the loudspeaker failed (Unanticipated host error); going on without sound"]
    speaker.say(bytes(4800), 2)
    speaker.drop()
    speaker.say(bytes(4800), 3)
    await speaker.finish()
    assert (speaker.turn, len(said)) == (1, 1), "of the others nothing is heard"
    await speaker.close()
    assert len(devices.played) == 960


async def test_a_speaker_is_not_closed_under_a_write(devices: Devices) -> None:
    speaker = Speaker(24_000, pytest.fail)
    devices.room.clear()
    speaker.say(bytes(4800), 1)
    await eventually(lambda: devices.asked == 1, "the first piece is being written")
    closing = asyncio.create_task(speaker.close())
    closed, _ = await asyncio.wait({closing}, timeout=0)
    assert not closed
    devices.room.set()
    await closing
    assert devices.played == bytes(960), "20 ms and no more"


async def test_a_speaker_knows_how_much_of_which_turn_was_heard(devices: Devices) -> None:
    speaker = Speaker(24_000, pytest.fail)
    speaker.say(bytes(4800), 1)
    await eventually(lambda: speaker.played_ms == 90.0, "all but what the device holds")
    speaker.say(bytes(9600), 2)
    await eventually(lambda: speaker.turn == 2 and speaker.played_ms == 190.0, "the second turn")
    await speaker.finish()
    assert speaker.played_ms == 200.0
    await speaker.close()


async def test_an_endless_microphone_passes_over_enter_and_ends_with_ctrl_d(
    devices: Devices, keyboard: Callable[[str], None]
) -> None:
    microphone = Microphone(20, until_enter=False)
    keyboard("\n")
    heard = []
    async for data in microphone.endless(20):
        heard.append(data)
        if len(heard) == 3:
            keyboard("")
    assert heard == [SLICE] * 3
    microphone.close()


@pytest.fixture(params=["nothing", "a file", "closed"])
def no_keyboard(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Standard input on which no key can be pressed."""
    (tmp_path / "lines").write_text("\n\n")
    path = os.devnull if request.param == "nothing" else tmp_path / "lines"
    with open(path) as stdin:
        monkeypatch.setattr(sys, "stdin", None if request.param == "closed" else stdin)
        yield


@pytest.mark.usefixtures("no_keyboard")
async def test_who_has_no_key_to_press_cannot_ask_by_enter(
    devices: Devices, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World()
    async with serving(world) as url:
        assert await asyncio.to_thread(main, ["talk", "--url", url]) == 2
    assert world.sockets == 0
    err = capsys.readouterr().err
    assert err.startswith("parley: Enter asks, and standard input is no keyboard")
    assert err.count("\n") == 1


@pytest.mark.usefixtures("no_keyboard")
async def test_who_has_no_key_to_press_is_listened_to_without_end(devices: Devices) -> None:
    microphone = Microphone(20, until_enter=False)
    async with aclosing(microphone.endless(20)) as slices:
        assert [await anext(slices) for _ in range(3)] == [SLICE] * 3
    microphone.close()


async def test_somebody_speaks_and_is_answered_aloud(
    devices: Devices, keyboard: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    devices.rate = 44_100
    world = World()
    async with serving(world) as url:
        talking = asyncio.create_task(asyncio.to_thread(main, ["talk", "--url", url]))
        await eventually(devices.heard.is_set, "something was said")
        await eventually(lambda: world.position > 0, "something was heard")
        keyboard("\n")
        await eventually(lambda: len(devices.played) == FRAMES * 4800, "the answer was played")
        keyboard("")
        assert await talking == 0
    assert capsys.readouterr().out.startswith("".join(WORDS))
    await eventually(lambda: world.goodbyes == 1, "a goodbye")
    assert len(world.heard) <= 2, "who leaves asks nothing, though some of it may have been heard"
    assert world.settings[0]["input_sample_rate"] == 44_100
    assert world.settings[0]["pacing"] == "realtime"


async def test_who_leaves_before_the_first_question_gets_no_answer(
    devices: Devices, keyboard: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    keyboard("")
    async with serving(World()) as url:
        assert await asyncio.to_thread(main, ["talk", "--url", url]) == 2
    assert capsys.readouterr().err == "parley: nothing was said\n"


SAYING = bytes(range(1, 65)) * 10
PAUSE = bytes(640)


@pytest.mark.parametrize(("options", "cancelled"), [((), False), (("--headphones",), True)])
async def test_somebody_speaks_hands_free_and_then_over_the_answer(
    options: tuple[str, ...],
    cancelled: bool,
    devices: Devices,
    keyboard: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    world = World(unfinished={1})
    devices.rate = 16_000
    devices.room.clear()
    speaks_again = threading.Event()

    def says() -> Iterator[bytes]:
        yield from [SAYING] * 4 + [PAUSE] * 6
        assert speaks_again.wait(WITHIN_S)
        yield from [SAYING] * 4 + [PAUSE] * 6

    devices.says = says()
    async with serving(world) as url:
        words = ["talk", "--hands-free", *options, "--url", url]
        talking = asyncio.create_task(asyncio.to_thread(main, words))
        await eventually(lambda: devices.asked == 1, "the answer begins to be played")
        speaks_again.set()
        await eventually(lambda: len(world.heard) == 2, "somebody speaks over it")
        # The loudspeaker took nothing so far: what it is given last is the second answer alone.
        await eventually(lambda: any(m["type"] == "audio_interrupted" for m in world.told), "it is cut off")
        await asyncio.to_thread(devices.heard.wait, WITHIN_S)
        await eventually(lambda: world.told[-1]["type"] == "chunked_streaming_complete", "an answer")
        devices.room.set()
        second = b"".join(bytes([2, seq]) * 2400 for seq in range(FRAMES))
        await eventually(lambda: bytes(devices.played).endswith(second), "the second answer was played")
        assert len(devices.played) <= 960 + len(second)
        await eventually(lambda: any(m["turn"] == 2 for m in world.reports), "what was heard is reported")
        keyboard("")
        assert await talking == 0
    assert world.heard == [SAYING * 4] * 2
    assert world.settings[0]["echo_cancelled"] is cancelled
    assert world.settings[0]["pacing"] == "realtime"
    assert '(interrupted after 0.2 s: "I heard"; not heard: "you.")' in capsys.readouterr().err
