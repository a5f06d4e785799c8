"""An endless input on its way to a server that finds the utterances in it, and may need it again. Pure.

    feed ─> [ sent on this socket, not covered by an ack | not sent yet ]          covered: forgotten

It keeps what the server may not have: from `audio_ack.input_samples` on, `KEPT_S` at the most. What is older
is lost, and an utterance that was open there must not go on behind the gap: it is ended first.

Places count samples at 16 kHz from the start of the conversation, whatever rate the client sends at.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deploy.cli.outbox import ANSWER, ROUNDING, Format, ends_turn
from shared.audio import INPUT_RATE

KEPT_S = 60.0
"""How much is kept for a server that does not acknowledge."""

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Slice:
    """Input from one place to another; without data it is the client's word that the utterance ends here."""

    data: bytes
    start: int
    upto: int


class Stream:
    """All input of one conversation, from the first `feed` on. Its length counts the slices that are kept."""

    def __init__(self, kept_s: float = KEPT_S) -> None:
        self.place = 0
        """Where the next sample lies."""
        self.lost_samples = 0
        """What was dropped before the server was known to have it."""
        self._kept_samples = round(kept_s * INPUT_RATE)
        self._slices: deque[_Slice] = deque()
        self._sent = 0
        self._there = 0
        """Up to where the server has, or need not have, what was sent on this socket."""
        self._acked = 0
        self._open: int | None = None
        """The turn whose utterance stands open, as far as is known."""
        self._ends_sent = 0
        self._format: Format | None = None
        self._base = 0
        self._fed_bytes = 0

    def __len__(self) -> int:
        return len(self._slices)

    def feed(self, data: bytes, format: Format, place: int = 0) -> None:
        """More input; what was said before in another way reaches up to `place`."""
        if format != self._format or place > self.place:
            self._format, self._fed_bytes = format, 0
            self._base = self.place = max(self.place, place)
            if self._sent == len(self._slices):
                self._there = self.place
        if not data:
            return
        start = self.place
        self._fed_bytes += len(data)
        self.place = self._base + format.samples_16k(self._fed_bytes)
        self._slices.append(_Slice(data, start, self.place))
        while len(self._slices) > 1 and self.place - self._slices[0].start > self._kept_samples:
            dropped = self._pop()
            self.lost_samples += dropped.upto - dropped.start

    def end(self) -> None:
        """The utterance is whole, whatever the server makes of the silence. Said once: what is lost of that
        is made good by the silence."""
        self._slices.append(_Slice(b"", self.place, self.place))

    # ---- what goes out

    def next(self) -> Message | None:
        """The next message to send on this socket."""
        if self._sent == len(self._slices):
            return None
        due = self._slices[self._sent]
        if not due.data:
            del self._slices[self._sent]
            return {"type": "end_of_utterance"}
        if due.start > self._there + ROUNDING:
            self._there = due.start
            self._ends_sent += 1
            return {"type": "end_of_utterance"}
        self._sent += 1
        self._there = due.upto
        return {
            "type": "audio_chunk",
            "audio_data": due.data,
            "offset_samples": due.start,
            "end_of_utterance": False,
        }

    def rewind(self, input_samples: int) -> None:
        """There is a new socket, and the log of the server ends here: what it has not is sent again."""
        self._sent = self._ends_sent = 0
        # While nobody speaks, input is acknowledged that no log will ever hold.
        self._there = input_samples if self._open is not None else max(input_samples, self._acked)
        self._forget(input_samples)

    def restart(self) -> None:
        """There is a new conversation in place of one that never had a turn: it gets all that is kept."""
        self._sent = self._ends_sent = self._acked = 0
        self._open = None
        self._there = self._slices[0].start if self._slices else self.place

    # ---- what the server says

    def hear(self, message: Message) -> bool:
        """Learn from a message; false for an `error` that only says that nothing was open before a gap."""
        kind, turn = message["type"], message.get("turn")
        if kind == "error" and message["code"] == "wrong_state" and self._ends_sent:
            self._ends_sent -= 1
            return False
        if kind == "audio_ack":
            self._acked = max(self._acked, message["input_samples"])
            self._forget(message["input_samples"])
        elif kind == "speech_started":
            self._open = turn
        elif turn == self._open and (kind == "speech_stopped" or kind in ANSWER or ends_turn(message)):
            # No part of an answer begins before the end of its utterance.
            self._open = None
            self._ends_sent = 0
        return True

    def _forget(self, input_samples: int) -> None:
        rounding = 0 if self._format is None or self._format.rate == INPUT_RATE else ROUNDING
        while self._slices and self._slices[0].data and self._slices[0].upto + rounding <= input_samples:
            self._pop()

    def _pop(self) -> _Slice:
        self._sent = max(0, self._sent - 1)
        return self._slices.popleft()
