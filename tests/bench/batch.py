"""The same question asked for an answer in one piece, and for one that comes as it is made.

Scripted engines with their default times, one conversation after the other, the utterance in one message. All
from the end of the utterance at the client; of an answer in one piece everything comes with `audio_response`.
"""

from __future__ import annotations

from statistics import median

from tests.bench.running import running
from tests.bench.table import Summary, show, summary
from tests.microphone import microphone
from tests.sounds import voice

TURNS_EACH = 10
"""One turn for so many of the turns that the other benchmarks would take, of each kind."""

FIRSTS = {
    "first token": "token_chunk",
    "first word": "semantic_chunk",
    "first audio": "sequential_audio",
    "total": "chunked_streaming_complete",
}
WHOLE = "audio_response"


async def run(turns: int) -> dict[str, Summary]:
    """One turn for each ten turns asked for, at least three, of each kind; in milliseconds."""
    count = max(3, turns // TURNS_EACH)
    async with running("jobs") as (_, url):
        streaming = await _turns(url, count, {})
        batch = await _turns(url, count, {"streaming": False})
    rows = {}
    for name in FIRSTS:
        rows[f"{name}, in one piece"] = summary(batch[name])
        rows[f"{name}, streaming"] = summary(streaming[name])
    show(f"from the end of the utterance, {count} turns each", "ms", rows)
    print("\nsooner in streaming, at the median")
    for name in FIRSTS:
        print(f"{name:12} {1 - median(streaming[name]) / median(batch[name]):7.1%}")
    return rows


async def _turns(url: str, count: int, wanted: dict[str, object]) -> dict[str, list[float]]:
    """What each turn took to each of the firsts; the first turn of all is not counted."""
    took: dict[str, list[float]] = {name: [] for name in FIRSTS}
    async with microphone(url, turn_detection="none", pacing="none") as mic:
        for turn in range(1, count + 2):
            sent_s = await mic.ask(voice(1000), **wanted)
            await mic.first(WHOLE if wanted else FIRSTS["total"], turn=turn)
            if turn > 1:
                for name, kind in FIRSTS.items():
                    first = await mic.first(WHOLE if wanted else kind, turn=turn)
                    took[name].append((mic.when(first) - sent_s) * 1000)
    return took
