"""What a client has said and may have to say again, because a socket was lost. Pure.

    say ─> [ sent on this socket, not proven | not sent yet ]          proven: forgotten

The server takes messages in order, so whatever proves that it has one proves all before it. A later turn
proves a turn; `audio_ack` proves samples; the end of an utterance is proven by `speech_stopped`, or by any
part of the answer, for no answer begins before that end. Turns are counted on both sides: a typed turn is
said again only if the server counts fewer turns than the client began, so none is ever asked twice.

Places in the input count samples at 16 kHz, as the protocol's do, whatever rate the client sends at.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shared.audio import INPUT_RATE, InputDecoder

SAMPLE_BYTES = {"f32le": 4, "pcm16": 2}

ANSWER = frozenset({"token_chunk", "semantic_chunk", "sequential_audio"})
ENDINGS = frozenset({"chunked_streaming_complete", "audio_response", "audio_interrupted"})
"""What ends a turn, beside an `error` that names it."""

ROUNDING = 16
"""By how many samples client and server may differ on the length of an utterance that is resampled."""

_REFUSALS = frozenset({"busy", "overloaded"})

Message = Mapping[str, Any]


@dataclass(slots=True, eq=False)
class _Turn:
    """A turn that the client began. `number` is known once the server has told of it.

    `stopped`: the server takes no more of its utterance. `refused`: it would not begin it.
    """

    number: int | None = None
    stopped: bool = False
    refused: bool = False


@dataclass(slots=True, eq=False)
class _Item:
    """Something said. `turn` is `None` where it belongs to none; its samples end at `upto`, give or take
    `rounding`. `again`: it went out on a socket that was lost, so its effect may be there already."""

    message: dict[str, Any]
    turn: _Turn | None = None
    upto: int = 0
    rounding: int = 0
    again: bool = False

    @property
    def kind(self) -> str:
        return str(self.message["type"])

    @property
    def number(self) -> int | None:
        return self.turn.number if self.turn else None

    @property
    def ends(self) -> bool:
        return self.kind == "end_of_utterance" or bool(self.message.get("end_of_utterance"))


@dataclass(frozen=True, slots=True)
class Format:
    """What a client sends, and how much of the server's input that makes."""

    name: str = "f32le"
    rate: int = INPUT_RATE

    def samples_16k(self, data_bytes: int) -> int:
        """How many samples at 16 kHz that many bytes become."""
        return data_bytes // SAMPLE_BYTES[self.name] * INPUT_RATE // self.rate


def ends_turn(message: Message) -> bool:
    """Whether this is the last of its turn. An `error` that names no turn answers something that was said."""
    return message["type"] in ENDINGS or (message["type"] == "error" and message.get("turn") is not None)


