"""What is left of the model's first token when it is begun in the pause before the utterance has ended.

Scripted engines whose first token takes 200 ms, voice activity detection with `silence_ms` 500, a second of a
recorded voice in real time for each turn. With `THINK_AHEAD=0` in the same run the model begins when the edge
has decided. "At the edge" is its own `first_token_latency_ms`, from that decision to the write to the socket;
"at the client" runs from `speech_stopped` to the first `token_chunk`.
"""

from __future__ import annotations

from tests.bench.running import running
from tests.bench.table import Summary, show, summary
from tests.microphone import Microphone, live, microphone
from tests.sounds import recording

FIRST_TOKEN_MS = 200.0
SILENCE_MS = 500.0
TURNS_EACH = 6
"""One turn for so many of the turns that the other benchmarks would take, of each kind."""
BYTES_A_MS = 32
WORDS_MS = (320, 1320)
"""Of the recording: "And so, my fellow"."""


async def run(turns: int) -> dict[str, Summary]:
    """One turn for each six turns asked for, at least five, of each kind; in milliseconds."""
    count = max(5, turns // TURNS_EACH)
    rows = {}
    for ahead, name in ((True, "thinking ahead"), (False, "THINK_AHEAD=0")):
        edge_ms, client_ms, audio_ms = await _turns(count, ahead=ahead)
        rows[f"first token at the edge, {name}"] = summary(edge_ms)
        rows[f"first token at the client, {name}"] = summary(client_ms)
        rows[f"first audio at the edge, {name}"] = summary(audio_ms)
    title = f"after the utterance was found to have ended, {count} turns each, the model's first token 200 ms"
    show(title, "ms", rows)
    return rows


async def _turns(count: int, *, ahead: bool) -> tuple[list[float], list[float], list[float]]:
    edge_ms, client_ms, audio_ms = [], [], []
    env = {
        "THINK_AHEAD": "1" if ahead else "0",
        "SCRIPT_FIRST_TOKEN_MS": f"{FIRST_TOKEN_MS:g}",
        "SCRIPT_TOKENS": '["Yes", ".", " I", " hear", " you", "."]',
        "SCRIPT_MS_PER_CHAR": "10",
    }
    async with running(**env) as (_, url):
        async with microphone(url, silence_ms=SILENCE_MS, pacing="none") as mic, live(mic):
            for turn in range(1, count + 1):
                at_edge, at_client, audio = await ask(mic, turn)
                edge_ms.append(at_edge)
                client_ms.append(at_client)
                audio_ms.append(audio)
    return edge_ms, client_ms, audio_ms


async def ask(mic: Microphone, turn: int) -> tuple[float, float, float]:
    """Say a second of words; first token at the edge and at the client, first audio at the edge, in ms."""
    mic.put(recording()[WORDS_MS[0] * BYTES_A_MS : WORDS_MS[1] * BYTES_A_MS])
    stopped = await mic.first("speech_stopped", turn=turn)
    token = await mic.first("token_chunk", turn=turn)
    end = await mic.first("chunked_streaming_complete", turn=turn)
    at_client_ms = (mic.when(token) - mic.when(stopped)) * 1000
    return end["first_token_latency_ms"], at_client_ms, end["first_audio_latency_ms"]
