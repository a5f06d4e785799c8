"""What was said before in a conversation, as a speech model is given it.

    audio log ─> what the user said ─┐
    text log ──> how it ended ───────┴─> exchanges, newest first ─> as many as fit ─> oldest first

Owns what a past turn is: the user's words as audio (as text where they were typed), the reply as far as it
was heard. Read from the logs alone, so every worker that takes a turn up reads the same. Knows no engine:
what an exchange costs in tokens is the engine's to say.

What was heard stands in `closed`, which is in the log before the next turn is offered:

| how the turn ended                                    | `reason`                  | heard         |
|-------------------------------------------------------|---------------------------|---------------|
| heard out, or all of it sent and the next one in line | `heard`                   | all of it     |
| all of it sent, and spoken over while it still played | `heard`                   | `heard_text`  |
| spoken over, interrupted by hand, left                | `barge_in`,               | `heard_text`  |
|                                                       | `user_interrupt`, `bye`   |               |
| given up by the edge: too late, or Redis lost some    | `failed`                  | `heard_text`  |
| failed or left without the edge, so nobody can say    | `failed`, `abandoned`,    | nothing       |
|                                                       | `superseded`              |               |
| whole, but Redis has forgotten its closing            | none: it ends in `end`    | all of it     |

An utterance that was cut off before its end was never put to the model: such a turn is no exchange, unless
some of an answer was heard all the same. One without a sample or a letter is none either.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from shared.audio import INPUT_RATE, duration_ms
from shared.errors import EntryGarbled
from shared.keys import log_key
from shared.log import read_log
from shared.store import Arg, Reply, Store
from shared.wire import Address, Chunk, Closed, Entry, Log, Open, ReplyEnd, Token, UtteranceEnd

log = logging.getLogger(__name__)

PAGE_TURNS = 8
"""Read in one round trip, newest first: as many turns of half a minute as the default budget has room for."""

CHUNK = Chunk.kind.encode()

TOKENS_PER_S = 12.5
CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Exchange:
    """One past turn: what the user said, and as much of the reply as was heard.

    `audio` is PCM16 mono 16 kHz, empty for a typed turn, whose words are `text`. `reply` is empty where
    nothing of the answer was heard.
    """

    turn: int
    audio: bytes
    text: str | None
    reply: str


Cost = Callable[[Exchange], int]
"""What an exchange costs of the budget, in the engine's own tokens."""


def rough_cost(exchange: Exchange) -> int:
    """The cost of an exchange for an engine that has no tokenizer: about that of a speech model."""
    audio_tokens = duration_ms(exchange.audio, INPUT_RATE) / 1000 * TOKENS_PER_S
    characters = len(exchange.text or "") + len(exchange.reply)
    return math.ceil(audio_tokens + characters / CHARACTERS_PER_TOKEN)


async def read_history(
    store: Store, conversation: str, turn: int, budget_tokens: int, cost: Cost
) -> tuple[Exchange, ...]:
    """The newest exchanges before `turn` that together cost `budget_tokens` at the most, oldest first.

    There is no gap in them: the first that does not fit, whose audio was trimmed away, or that cannot be
    read, ends the memory.
    Raises `StoreError`.
    """
    kept: list[Exchange] = []
    left = budget_tokens
    if left > 0:
        async with aclosing(_newest_first(store, conversation, turn)) as exchanges:
            async for exchange in exchanges:
                left -= cost(exchange)
                if left < 0:
                    break
                kept.append(exchange)
    return tuple(reversed(kept))


async def _newest_first(store: Store, conversation: str, before: int) -> AsyncGenerator[Exchange, None]:
    while before > 1:
        turns = range(before - 1, max(0, before - 1 - PAGE_TURNS), -1)
        for turn, (audio, text, speech) in zip(turns, await _page(store, conversation, turns), strict=True):
            if not audio:
                return  # trimmed away, and whatever is older with it
            try:
                said = _Said.of(audio)
                heard = _heard(_tail(Log.TEXT, text), _tail(Log.SPEECH, speech))
                reply = await _whole_reply(store, conversation, turn) if heard is None else heard
            except EntryGarbled as error:
                log.warning("the memory ends behind turn %d: %s", turn, error)
                return
            if reply or said.put:
                yield Exchange(turn, said.pcm, said.text, reply)
            # Thousands of entries may have been looked at: others of this event loop have waited.
            await asyncio.sleep(0)
        before = turns[-1]


async def _page(store: Store, conversation: str, turns: Sequence[int]) -> list[tuple[Reply, Reply, Reply]]:
    """Of each turn its `audio`, and the last entries of its `text` and `speech`: in one round trip."""
    audio, text, speech = (log_key(conversation, log) for log in (Log.AUDIO, Log.TEXT, Log.SPEECH))
    commands: list[list[Arg]] = []
    for turn in map(str, turns):
        commands += (
            ["XRANGE", audio, turn, turn],
            ["XREVRANGE", text, turn, turn, "COUNT", 1],
            ["XREVRANGE", speech, turn, turn, "COUNT", 1],
        )
    replies = await store.call_all(commands)
    return list(zip(replies[::3], replies[1::3], replies[2::3], strict=True))


@dataclass(frozen=True, slots=True)
class _Said:
    """The user's part of a turn. `put`: there was something to answer, and it came to its end."""

    pcm: bytes
    text: str | None
    put: bool

    @classmethod
    def of(cls, entries: Reply) -> _Said:
        opening, pieces, whole = Open(), [], False
        for entry_id, flat in entries:
            raw = dict(zip(flat[::2], flat[1::2], strict=True))
            if raw.get(b"kind") == CHUNK and b"pcm" in raw:
                # No `Entry` is made of each: that takes ten times as long, and a minute has three thousand.
                pieces.append(raw[b"pcm"])
                continue
            match Entry.from_fields(Log.AUDIO, entry_id, flat).payload:
                case Open() as opening:
                    pass
                case UtteranceEnd():
                    whole = True
        pcm = b"".join(pieces)
        return cls(pcm, opening.text, whole and bool(pcm or opening.text))


def _heard(text: Entry | None, speech: Entry | None) -> str | None:
    """What was heard of a reply, by the last entries of its logs; `None`: the whole of it."""
    for last in (text, speech):
        if last is not None and isinstance(last.payload, Closed) and last.payload.heard_text is not None:
            return last.payload.heard_text
    return None if text is not None and isinstance(text.payload, ReplyEnd) else ""


async def _whole_reply(store: Store, conversation: str, turn: int) -> str:
    entries = await read_log(store, log_key(conversation, Log.TEXT), Address(turn, 0), turn)
    return "".join(entry.payload.text for entry in entries if isinstance(entry.payload, Token))


def _tail(log: Log, reply: Reply) -> Entry | None:
    return Entry.from_fields(log, *reply[0]) if reply else None