class Outbox:
    """Messages on their way to the server, in the order in which they were said. Its length counts those that
    the server has not been seen to have."""

    def __init__(self) -> None:
        self.turn = 0
        """The newest turn that the server has told of."""
        self._items: deque[_Item] = deque()
        self._sent = 0
        self._unnumbered: deque[_Turn] = deque()
        self._open: _Turn | None = None
        self._settings: dict[str, object] = {}
        self._format = Format()
        self._utterance_at = 0
        self._utterance_bytes = 0
        self.place = 0
        """Where in the input the next sample lies."""

    def __len__(self) -> int:
        return len(self._items)

    # ---- what the client says

    def configure(self, settings: Mapping[str, object]) -> None:
        """Settings from the next turn on. Raises `ValueError` for a format that is not in `SAMPLE_BYTES`."""
        name = settings.get("input_format")
        if name is not None and name not in SAMPLE_BYTES:
            raise ValueError(f"input_format is {name!r}; this client sends {' or '.join(SAMPLE_BYTES)}")
        self._settings |= settings
        self._items.append(_Item({"type": "configure", **settings}))

    def audio(self, data: bytes, *, ends: bool, fields: Mapping[str, object]) -> None:
        """A slice of the utterance that is open, or the first of a new one; with `ends` also the last."""
        if self._open is None or self._open.stopped:
            self._open = self._begin()
            self._format = self.configured_format
            self._utterance_at, self._utterance_bytes = self.place, 0
        turn = self._open
        if ends:
            self._open = None
        if turn.refused:
            return
        offset = self.place
        self._advance(data)
        message = {"type": "audio_chunk", "audio_data": data, "offset_samples": offset, **fields}
        rounding = 0 if self._format.rate == INPUT_RATE else ROUNDING
        self._items.append(_Item({**message, "end_of_utterance": ends}, turn, self.place, rounding))

    def end(self) -> None:
        """The open utterance is whole."""
        turn, self._open = self._open, None
        if turn is None or not turn.refused:
            self._items.append(_Item({"type": "end_of_utterance"}, turn, self.place))

    def text(self, text: str) -> None:
        """A typed turn. Raises `ValueError` while an utterance is open."""
        if self._open is not None:
            raise ValueError("an utterance is open: end it first")
        self._items.append(_Item({"type": "text", "text": text}, self._begin()))

    def interrupt(self, played_ms: float | None) -> None:
        """Barge-in by hand, on the answer of the newest turn that the client knows of."""
        message = {"type": "user_interrupt", "played_ms": played_ms}
        self._items.append(_Item(message, _Turn(self.turn)))

    # ---- what goes out

    def next(self) -> Mapping[str, object] | None:
        """The next message to send on this socket."""
        if self._sent == len(self._items):
            return None
        self._sent += 1
        return self._items[self._sent - 1].message

    def rewind(self, turn: int, input_samples: int) -> None:
        """There is a new socket, and the server stands here: what it has not is sent again."""
        self._count(turn)
        self._prove(turn, input_samples)
        for item in self._rewound():
            item.again = True
        items = [item for item in self._items if not self._is_over(item)]
        self._items.clear()
        for item, after in zip(items, [*items[1:], None], strict=False):
            is_last = item.ends or (after is not None and after.ends and after.turn is item.turn)
            if item.kind == "audio_chunk" and is_last and self._holds(item, input_samples):
                if not item.ends:
                    continue
                item.message = {"type": "end_of_utterance"}
            self._items.append(item)

    def restart(self) -> None:
        """There is a new conversation in place of one that never had a turn: all is said again."""
        self._rewound()
        self._items = deque(item for item in self._items if item.kind != "configure")
        if self._settings:
            self._items.appendleft(_Item({"type": "configure", **self._settings}))

    # ---- what the server says

    def hear(self, message: Message) -> bool:
        """Learn from a message; false for an `error` that only answers something that was said twice."""
        kind, turn = message["type"], message.get("turn")
        if kind == "error" and turn is None:
            return self._answered(message["code"])
        if kind == "configured":
            self._forget_through(self._first("configure"))
        if turn is None:
            return True
        if kind == "speech_started" and message.get("reason") == "server_vad" and turn > self.turn:
            # The server began it: it is none of those that were begun here.
            self._count(turn - 1)
            self.turn = turn
        self._count(turn)
        if kind == "speech_stopped":
            if message["reason"] == "max_length":
                self._split(turn, message["audio_ms"])
            self._stop(turn)
        elif kind in ANSWER or ends_turn(message):
            self._stop(turn)
        if ends_turn(message):
            self._forget_through(self._first("user_interrupt", turn))
        self._prove(turn, message["input_samples"] if kind == "audio_ack" else 0)
        return True

    # ---- turns and places

    def _begin(self) -> _Turn:
        turn = _Turn()
        self._unnumbered.append(turn)
        return turn

    @property
    def configured_format(self) -> Format:
        """The format of what is said from now on."""
        name = self._settings.get("input_format") or "f32le"
        return Format(str(name), int(str(self._settings.get("input_sample_rate") or INPUT_RATE)))

    def _advance(self, data: bytes) -> None:
        if data.startswith(b"RIFF"):
            decoder = InputDecoder("wav", INPUT_RATE)
            self.place += (len(decoder.feed(data)) + len(decoder.flush())) // 2
            self._utterance_at, self._utterance_bytes = self.place, 0
        else:
            self._utterance_bytes += len(data)
            self.place = self._utterance_at + self._format.samples_16k(self._utterance_bytes)

    def _count(self, turn: int) -> None:
        """The server has begun all turns up to this one: the oldest of those that had no number."""
        while self.turn < turn:
            self.turn += 1
            if self._unnumbered:
                self._unnumbered.popleft().number = self.turn

    def _stop(self, number: int) -> None:
        for item in self._items:
            if item.turn and item.number == number:
                item.turn.stopped = True
        if self._open and self._open.number == number:
            self._open.stopped = True

    def _split(self, number: int, audio_ms: float) -> None:
        """The server ended an utterance at its longest: what was said beyond that begins another turn."""
        place = round(audio_ms * INPUT_RATE / 1000) + ROUNDING
        beyond = [item for item in self._items if item.number == number and item.upto > place]
        if not any(item.kind == "audio_chunk" for item in beyond):
            return
        rest = _Turn()
        self._unnumbered.appendleft(rest)
        if beyond[0].turn is self._open:
            self._open = rest
        for item in beyond:
            item.turn = rest

    # ---- forgetting

    def _prove(self, turn: int, input_samples: int) -> None:
        """Forget everything up to the last thing that the server is known to have."""
        last = None
        for item in self._items:
            if item.number is not None and item.kind != "user_interrupt":
                if item.number < turn or (item.number == turn and self._is_there(item, input_samples)):
                    last = item
        self._forget_through(last)

    def _is_there(self, item: _Item, input_samples: int) -> bool:
        if item.turn and item.turn.stopped:
            return True
        return not item.ends and item.upto <= input_samples  # a typed turn has no samples

    def _holds(self, item: _Item, input_samples: int) -> bool:
        """Whether the server has all samples of a last slice, of which only the end may be missing there."""
        return item.number == self.turn and item.upto - item.rounding <= input_samples

    def _is_over(self, item: _Item) -> bool:
        """An interruption of an answer that has been followed by another must not hit that one."""
        return item.kind == "user_interrupt" and item.number != self.turn

    def _answered(self, code: str) -> bool:
        """An `error` answers the oldest thing that was sent and is not proven, if it fits that."""
        first = self._items[0] if self._sent else None
        if first is None:
            return True
        if code in _REFUSALS and first.turn in self._unnumbered:
            self._forget_turn(first.turn)
        elif first.kind == "configure":
            self._forget_through(first)
        elif code == "wrong_state" and first.kind in ("end_of_utterance", "user_interrupt"):
            self._forget_through(first)
            return not first.again
        return True

    def _forget_turn(self, turn: _Turn | None) -> None:
        if turn is None:
            return
        turn.refused = True
        self._unnumbered.remove(turn)
        sent = [item.turn for item in self._items][: self._sent]
        self._sent -= sent.count(turn)
        self._items = deque(item for item in self._items if item.turn is not turn)

    def _forget_through(self, last: _Item | None) -> None:
        while last is not None and self._items:
            self._sent = max(0, self._sent - 1)
            if self._items.popleft() is last:
                return

    def _first(self, kind: str, number: int | None = None) -> _Item | None:
        """The oldest thing of a kind that was sent."""
        for item in list(self._items)[: self._sent]:
            if item.kind == kind and (number is None or item.number == number):
                return item
        return None

    def _rewound(self) -> list[_Item]:
        """Nothing has been sent on this socket; what was sent on the last one."""
        sent, self._sent = list(self._items)[: self._sent], 0
        return sent
