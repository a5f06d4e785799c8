"""Every key that Parley writes, with its bound.

| key                      | kind   | written by       | bound                                           |
|--------------------------|--------|------------------|-------------------------------------------------|
| `conv:{id}:audio`        | stream | edge             | `HISTORY_AUDIO_S` and a turn, 65 turns, TTL     |
| `conv:{id}:text`         | stream | LLM worker       | `MAX_TURN_BYTES` a turn, 129 turns, TTL         |
| `conv:{id}:speech`       | stream | TTS worker       | `MAX_TURN_BYTES` a turn, two turns, TTL         |
| `conv:{id}:meta`         | hash   | edge             | a fixed set of fields, TTL                      |
| `conv:{id}:session`      | string | edge             | one tag, TTL of a session's lease               |
| `work:reply:{p}`         | stream | edge, LLM worker | one entry an unfinished turn; deleted when done |
| `work:speak:{p}`         | stream | edge, TTS worker | the same                                        |
| `{work:reply:{p}}:index` | hash   | as its stream    | one field for each entry of its stream          |
| `{work:speak:{p}}:index` | hash   | as its stream    | the same                                        |
| `work:dead`              | stream | workers          | `DEAD_LETTERS` entries                          |
| `worker:{name}`          | string | that worker      | TTL of one lease                                |
| `workers`                | set    | workers          | one name for each worker; edges prune the dead  |

`{id}` in a conversation's keys is written with its braces: it is a hash tag, so that all of a conversation
lies in one Cluster slot. In the other rows `{p}` and `{name}` stand for a value; the braces round a work
stream's name in the key of its index are real again and put the index into the slot of its stream.

Channels hold nothing: a log's entries are pushed on one of the log's own name, and each edge listens on
`edge:{tag}` for conversations that another edge has taken over.
"""

from __future__ import annotations

import re
from enum import StrEnum

from shared.wire import Log

GROUP = "workers"
WORKERS = "workers"
DEAD = "work:dead"

DEAD_LETTERS = 1000
TTL_MARGIN_S = 60
"""How long a conversation's keys outlive the window in which it may be resumed."""

MAX_TURN_BYTES = {Log.AUDIO: 16 << 20, Log.TEXT: 1 << 20, Log.SPEECH: 32 << 20}
"""Bounds of one turn in one log: over eight minutes of input, eleven of speech."""

_CONVERSATION = re.compile(r"[0-9a-f]{16}")


class Role(StrEnum):
    """Which work a worker takes: `reply` is the LLM worker's, `speak` the TTS worker's."""

    REPLY = "reply"
    SPEAK = "speak"


def is_conversation(text: str) -> bool:
    """Whether `text` has the form of a conversation id; nothing else from a client becomes part of a key."""
    return _CONVERSATION.fullmatch(text) is not None


def log_key(conversation: str, log: Log) -> str:
    """The stream of one log; also the name of the channel that its entries are pushed on."""
    return f"conv:{{{conversation}}}:{log.value}"


def meta_key(conversation: str) -> str:
    """The hash of settings, resume-token hashes and counters."""
    return f"conv:{{{conversation}}}:meta"


def session_key(conversation: str) -> str:
    """The tag of the edge session that holds the conversation, while its lease lasts."""
    return f"conv:{{{conversation}}}:session"


def conversation_ttl_s(resume_window_s: float) -> float:
    """How long a conversation's keys live without a refresh."""
    return resume_window_s + TTL_MARGIN_S


def work_key(role: Role, partition: int = 0) -> str:
    """The stream of turns that wait for, or are in the hands of, a worker of this role."""
    return f"work:{role.value}:{partition}"


def index_key(role: Role, partition: int = 0) -> str:
    """The hash from `<conversation> <turn>` to the entry of the work stream, in that stream's slot."""
    return f"{{{work_key(role, partition)}}}:index"


def worker_key(name: str) -> str:
    """What a living worker says of itself (JSON)."""
    return f"worker:{name}"
