"""Whether a history keeps what is promised: nothing accepted is lost, doubled or out of order, no turn ends
silently or twice, no log holds two stories, and nothing is left behind.

Pure, and told nothing but the history. Each violation names its check:

| check          | what is wrong                                                                            |
|----------------|------------------------------------------------------------------------------------------|
| `lost-input`   | less of what was said stands in the log, or was heard by the engine                      |
| `lost-output`  | something of the answer is missing, before the end of a turn that is whole or further on |
| `doubled`      | something came, or stands in a log, twice                                                |
| `out-of-order` | something came after what follows it                                                     |
| `crossed`      | something belongs to another turn or conversation, or to none                            |
| `no-ending`    | a turn, or a whole conversation, never ended                                             |
| `two-endings`  | a turn ended twice, or went on after its end                                             |
| `failed-turn`  | a turn ended explicitly, by an error, and nothing that was broken may cost a turn        |
| `spliced`      | a log has a hole, a writer that never took it, or entries after the end                  |
| `leftovers`    | work, keys, files or memory are not back where they were                                 |

What is left of a turn that is convicted already is no second violation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from shared.wire import Address, Log
from tests.chaos import payload
from tests.chaos.history import History, Left, Lost, Read, Received, Sent, Struck
from tests.chaos.payload import Piece
from tests.chaos.turns import ANSWER, WHOLE, Turn, ends, texts, turns_of
from workers.llm.engines.scripted import Heard
from workers.tts.engines.scripted import hash_of

CHECKS = (
    "lost-input", "lost-output", "doubled", "out-of-order", "crossed", "no-ending", "two-endings",
    "failed-turn", "spliced", "leftovers",
)  # fmt: skip

GRACE_S = 5.0
"""How long after a fault a turn may still begin that is hit by it; its end may come much later."""

POISON = "poison"
"""A typed turn with this word kills whoever answers it: it has to end by an error."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One promise that was not kept."""

    check: str
    conversation: str
    turn: int
    detail: str

    def __str__(self) -> str:
        where = f" in turn {self.turn} of {self.conversation}" if self.conversation else ""
        return f"{self.check}{where}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a line of words, characters or samples; `end` is exclusive."""

    start: int
    end: int


Found = Iterator[tuple[str, str]]
"""Names of checks, and what was found."""


def check(history: History) -> list[Violation]:
    """Every violation, the first of each check for each turn."""
    turns = turns_of(history)
    found = [
        Violation(name, turn.conversation, turn.number, detail)
        for turn in turns.values()
        for name, detail in _of_turn(turn, _windows(history))
    ]
    found += _overtakings(history)
    found += [Violation("no-ending", lost.conversation, 0, lost.reason) for lost in history.of(Lost)]
    convicted = {(violation.conversation, violation.turn) for violation in found}
    found += [
        Violation("leftovers", left.conversation, left.turn, left.what)
        for left in history.of(Left)
        if (left.conversation, left.turn) not in convicted
    ]
    once = {(each.check, each.conversation, each.turn): each for each in reversed(found)}
    return sorted(once.values(), key=lambda each: (each.conversation, each.turn, CHECKS.index(each.check)))


def spans(found: Sequence[Span | None], length: int | None = None) -> Found:
    """What is wrong with stretches of one line, in the order in which they came.

    `None` stands for what is not on that line. With `length` the line must be whole, else it may break off
    anywhere.
    """
    if None in found:
        yield "crossed", f"piece {found.index(None)} is of something else"
        return  # What it stands in the place of is no second violation.
    fresh: list[Span] = []
    for span in filter(None, found):
        if any(span.start < other.end and other.start < span.end for other in fresh):
            yield "doubled", f"{span.start} to {span.end} came again"
        else:
            fresh.append(span)
    for before, after in pairwise(fresh):
        if after.start < before.start:
            yield "out-of-order", f"{after.start} came after {before.start}"
    reached = 0
    for span in sorted(fresh, key=lambda each: each.start):
        if span.start > reached:
            yield "lost-output", f"{reached} to {span.start} is missing"
        reached = span.end
    if length is not None and reached < length:
        yield "lost-output", f"{reached} to {length} is missing"


