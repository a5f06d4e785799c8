"""The engine on a tiny checkpoint: real classes, random weights, so it speaks, but not to be understood."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from shared.audio import OUTPUT_RATE
from shared.errors import EngineError
from shared.keys import Role
from shared.settings import Settings
from shared.wire import Frame, Log, Open, ReplyEnd, Semantic, new_tag
from tests.checkpoints import kokoro as tiny
from tests.conftest import eventually
from tests.workers.conftest import Desk, Running
from tests.workers.tts.engines.kokoro.conftest import Ask, busy
from workers.tts.engines import SpeechRequest
from workers.tts.engines.kokoro import Kokoro, engine
from workers.tts.engines.kokoro.pronunciation import _SAMPLES
from workers.tts.handler import SpeechHandler


def samples_of(pcm: bytes) -> NDArray[np.int64]:
    return np.frombuffer(pcm, "<i2").astype(np.int64)


async def idle(kokoro: Kokoro) -> None:
    """Until all that was handed to the engine's thread before is done."""
    await asyncio.wrap_future(kokoro._threads.submit(lambda: None))


def spoken_by(kokoro: Kokoro, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """What the model is given from now on, in order: phonemes and speed."""
    given: list[tuple[str, float]] = []
    speak = kokoro._speak

    def noted(phonemes: str, voice: str, speed: float, seed: int) -> Any:
        given.append((phonemes, speed))
        return speak(phonemes, voice, speed, seed)

    monkeypatch.setattr(kokoro, "_speak", noted)
    return given


def test_it_says_which_voices_it_has(kokoro: Kokoro) -> None:
    voices = kokoro.voices()
    assert kokoro.name == "kokoro" and kokoro.description == "CPU"
    assert kokoro.default_voice == voices[0].name == "af_heart"
    assert {voice.name for voice in voices} == set(tiny.VOICES)
    assert len({voice.language for voice in voices}) == 9


@pytest.mark.parametrize("voice", [name for name in tiny.VOICES if name != "am_adam"])
async def test_every_language_of_the_checkpoint_is_spoken(kokoro: Kokoro, ask: Ask, voice: str) -> None:
    pcm = samples_of(await kokoro.synthesize_speech(ask(_SAMPLES[voice[0]], voice)))
    assert 0.4 < len(pcm) / OUTPUT_RATE < 4
    assert np.sqrt(np.mean(pcm**2)) > 100


async def test_a_chunk_begins_and_ends_in_silence(kokoro: Kokoro, ask: Ask) -> None:
    for chunk in (0, 1):
        pcm = samples_of(await kokoro.synthesize_speech(ask("Yes.", chunk=chunk)))
        assert pcm[0] == pcm[-1] == 0
        assert np.abs(pcm[:24]).max() < 0.2 * np.abs(pcm).max()


async def test_the_same_chunk_again_is_the_same_sound(kokoro: Kokoro, ask: Ask) -> None:
    first, other = (
        await kokoro.synthesize_speech(ask("Yes.")),
        await kokoro.synthesize_speech(ask("No.", "am_adam")),
    )
    assert await kokoro.synthesize_speech(ask("Yes.")) == first
    assert await kokoro.synthesize_speech(ask("No.", "am_adam")) == other
    assert await kokoro.synthesize_speech(ask("Yes.", conversation="def")) != first


async def test_a_voice_sounds_otherwise_than_another(kokoro: Kokoro, ask: Ask) -> None:
    one, other = [await kokoro.synthesize_speech(ask("Yes.", voice)) for voice in ("af_heart", "am_adam")]
    assert one != other


async def test_a_style_goes_by_the_number_of_phonemes(kokoro: Kokoro, ask: Ask) -> None:
    row = len(kokoro._pronunciation.phonemes("a", "Yes.")) - 1
    pack = kokoro._checkpoint.voices["am_adam"]
    before = await kokoro.synthesize_speech(ask("Yes.", "am_adam"))
    kept = pack.clone()
    try:
        pack[:row] += 1
        pack[row + 1 :] += 1
        assert await kokoro.synthesize_speech(ask("Yes.", "am_adam")) == before
        pack[row] += 1
        assert await kokoro.synthesize_speech(ask("Yes.", "am_adam")) != before
    finally:
        pack.copy_(kept)


async def test_speed_is_the_model_s_and_clamped_to_what_it_bears(
    kokoro: Kokoro, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = spoken_by(kokoro, monkeypatch)
    lengths = [len(await kokoro.synthesize_speech(ask("Yes.", speed=s))) for s in (0.1, 0.7, 1.5, 9.0)]
    assert [speed for _, speed in given] == [0.5, 0.7, 1.5, 2.0]
    assert lengths == sorted(lengths, reverse=True) and lengths[0] > 2 * lengths[3]


@pytest.mark.parametrize("text", ["", "  ", "…", "?!", "🎉"])
async def test_where_nothing_is_to_be_said_nothing_comes(kokoro: Kokoro, ask: Ask, text: str) -> None:
    assert await kokoro.synthesize_speech(ask(text)) == b""


async def test_a_voice_that_does_not_exist_or_speaks_something_else_is_refused(
    kokoro: Kokoro, ask: Ask
) -> None:
    with pytest.raises(EngineError, match="there is no voice 'nobody'") as raised:
        await kokoro.synthesize_speech(ask("Yes.", "nobody"))
    assert not raised.value.retryable
    with pytest.raises(EngineError, match="'ef_dora' does not speak the language 'en'"):
        await kokoro.synthesize_speech(ask("Yes.", "ef_dora", language="en"))


async def test_a_sound_that_is_not_a_number_fails_its_turn_and_no_other(kokoro: Kokoro, ask: Ask) -> None:
    pack = kokoro._checkpoint.voices["am_adam"]
    kept = pack.clone()
    try:
        pack.fill_(torch.nan)
        with pytest.raises(EngineError) as raised:
            await kokoro.synthesize_speech(ask("Yes.", "am_adam"))
    finally:
        pack.copy_(kept)
    assert raised.value.retryable
    assert await kokoro.synthesize_speech(ask("Yes."))


async def test_what_the_model_raises_fails_its_turn_and_no_other(
    kokoro: Kokoro, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    pack = kokoro._checkpoint.voices["am_adam"]
    kokoro._checkpoint.voices["am_adam"] = torch.zeros(510, 1, 3)  # type: ignore[index]
    try:
        with pytest.raises(EngineError, match="Kokoro failed: ") as raised:
            await kokoro.synthesize_speech(ask("Marmalade.", "am_adam"))
    finally:
        kokoro._checkpoint.voices["am_adam"] = pack  # type: ignore[index]
    assert raised.value.retryable
    assert "could not be spoken" in caplog.text and "armalade" not in caplog.text
    assert await kokoro.synthesize_speech(ask("Yes."))


async def test_a_first_chunk_goes_before_all_that_waits_and_the_others_as_their_listeners_run_dry(
    kokoro: Kokoro, ask: Ask
) -> None:
    order: list[str] = []

    async def speak(who: str, request: SpeechRequest) -> None:
        await kokoro.synthesize_speech(request)
        order.append(who)

    async with asyncio.TaskGroup() as speaking:
        async with busy(kokoro):
            for who, dry_at_s in (("third", 30.0), ("first", 10.0), ("second", 20.0), ("in silence", None)):
                speaking.create_task(speak(who, ask("I.", dry_at_s=dry_at_s)))
            await eventually(lambda: len(kokoro._desk) == 4, "all wait")
    assert order == ["in silence", "first", "second", "third"]


async def test_what_is_cancelled_while_it_waits_is_never_made(
    kokoro: Kokoro, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = spoken_by(kokoro, monkeypatch)
    async with busy(kokoro):
        cancelled = asyncio.create_task(kokoro.synthesize_speech(ask("You.")))
        wanted = asyncio.create_task(kokoro.synthesize_speech(ask("I.")))
        await eventually(lambda: len(kokoro._desk) == 2, "both wait")
        cancelled.cancel()
        await asyncio.wait([cancelled])
        assert len(kokoro._desk) == 1
    assert await wanted
    assert cancelled.cancelled() and len(given) == 1


async def test_what_is_cancelled_while_it_is_made_goes_no_further(
    small: Kokoro, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = spoken_by(small, monkeypatch)
    async with aclosing(small.synthesize_speech_streaming(ask(LONG, speed=2.0))) as pieces:
        assert await anext(pieces)
    await idle(small)
    await idle(small)
    assert len(given) <= 2 and len(small._desk) == 0
    assert await small.synthesize_speech(ask("Ya."))


LONG = "Uno dos, tres cuatro cinco seis. Siete ocho nueve!"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Kokoro:
    """An engine whose model takes 20 phonemes at once, and not 510; its voice is Spanish."""
    folder = tmp_path_factory.mktemp("small")
    tiny.build(folder, voices=("ef_dora",), config=tiny.tiny_config(phonemes=20))
    return Kokoro(Settings(kokoro_model=str(folder), device="cpu"))


async def test_a_text_of_more_phonemes_than_the_model_takes_is_spoken_whole(
    small: Kokoro, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = spoken_by(small, monkeypatch)
    async with aclosing(small.synthesize_speech_streaming(ask(LONG, speed=2.0))) as stream:
        pieces = [piece async for piece in stream if piece]
    parts = [phonemes for phonemes, _ in given]
    assert " ".join(parts) == small._pronunciation.phonemes("e", LONG)
    assert len(parts) == len(pieces) > 2
    assert all(len(part) <= 20 for part in parts)
    for part, piece in zip(parts, pieces, strict=True):
        sound = samples_of(piece)
        assert len(sound) / OUTPUT_RATE > 0.02 * len(part)
        assert sound[0] == sound[-1] == 0


async def test_between_two_parts_of_a_long_text_others_have_their_turn(
    small: Kokoro, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = spoken_by(small, monkeypatch)
    async with asyncio.TaskGroup() as speaking:
        async with busy(small):
            speaking.create_task(small.synthesize_speech(ask(LONG, speed=2.0)))
            await eventually(lambda: len(small._desk) == 1, "it waits")
            speaking.create_task(small.synthesize_speech(ask("Ya.")))
            await eventually(lambda: len(small._desk) == 2, "both wait")
    short = small._pronunciation.phonemes("e", "Ya.")
    assert [phonemes for phonemes, _ in given].index(short) == 1


async def test_who_waits_for_others_hears_that_the_engine_is_at_work(
    kokoro: Kokoro, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "SIGN_S", 0.0)

    async def pieces(stream: AsyncGenerator[bytes, None]) -> list[int]:
        return [len(piece) async for piece in stream]

    async with asyncio.TaskGroup() as speaking:
        async with busy(kokoro):
            before = speaking.create_task(pieces(kokoro.synthesize_speech_streaming(ask("I.", dry_at_s=1.0))))
            after = speaking.create_task(pieces(kokoro.synthesize_speech_streaming(ask("I.", dry_at_s=2.0))))
            await eventually(lambda: len(kokoro._desk) == 2, "both wait")
    assert len(before.result()) == 1
    empty, sound = after.result()
    assert empty == 0 and sound == before.result()[0]


async def test_where_it_is_told_to_several_are_spoken_at_once(tmp_path: Path, ask: Ask) -> None:
    folder = tiny.build(tmp_path, voices=("ef_dora",))
    both = Kokoro(Settings(kokoro_model=str(folder), device="cpu", kokoro_parallel=2))
    meeting = threading.Barrier(2)
    speak = both._speak

    def met(phonemes: str, voice: str, speed: float, seed: int) -> Any:
        meeting.wait(20)  # broken where one comes alone
        return speak(phonemes, voice, speed, seed)

    both._speak = met  # type: ignore[method-assign]
    sounds = await asyncio.gather(*(both.synthesize_speech(ask(text)) for text in ("Uno.", "Dos.")))
    assert all(sounds)


def test_a_checkpoint_that_gives_no_numbers_is_refused(tmp_path: Path) -> None:
    folder = tiny.build(tmp_path, voices=("ef_dora",))
    parts = torch.load(folder / "kokoro-v1_0.pth", weights_only=True)
    parts["decoder"]["module.generator.conv_post.weight_g"] = torch.full((202, 1, 1), torch.inf)
    torch.save(parts, folder / "kokoro-v1_0.pth")
    with pytest.raises(EngineError, match="not a number"):
        Kokoro(Settings(kokoro_model=str(folder), device="cpu"))


def test_a_checkpoint_whose_only_voices_cannot_be_pronounced_is_refused(tmp_path: Path) -> None:
    folder = tiny.build(tmp_path, voices=("xf_who",))
    with pytest.raises(EngineError, match="none of the voices in"):
        Kokoro(Settings(kokoro_model=str(folder), device="cpu"))


async def test_its_frames_joined_are_the_sound_of_its_chunks(
    kokoro: Kokoro, desk: Desk, running: Running, ask: Ask
) -> None:
    texts = ("Yes.", "I can.")
    writer = desk.writer(Log.TEXT, 1, new_tag())
    async with running(SpeechHandler(kokoro, "for a test")):
        await desk.ask(1, Open(voice="bf_emma", speed=1.5), Role.SPEAK)
        await writer.take("claim", "llm")
        await writer.append(
            Semantic(texts[0], 0, 1, "sentence_end"),
            Semantic(texts[1], 1, 2, "flush"),
            ReplyEnd("stop", 2, 2),
        )
        await eventually(lambda: desk.ended(Log.SPEECH, 1), "the speech")
    frames = [entry.payload for entry in await desk.read(Log.SPEECH, 1) if isinstance(entry.payload, Frame)]
    for number, text in enumerate(texts):
        own = [frame for frame in frames if frame.chunk == number]
        request = ask(text, "bf_emma", number, speed=1.5, conversation=desk.conversation)
        assert b"".join(frame.pcm for frame in own) == await kokoro.synthesize_speech(request)
        assert [len(frame.pcm) for frame in own[:-1]] == [4800] * (len(own) - 1)
        assert [frame.last for frame in own] == [False] * (len(own) - 1) + [True]
