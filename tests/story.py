"""Checks what a client program received: each turn is one story, whole, in order, nothing twice.

The scripted voice makes each sample a function of conversation, turn, chunk and place, so that the audio
itself says whether it is the right one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from shared.audio import OUTPUT_RATE
from workers.tts.engines.scripted import Place, expected, hash_of, whose

Message = Mapping[str, Any]

ENDINGS = frozenset({"chunked_streaming_complete", "audio_response", "audio_interrupted"})
ANSWER = frozenset({"token_chunk", "semantic_chunk", "sequential_audio"})
MS_PER_CHAR = 60.0


@dataclass
class Heard:
    """One turn as a client got it."""

    turn: int
    tokens: list[Message] = field(default_factory=list)
    chunks: list[Message] = field(default_factory=list)
    frames: list[Message] = field(default_factory=list)
    ending: Message | None = None

    @property
    def reply(self) -> str:
        """The tokens joined."""
        return "".join(token["text"] for token in self.tokens)

    @property
    def speech(self) -> bytes:
        """The frames joined: PCM16."""
        return b"".join(frame["audio_data"] for frame in self.frames)

    @property
    def ended(self) -> str | None:
        """The type of the message that ended the turn."""
        return None if self.ending is None else str(self.ending["type"])


def heard(messages: Iterable[Message]) -> dict[int, Heard]:
    """The turns in what a client received. Fails at the first message that is out of its place."""
    turns: defaultdict[int, Heard] = defaultdict(lambda: Heard(0))
    playing = 0
    for message in messages:
        kind = message["type"]
        ends = kind in ENDINGS or (kind == "error" and message.get("turn") is not None)
        if kind not in ANSWER and not ends:
            continue
        number = int(message["turn"])
        turn = turns[number]
        turn.turn = number
        assert turn.ending is None, f"{kind} after {turn.ended} of turn {number}"
        if ends:
            turn.ending = message
        elif kind == "token_chunk":
            assert message["chunk_sequence"] == len(turn.tokens), _misplaced(message, len(turn.tokens))
            turn.tokens.append(message)
        elif kind == "semantic_chunk":
            assert message["chunk_sequence"] == len(turn.chunks), _misplaced(message, len(turn.chunks))
            turn.chunks.append(message)
            assert message["full_text_so_far"] == "".join(chunk["text"] for chunk in turn.chunks)
        else:
            assert message["frame_index"] == len(turn.frames), _misplaced(message, len(turn.frames))
            assert number >= playing, f"a frame of turn {number} after one of turn {playing}"
            playing = number
            turn.frames.append(message)
    return dict(turns)


def check_whole(conversation: str, turn: Heard, reply: str, ms_per_char: float = MS_PER_CHAR) -> None:
    """The turn was answered with `reply`, whole, and every sample of it was spoken once, in order."""
    assert turn.ended == "chunked_streaming_complete", f"turn {turn.turn}: {turn.ending}"
    assert turn.reply == reply
    assert "".join(chunk["text"] for chunk in turn.chunks) == reply
    assert turn.ending is not None and turn.ending["response_text"] == reply
    assert turn.speech == spoken(conversation, turn, ms_per_char), f"turn {turn.turn}: other audio"


def spoken(conversation: str, turn: Heard, ms_per_char: float = MS_PER_CHAR) -> bytes:
    """What the scripted voice says for the chunks of a turn."""
    return b"".join(
        expected(conversation, turn.turn, number, chunk["text"], ms_per_char)
        for number, chunk in enumerate(turn.chunks)
    )


def check_gapless(conversation: str, turn: Heard) -> None:
    """Each frame of the turn goes on where the one before it ended, in each chunk from its start to its end.

    For a text that is not spoken as it is written: then nobody here knows the samples beforehand.
    """
    places: defaultdict[int, int] = defaultdict(int)
    for frame in turn.frames:
        chunk, pcm = int(frame["chunk_index"]), frame["audio_data"]
        assert whose(pcm) == Place(hash_of(conversation), turn.turn, chunk, places[chunk]), frame[
            "frame_index"
        ]
        places[chunk] += len(pcm) // 2
    assert turn.ending is not None
    assert len(turn.speech) / 2 / OUTPUT_RATE * 1000 == turn.ending["audio_duration_ms"]


def _misplaced(message: Message, place: int) -> str:
    shown = {key: value for key, value in message.items() if key != "audio_data"}
    return f"place {place} was expected: {shown}"
