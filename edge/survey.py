"""What the logs say of a conversation that a new session takes over.

Reads only. A turn counts as *living* until it is closed in `text` and in `speech`: that much a predecessor
may have left to do. One that is closed may still be *replayed*: its answer is whole, and the client has not
got its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge.transcript import place_of_ending
from shared.keys import log_key
from shared.log import log_of, tail
from shared.store import Arg, Reply, Store
from shared.wire import Address, Chunk, Closed, Entry, Log, Open, UtteranceEnd

PAGE_ENTRIES = 16

BELIEVED_TURNS = 4
"""By how many turns a client may be ahead of what Redis knows: it may have forgotten its last seconds."""


@dataclass(frozen=True, slots=True)
class Survey:
    """Where a conversation stands. `last_turn`: the newest that there has ever been, as far as anybody knows;
    its number is not to be used again. `living`: the unsettled turns in order, each with `utterance open`;
    `replayed`: those before them that are told to their end; `unwritten`: those behind them that began though
    nothing of them stands in the logs.

    `follow`: from the start of which turn each log must be folded, so that what a client with `held` has not
    got is told with the right numbers. `tails`: up to where `text` and `speech` stood. `cut`: turns that were
    interrupted or failed. `told`: the last turn whose ending the client has. `openings`: the first entry of
    each turn that is told again. `limits`: the first and the last entries of each turn in `audio`, in order.
    """

    last_turn: int
    input_samples: int
    living: tuple[tuple[int, bool], ...]
    replayed: tuple[int, ...]
    unwritten: tuple[int, ...]
    follow: dict[Log, int]
    tails: dict[Log, Address]
    cut: frozenset[int]
    told: int
    openings: dict[int, Open]
    limits: tuple[Entry, ...]


async def survey(store: Store, conversation: str, held: dict[Log, Address], noted: int) -> Survey:
    """Look at the logs of a conversation. `held`: what its client has. `noted`: the newest turn in its meta.

    Redis may have lost the logs, or the end of them: a number used again would be taken for the turn that the
    client has seen already. Raises `StoreError`.
    """
    keys = {log: log_key(conversation, log) for log in Log}
    tails = {log: await tail(store, key) for log, key in keys.items()}
    audio = tails[Log.AUDIO]
    written = max((entry.address.turn for entry in tails.values() if entry), default=0)
    first = {log: await _first_turn(store, key) for log, key in keys.items()}
    last_turn = _last_turn(max(written, noted), held)
    # Without its utterance a turn can still be finished by the workers that are at it, but by nobody else.
    first_kept = first[Log.AUDIO] if audio else max(1, written)
    oldest = _oldest_living([tails[Log.TEXT], tails[Log.SPEECH]], first_kept, written)
    speech_from = _from(held.get(Log.SPEECH), first[Log.SPEECH], oldest)
    # The text of a chunk goes with its first frame, and tells the end of a turn whose speech is kept no more:
    # so it is folded from no later than speech is, or would be.
    text_from = min(
        speech_from, *(_from(held.get(log), first[Log.TEXT], oldest) for log in (Log.TEXT, Log.SPEECH))
    )
    retold = range(text_from, written + 1)
    closings = await _closings(store, keys[Log.SPEECH], retold)
    ended = await _ended(store, keys, held.get(Log.SPEECH))
    # An utterance that a later turn has followed, which Redis then forgot, does not go on.
    open_turn = last_turn if audio is not None and not audio.final else None
    return Survey(
        last_turn=last_turn,
        input_samples=await _input_samples(store, keys[Log.AUDIO]),
        living=tuple((turn, turn == open_turn) for turn in range(oldest, written + 1)),
        replayed=tuple(
            turn for turn, closed in closings.items() if ended < turn < oldest and closed.reason == "heard"
        ),
        unwritten=tuple(range(max(written, ended) + 1, last_turn + 1)),
        follow={Log.TEXT: text_from, Log.SPEECH: speech_from},
        tails={log: entry.address for log, entry in tails.items() if entry and log is not Log.AUDIO},
        cut=frozenset(turn for turn, closed in closings.items() if closed.reason != "heard"),
        told=ended,
        openings=await _openings(store, keys[Log.AUDIO], retold),
        limits=await _limits(store, keys[Log.AUDIO], range(first[Log.AUDIO], written + 1)),
    )


def _last_turn(known: int, held: dict[Log, Address]) -> int:
    """The newest turn, given the newest that Redis knows of and what the client says it has."""
    believed = [each.turn for each in held.values() if each.turn <= known + BELIEVED_TURNS]
    return max(known, *believed, 0)


def _from(held: Address | None, first_kept: int, oldest_living: int) -> int:
    turn = first_kept if held is None else max(held.turn, first_kept)
    # A client may claim what it likes, but what lives is followed in any case.
    return max(1, min(turn, oldest_living))


def _oldest_living(tails: Sequence[Entry | None], first_kept: int, last_written: int) -> int:
    """The first turn that some log has not closed; `last_written + 1` if there is none."""
    oldest = last_written + 1
    for entry in tails:
        if entry is None:
            oldest = min(oldest, first_kept)
        else:
            closed = isinstance(entry.payload, Closed)
            oldest = min(oldest, entry.address.turn + (1 if closed else 0))
    return oldest


async def _first_turn(store: Store, key: str) -> int:
    found = await store.call("XRANGE", key, "-", "+", "COUNT", 1)
    return Address.parse(found[0][0]).turn if found else 1


async def _closings(store: Store, key: str, turns: Sequence[int]) -> dict[int, Closed]:
    """How those of the turns were closed that are."""
    commands: list[list[Arg]] = [["XREVRANGE", key, str(turn), str(turn), "COUNT", 1] for turn in turns]
    closings = {}
    for turn, reply in zip(turns, await _all(store, commands), strict=True):
        entry = _entry(log_of(key), reply)
        if entry and isinstance(entry.payload, Closed):
            closings[turn] = entry.payload
    return closings


async def _ended(store: Store, keys: dict[Log, str], held: Address | None) -> int:
    """The last turn whose ending a client has that holds this address of `speech`."""
    if held is None:
        return 0
    entry = _entry(Log.SPEECH, await store.call("XRANGE", keys[Log.SPEECH], str(held), str(held), "COUNT", 1))
    if entry is not None:
        return held.turn if entry.final else held.turn - 1
    # Kept no more: what is known of it stands in `text`; if nothing does, nothing can be told in its place.
    closed = (await _closings(store, keys[Log.TEXT], [held.turn])).get(held.turn)
    return held.turn - 1 if closed and held < place_of_ending(held.turn, closed) else held.turn


async def _openings(store: Store, key: str, turns: Sequence[int]) -> dict[int, Open]:
    commands: list[list[Arg]] = [["XRANGE", key, str(turn), str(turn), "COUNT", 1] for turn in turns]
    openings = {}
    for turn, reply in zip(turns, await _all(store, commands), strict=True):
        entry = _entry(Log.AUDIO, reply)
        if entry and isinstance(entry.payload, Open):
            openings[turn] = entry.payload
    return openings


async def _limits(store: Store, key: str, turns: Sequence[int]) -> tuple[Entry, ...]:
    """Of each turn two entries from its beginning and two from its end: most hold a slice of audio each."""
    commands: list[list[Arg]] = []
    for turn in map(str, turns):
        commands += (["XRANGE", key, turn, turn, "COUNT", 2], ["XREVRANGE", key, turn, turn, "COUNT", 2])
    replies = await _all(store, commands)
    return tuple(
        Entry.from_fields(Log.AUDIO, *found)
        for begin, end in zip(replies[::2], replies[1::2], strict=True)
        for found in (*begin, *reversed(end))
    )


async def _input_samples(store: Store, key: str) -> int:
    """Up to where the conversation's input stands in the log."""
    end = "+"
    while page := await store.call("XREVRANGE", key, end, "-", "COUNT", PAGE_ENTRIES):
        for entry_id, flat in page:
            match Entry.from_fields(Log.AUDIO, entry_id, flat).payload:
                case Chunk() as chunk:
                    return chunk.offset_samples + len(chunk.pcm) // 2
                case UtteranceEnd() as utterance_end:
                    return utterance_end.input_samples
        end = f"({page[-1][0].decode()}"
    return 0


async def _all(store: Store, commands: list[list[Arg]]) -> list[Reply]:
    return await store.call_all(commands) if commands else []


def _entry(log: Log, reply: Reply) -> Entry | None:
    return Entry.from_fields(log, *reply[0]) if reply else None
