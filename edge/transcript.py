"""What a client is told of an answer: the entries of `text` and `speech`, folded into numbered lines.

Pure. Every counter that a client sees (`chunk_sequence`, `frame_index`, `full_text_so_far` …) comes from here
and from the logs alone, so that any edge tells the same story, at whatever place it begins to speak. What the
client already holds is folded like the rest and marked `held`. Knows no message format and no time of day.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, fields
from statistics import median

from edge.heard import Spoken
from shared.audio import OUTPUT_RATE, duration_ms
from shared.wire import Address, Closed, Entry, Frame, Log, ReplyEnd, Semantic, SpeechEnd, Token

FORGET_TURNS = 2
"""How many turns before the newest that both logs have come to are remembered."""

AFTER_THE_END = frozenset({"heard", "bye", "superseded"})
"""Reasons to close a whole answer that tell the client nothing: it gets all of it, and its completion."""


@dataclass(frozen=True, slots=True)
class TokenLine:
    """A token of the reply. `gap_ms`: since the one before it, by the clock of the worker that wrote both."""

    turn: int
    address: Address
    held: bool
    text: str
    sequence: int
    gap_ms: float | None


@dataclass(frozen=True, slots=True)
class SemanticLine:
    """A semantic chunk. `so_far`: the reply up to its end."""

    turn: int
    address: Address
    held: bool
    text: str
    so_far: str
    sequence: int
    boundary: str


@dataclass(frozen=True, slots=True)
class FrameLine:
    """A frame of speech: PCM16 mono at 24 kHz. `source`: the chunk's text, with its first frame only."""

    turn: int
    address: Address
    held: bool
    pcm: bytes
    chunk: int
    index: int
    source: str | None

    @property
    def duration_ms(self) -> float:
        """How long the frame plays."""
        return duration_ms(self.pcm, OUTPUT_RATE)


@dataclass(frozen=True, slots=True)
class Complete:
    """The answer is whole; the turn's last line, due when every frame before it has left."""

    turn: int
    address: Address
    held: bool
    reply: str
    tokens: int
    chunks: int
    gap_ms: float | None
    """The median time from token to token."""
    audio_ms: float

    @property
    def words(self) -> int:
        """Words of the reply, as white space parts them."""
        return len(self.reply.split())

    def with_speech(self, pcm: bytes) -> Whole:
        """The answer in one piece."""
        return Whole(**{each.name: getattr(self, each.name) for each in fields(self)}, pcm=pcm)


@dataclass(frozen=True, slots=True)
class Whole(Complete):
    """The answer in one piece, with all of its speech: PCM16 mono at 24 kHz. For a batch turn."""

    pcm: bytes

    @property
    def duration_ms(self) -> float:
        """How long the speech plays."""
        return self.audio_ms


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The answer was cut off; the turn's last line. It has no address if no log brought it.

    `heard`, as a reason: it counts as heard, but the rest of it is not sent to this client any more.
    """

    turn: int
    address: Address | None
    held: bool
    reason: str
    heard_ms: float
    heard_text: str
    cleared_frames: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The turn failed; its last line. The entry that says so stands in `log`, if it has an address."""

    turn: int
    address: Address | None
    held: bool
    log: Log
    code: str
    message: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class Broken:
    """Somebody closed only `text`: nothing to tell yet, but the turn must be closed everywhere."""

    turn: int
    address: Address
    held: bool
    reason: str


Line = TokenLine | SemanticLine | FrameLine | Complete | Interrupted | Failed | Broken


@dataclass(slots=True)
class _Story:
    """One turn, as far as it was told."""

    reply: list[str] = field(default_factory=list)
    tokens: int = 0
    token_at_us: int | None = None
    gaps_ms: list[float] = field(default_factory=list)
    chunks: list[str] = field(default_factory=list)
    frames: int = 0
    sounded_ms: dict[int, float] = field(default_factory=dict)
    sounded_whole: int = 0
    early: list[tuple[Address, Frame]] = field(default_factory=list)
    reply_end: ReplyEnd | None = None
    speech_end: tuple[Address, SpeechEnd] | None = None
    closing: Interrupted | None = None
    """What is told in place of the completion, should that be cut off."""
    completed: bool = False
    ended: bool = False

    def end(self) -> None:
        """Its last line is told, and no frame any more that waits for its text."""
        self.ended = True
        self.early.clear()