def _windows(history: History) -> list[tuple[float, float]]:
    """When something was broken that may cost a turn, with the time in which that may still show."""
    windows: list[tuple[float, float]] = []
    since_s: dict[str, float] = {}
    for struck in history.of(Struck):
        if struck.fails and not struck.over:
            since_s[struck.fault] = struck.at_s
        elif struck.fails and struck.fault in since_s:
            windows.append((since_s.pop(struck.fault), struck.at_s + GRACE_S))
    return windows + [(begun_s, math.inf) for begun_s in since_s.values()]


def _of_turn(turn: Turn, windows: Sequence[tuple[float, float]]) -> Found:
    yield from _endings(turn, windows)
    for reads in turn.reads.values():
        for read in reads:
            yield from _structure(read)
    if turn.said is not None:
        said = Heard(turn.said.amount, turn.said.checksum)
        yield from _answered(turn, payload.answer(turn.conversation, turn.number, said))
        yield from _spoken(turn)
        yield from _input(turn, turn.said)
        yield from _order(turn)


def _endings(turn: Turn, windows: Sequence[tuple[float, float]]) -> Found:
    if not turn.endings:
        if turn.said is not None:
            yield "no-ending", "nothing says that it ended"
        return
    ending = turn.endings[0]
    for message in turn.messages[turn.messages.index(ending) + 1 :]:
        if ends(message) and ending.address is None:
            continue  # Told while Redis was away, and after a resume once more, out of the log.
        if ends(message) or message.kind in ANSWER:
            yield "two-endings", f"{message.kind} after {ending.kind}"
    if ending.kind in WHOLE or (ending.kind == "audio_interrupted" and turn.cut):
        return
    is_poison = turn.said is not None and POISON in (turn.said.text or "")
    if not is_poison and not any(a <= ending.at_s and turn.begun_s <= b for a, b in windows):
        yield "failed-turn", f"{ending.kind} {ending.text or ending.reason}"


def _structure(read: Read) -> Found:
    for place, line in enumerate(read.lines):
        if line.seq != place:
            yield "spliced", f"{read.log} has {line.seq} where {place} was expected"
            return
    for before, after in pairwise(read.lines):
        if before.kind == "closed" or (before.kind == "end" and after.kind != "closed"):
            yield "spliced", f"{read.log} has {after.kind} at {after.seq} after {before.kind}"
        if after.writer != before.writer and after.kind not in ("take", "closed"):
            yield "spliced", f"{read.log} has another writer at {after.seq}, which never took it"


def _answered(turn: Turn, wanted: tuple[str, ...]) -> Found:
    """The words, as they were told and as they stand in the log, and the chunks made of them."""
    streams = [(turn.told("token_chunk"), turn.ended == "chunked_streaming_complete")]
    streams += [(texts(read, "token"), _is_whole(read)) for read in turn.reads[Log.TEXT]]
    for tokens, is_whole in streams:
        if tokens and tokens[0].startswith("Heard ") and tokens[0] != wanted[0]:
            yield _misheard(tokens[0], wanted[0])
            wanted = (tokens[0], *wanted[1:])
        yield from spans(_places(tokens, wanted), len(wanted) if is_whole else None)
    reply = "".join(wanted)
    streams = [(turn.told("semantic_chunk"), turn.ended == "chunked_streaming_complete")]
    streams += [(texts(read, "semantic"), _is_whole(read)) for read in turn.reads[Log.TEXT]]
    for chunks, is_whole in streams:
        yield from spans([_found(chunk, reply) for chunk in chunks], len(reply) if is_whole else None)
    if turn.ended in WHOLE and turn.endings[0].text != reply:
        told = turn.endings[0].text or ""
        yield "lost-output" if len(told) < len(reply) else "doubled", f"the whole reply is {told[:60]!r} …"


