"""A history turn by turn: what was said, what the client was told, and what stood in the logs."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from shared.wire import Log
from tests.chaos.history import History, Read, Received, Sent

ANSWER = frozenset({"token_chunk", "semantic_chunk", "sequential_audio"})
WHOLE = frozenset({"chunked_streaming_complete", "audio_response"})


@dataclass
class Turn:
    """One turn of a conversation. `said`: the whole of it; `None` for one that was never said to its end."""

    conversation: str
    number: int
    said: Sent | None = None
    begun_s: float = 0.0
    messages: list[Received] = field(default_factory=list)
    reads: dict[Log, list[Read]] = field(default_factory=lambda: defaultdict(list))
    cut: bool = False
    """Whether the user spoke over it, or stopped it."""

    @property
    def endings(self) -> list[Received]:
        """Its last message; any other than one is wrong."""
        return [message for message in self.messages if ends(message)]

    @property
    def ended(self) -> str:
        """The kind of its last message."""
        return self.endings[0].kind if self.endings else ""

    def told(self, kind: str) -> list[str]:
        """The texts of all messages of a kind."""
        return [message.text or "" for message in self.messages if message.kind == kind]

    def chunks(self) -> list[str]:
        """Its semantic chunks, as far as anybody knows them."""
        logged = (texts(read, "semantic") for read in self.reads[Log.TEXT])
        return max([self.told("semantic_chunk"), *logged], key=len)


def turns_of(history: History) -> dict[tuple[str, int], Turn]:
    """Every turn, by conversation and number."""
    turns: dict[tuple[str, int], Turn] = {}

    def turn_of(conversation: str, number: int) -> Turn:
        return turns.setdefault((conversation, number), Turn(conversation, number))

    for event in history.events:
        match event:
            case Sent(kind="interrupt"):
                turn_of(event.conversation, event.turn).cut = True
            case Sent():
                turn = turn_of(event.conversation, event.turn)
                turn.begun_s = turn.begun_s or event.at_s
                if event.kind != "audio":
                    turn.said = event
                before = turns.get((event.conversation, event.turn - 1))
                if before is not None and not before.endings:
                    before.cut = True
            case Received():
                turn_of(event.conversation, event.turn).messages.append(event)
            case Read():
                turn_of(event.conversation, event.turn).reads[Log(event.log)].append(event)
    return turns


def ends(message: Received) -> bool:
    """Whether this is a turn's last message."""
    if message.kind == "error":
        return message.turn > 0
    return message.kind in WHOLE or message.kind == "audio_interrupted"


def texts(read: Read, kind: str) -> list[str]:
    """The texts of all entries of a kind."""
    return [line.text or "" for line in read.lines if line.kind == kind]