class Transcript:
    """The fold over one conversation's `text` and `speech`.

    `held` is the last address that the client has of each log, `told` the last turn whose ending it has: of
    that and those before it no word is told any more. `cut` names turns that are known to have been
    interrupted: their frames are not told any more. `speech_from`: the first turn whose speech is folded;
    those before it end where `text` says so.
    """

    def __init__(
        self,
        held: dict[Log, Address] | None = None,
        cut: Collection[int] = (),
        told: int = 0,
        speech_from: int = 1,
    ) -> None:
        self._told_turn = told
        self._speech_from = speech_from
        self._held = {log: Address(0, 0) for log in Log} | (held or {})
        self._cut = set(cut)
        self._newest = {Log.TEXT: 0, Log.SPEECH: 0}
        self._stories: defaultdict[int, _Story] = defaultdict(_Story)
        self._forgotten = 0

    def has_ended(self, turn: int) -> bool:
        """Whether the turn's last line was told, or may have been, so long ago was that."""
        return self._stories[turn].ended if turn in self._stories else turn <= self._forgotten

    def end(self, turn: int) -> bool:
        """Nothing more is told of the turn: its last message was sent. False if that was so before."""
        story = self._stories[turn]
        was, story.ended = story.ended, True
        return not was

    def close(self, turn: int, closed: Closed) -> Interrupted | Failed | None:
        """The last line of a turn whose closing no log has brought; `None` if it has ended, or was told."""
        if self.has_ended(turn) or turn <= self._told_turn:
            return None
        self._stories[turn].end()
        return _ending(turn, None, Log.SPEECH, closed, held=False)

    def cut_off(self, turn: int) -> Interrupted | None:
        """No more frames of the turn are told. What ends it, if its closing took it for heard before."""
        self._cut.add(turn)
        return self._stories[turn].closing

    def fold(self, log: Log, entry: Entry) -> list[Line]:
        """What the next entry of a log adds. Entries of one log must come in order, each once."""
        turn, seq = entry.address
        if seq == 0:
            self._newest[log] = turn
            self._forget(min(self._newest.values()))
        story = self._stories[turn]
        held = entry.address <= self._held[log]
        match entry.payload:
            case Token() as token:
                return self._token(story, entry, token, held)
            case Semantic() as chunk:
                line = self._semantic(story, entry.address, chunk, held)
                return [*self._told(story, line), *self._due(turn, story)]
            case ReplyEnd() as end:
                story.reply_end = end
                return list(self._completed(turn, story))
            case Frame() as frame:
                story.early.append((entry.address, frame))
                return list(self._due(turn, story))
            case SpeechEnd() as end:
                story.speech_end = (entry.address, end)
                return list(self._completed(turn, story))
            case Closed() as closed:
                return list(self._closed(story, log, entry.address, closed, held))
            case _:
                return []

    def spoken(self, turn: int) -> list[Spoken]:
        """The turn's semantic chunks, each with the speech that was made of it so far."""
        story = self._stories[turn]
        whole = len(story.chunks) if story.speech_end else story.sounded_whole
        return [
            Spoken(text, story.sounded_ms.get(chunk, 0.0), chunk < whole)
            for chunk, text in enumerate(story.chunks)
        ]

    def waiting(self, turn: int) -> int:
        """Frames that came before the text of their chunk."""
        return len(self._stories[turn].early) if turn in self._stories else 0

    def _token(self, story: _Story, entry: Entry, token: Token, held: bool) -> list[Line]:
        if not token.text:
            return []  # Part of a character: the ids are for the model, the text comes with a later one.
        gap_ms = None
        if story.token_at_us is not None:
            gap_ms = max(0, entry.at_us - story.token_at_us) / 1000
            story.gaps_ms.append(gap_ms)
        story.token_at_us = entry.at_us
        story.reply.append(token.text)
        sequence, story.tokens = story.tokens, story.tokens + 1
        return self._told(
            story, TokenLine(entry.address.turn, entry.address, held, token.text, sequence, gap_ms)
        )

    def _semantic(self, story: _Story, address: Address, chunk: Semantic, held: bool) -> SemanticLine:
        story.chunks.append(chunk.text)
        so_far = "".join(story.reply)[: chunk.upto]
        return SemanticLine(
            address.turn, address, held, chunk.text, so_far, len(story.chunks) - 1, chunk.boundary
        )

    def _due(self, turn: int, story: _Story) -> Iterator[Line]:
        """The frames whose chunk is known by now, and the completion if they were all that it waited for."""
        while story.early and story.early[0][1].chunk < len(story.chunks):
            address, frame = story.early.pop(0)
            index, story.frames = story.frames, story.frames + 1
            source = None if frame.chunk in story.sounded_ms else story.chunks[frame.chunk]
            made_ms = story.sounded_ms.get(frame.chunk, 0.0) + duration_ms(frame.pcm, OUTPUT_RATE)
            story.sounded_ms[frame.chunk] = made_ms
            story.sounded_whole = frame.chunk + 1 if frame.last else frame.chunk
            held = address <= self._held[Log.SPEECH]
            if story.ended or (turn in self._cut and not held):
                continue
            yield FrameLine(turn, address, held, frame.pcm, frame.chunk, index, source)
        yield from self._completed(turn, story)

    def _completed(self, turn: int, story: _Story) -> Iterator[Line]:
        if story.ended or story.completed or story.early or not (story.reply_end and story.speech_end):
            return
        address, speech = story.speech_end
        held = address <= self._held[Log.SPEECH]
        if turn in self._cut and not held:
            return
        # Not the turn's end yet, unless the client has it: frames that wait to leave may still be cut off.
        story.completed, story.ended = True, held
        yield Complete(
            turn=turn,
            address=address,
            held=held,
            reply="".join(story.reply),
            tokens=story.reply_end.tokens,
            chunks=story.reply_end.chunks,
            gap_ms=median(story.gaps_ms) if story.gaps_ms else None,
            audio_ms=speech.samples * 1000 / OUTPUT_RATE,
        )

    def _closed(
        self, story: _Story, log: Log, address: Address, closed: Closed, held: bool
    ) -> Iterator[Line]:
        turn = address.turn
        if story.ended:
            return
        whole = story.reply_end if log is Log.TEXT else story.speech_end
        after_the_end = closed.reason == "heard" or (closed.reason in AFTER_THE_END and whole is not None)
        failed = closed.reason == "failed"
        trimmed = log is Log.TEXT and turn < self._speech_from
        if log is Log.TEXT and not (failed or trimmed):
            if not after_the_end:
                yield Broken(turn, address, held, closed.reason)
            return
        place = address
        if trimmed:
            held = place_of_ending(turn, closed) <= self._held[Log.SPEECH] or (held and failed)
            place = address if failed else Address(turn, closed.speech_seq or 0)
        line = _ending(turn, place, log, closed, held=held)
        if isinstance(line, Interrupted) and log is Log.SPEECH and after_the_end and turn not in self._cut:
            story.closing = line
            return
        story.end()
        yield line

    def _told(self, story: _Story, line: Line) -> list[Line]:
        return [] if story.ended or line.turn <= self._told_turn else [line]

    def _forget(self, turn: int) -> None:
        for old in [each for each in self._stories if each < turn - FORGET_TURNS]:
            del self._stories[old]
            self._cut.discard(old)
            self._forgotten = max(self._forgotten, old)


def _ending(
    turn: int, address: Address | None, log: Log, closed: Closed, *, held: bool
) -> Interrupted | Failed:
    """What a client is told of a closing."""
    if closed.reason == "failed":
        return Failed(
            turn,
            address,
            held,
            log,
            closed.code or "engine_failed",
            closed.message or "the answer could not be made",
            bool(closed.retryable),
        )
    return Interrupted(
        turn,
        address,
        held,
        closed.reason,
        closed.heard_ms or 0.0,
        closed.heard_text or "",
        closed.cleared_frames or 0,
    )


def place_of_ending(turn: int, closed: Closed) -> Address:
    """Where in `speech` a turn ended for its client, by its closing in `text`.

    An answer that was heard ended by its completion, which stands before the closing. Where nothing is known,
    whoever has any of the speech has its end; but the failure of a reply is told from `text`.
    """
    if closed.speech_seq is None:
        return Address(turn + 1, -1) if closed.reason == "failed" else Address(turn, 0)
    return Address(turn, closed.speech_seq - 1 if closed.reason == "heard" else closed.speech_seq)