def _misheard(told: str, wanted: str) -> tuple[str, str]:
    heard, said = int(told.split()[1]), int(wanted.split()[1])
    name = "lost-input" if heard < said else "doubled" if heard > said else "crossed"
    return name, f"the engine says {told!r} of what was {wanted!r}"


def _spoken(turn: Turn) -> Found:
    """The samples, as they were told and as they stand in the log."""
    lengths = [payload.samples_of(chunk) for chunk in turn.chunks()]
    starts, owner = [0, *accumulate(lengths)], hash_of(turn.conversation)

    def span(piece: Piece | None) -> Span | None:
        if piece is None or (piece.owner, piece.turn) != (owner, turn.number) or piece.chunk >= len(lengths):
            return None
        start = starts[piece.chunk] + piece.place
        return Span(start, start + piece.samples)

    told = [span(piece) for message in turn.messages for piece in message.pieces]
    streams = [(told, turn.ended in WHOLE)]
    streams += [
        ([span(line.piece) for line in read.lines if line.kind == "frame"], _is_whole(read))
        for read in turn.reads[Log.SPEECH]
    ]
    for found, is_whole in streams:
        yield from spans(found, starts[-1] if is_whole else None)


def _input(turn: Turn, said: Sent) -> Found:
    """What was said, as it stands in the log."""
    owner = hash_of(said.speaker)
    for read in turn.reads[Log.AUDIO]:
        pieces = [line.piece for line in read.lines if line.kind == "chunk"]
        found = [
            Span(piece.place, piece.place + piece.samples)
            if piece and (piece.owner, piece.turn) == (owner, turn.number)
            else None
            for piece in pieces
        ]
        length = said.amount if said.kind == "end" and _is_whole(read) else None
        for name, detail in spans(found, length):
            yield name.replace("lost-output", "lost-input"), f"audio: {detail}"


def _order(turn: Turn) -> Found:
    """The addresses that messages carry, and where those are in order, the counters."""
    is_clean = True
    for log in (Log.TEXT, Log.SPEECH):
        held: set[int] = set()
        for message in turn.messages:
            name, _, place = (message.address or "").partition(":")
            if name != log:
                continue
            seq = Address.parse(place).seq
            if seq in held:
                yield "doubled", f"{message.kind} {message.address} came again"
            elif held and seq < max(held):
                yield "out-of-order", f"{message.kind} {message.address} came late"
            is_clean = is_clean and seq > max(held, default=-1)
            held.add(seq)
    for kind in ANSWER if is_clean else ():
        marks = [message.mark for message in turn.messages if message.kind == kind]
        if marks != list(range(len(marks))):
            yield "out-of-order", f"the counters of {kind} are {marks}"


def _overtakings(history: History) -> list[Violation]:
    """Frames of a turn after those of a later one."""
    playing: dict[str, int] = {}
    found = []
    for message in history.of(Received):
        if message.kind == "sequential_audio":
            now = playing.get(message.conversation, 0)
            if message.turn < now:
                detail = f"a frame came after one of turn {now}"
                found.append(Violation("out-of-order", message.conversation, message.turn, detail))
            playing[message.conversation] = max(now, message.turn)
    return found


def _is_whole(read: Read) -> bool:
    return any(line.kind == "end" for line in read.lines)


def _places(tokens: Sequence[str], wanted: Sequence[str]) -> list[Span | None]:
    index = {text: place for place, text in enumerate(wanted)}
    return [Span(index[text], index[text] + 1) if text in index else None for text in tokens]


def _found(chunk: str, reply: str) -> Span | None:
    start = reply.find(chunk)
    return None if start < 0 else Span(start, start + len(chunk))
