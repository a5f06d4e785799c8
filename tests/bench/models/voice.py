"""The voice: time to the first sound of a text, seconds of sound a second, several texts at once.

Beside it the plain way: the model called directly, as it is loaded by its own loader, one text at a time.
"""

from __future__ import annotations

import asyncio
import time
import warnings
from contextlib import aclosing
from pathlib import Path
from typing import Any

import torch

from shared.audio import OUTPUT_RATE, duration_ms
from shared.settings import Settings
from tests.bench.models import floor
from tests.bench.models.bench import Bench, Figures
from tests.bench.models.figures import short, spread
from tests.bench.models.models import bytes_of, collect

TEXTS = {
    "Hello!": "Hello!",
    "15 words": "I can hear you perfectly well, and I would be glad to help you today.",
}
VOICE = "af_heart"


def run(bench: Bench, figures: Figures) -> None:
    """For each text, and for several at once; ms, and seconds of sound a second."""
    bench.say("voice: loading")
    folder = bench.models.kokoro_folder
    plain = _Plain(folder, bench.models.device)
    figures["floor_ms"] = short(bytes_of(plain.model) / _copy_speed(bench) * 1000)
    asyncio.run(_measure(bench, folder, plain, figures))
    del plain
    collect()


def _copy_speed(bench: Bench) -> float:
    measured = bench.figures.get("floor", {}).get("copy_bytes_per_s")
    return float(measured or floor.bytes_per_s(bench.models.device))


async def _measure(bench: Bench, folder: Path, plain: _Plain, figures: Figures) -> None:
    from workers.tts.engines.kokoro.engine import Kokoro

    plan = bench.plan
    engine = Kokoro(Settings(kokoro_model=str(folder), device=plan.device))
    voice = _Voice(engine)
    texts: Figures = figures.setdefault("texts", {})
    for name, text in TEXTS.items():
        if not bench.time_for(f"voice: {name}", 2 * (plan.spoken + 1) * plan.spoken_s):
            continue
        await voice.speak(text)
        plain.speak(text)
        ours, theirs, seconds, plain_seconds = [], [], [], []
        for _ in range(plan.spoken):  # in turns, so that a busy moment falls on both
            first_ms, sound_s, took_s = await voice.speak(text)
            ours.append(first_ms)
            seconds.append(sound_s / took_s)
            sound_s, took_s = plain.speak(text)
            theirs.append(took_s * 1000)
            plain_seconds.append(sound_s / took_s)
        texts[name] = {
            "sound_s": short(sound_s),
            "first_frame_ms": spread(ours),
            "sound_s_per_s": spread(seconds),
            "plain_ms": spread(theirs),
            "plain_sound_s_per_s": spread(plain_seconds),
        }
    at_once: Figures = figures.setdefault("at_once", {})
    for count in plan.voices_at_once:
        repeats = max(1, plan.spoken // 4)
        if bench.time_for(f"voice: {count} at once", (repeats + 1) * count * plan.spoken_s):
            await voice.together(count)
            rounds = [await voice.together(count) for _ in range(repeats)]
            at_once[str(count)] = {
                "first_frame_ms": spread([first_ms for firsts, _ in rounds for first_ms in firsts]),
                "sound_s_per_s": spread([speed for _, speed in rounds]),
            }


class _Voice:
    """The engine, asked as a worker asks it."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._turns = 0

    async def speak(self, text: str) -> tuple[float, float, float]:
        """ms to the first sound, seconds of it, and seconds that it took to make."""
        from workers.tts.engines import SpeechRequest

        self._turns += 1
        request = SpeechRequest("bench", self._turns, 0, text)
        began = time.perf_counter()
        first_ms = 0.0
        sound = 0
        async with aclosing(self._engine.synthesize_speech_streaming(request)) as pieces:
            async for pcm in pieces:
                if pcm and not sound:
                    first_ms = (time.perf_counter() - began) * 1000
                sound += len(pcm)
        return first_ms, duration_ms(bytes(sound), OUTPUT_RATE) / 1000, time.perf_counter() - began

    async def together(self, count: int) -> tuple[list[float], float]:
        """Several texts at once: ms to the first sound of each, and seconds of sound a second of all."""
        began = time.perf_counter()
        spoken = await asyncio.gather(*(self.speak(TEXTS["15 words"]) for _ in range(count)))
        took_s = time.perf_counter() - began
        return [first_ms for first_ms, _, _ in spoken], sum(sound_s for _, sound_s, _ in spoken) / took_s


class _Plain:
    """Kokoro's model by its own loader, and the phonemes that the engine would give it."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        from kokoro import KModel

        from workers.tts.engines.kokoro.pronunciation import Pronunciation

        with warnings.catch_warnings():  # it is built of parts that torch has newer ones for
            warnings.simplefilter("ignore")
            weights = next(folder.glob("*.pth"))
            model = KModel("local", str(folder / "config.json"), str(weights))
        self.model = model.to(device).eval()
        self._style = torch.load(folder / "voices" / f"{VOICE}.pt", weights_only=True).to(device)
        self._pronunciation = Pronunciation({VOICE[0]}, frozenset(self.model.vocab))

    def speak(self, text: str) -> tuple[float, float]:
        """Seconds of sound, and seconds that it took to make; it is there as a whole or not at all."""
        began = time.perf_counter()
        phonemes = self._pronunciation.phonemes(VOICE[0], text)
        with torch.inference_mode():
            samples = self.model(phonemes, self._style[len(phonemes) - 1])
        return len(samples) / OUTPUT_RATE, time.perf_counter() - began
