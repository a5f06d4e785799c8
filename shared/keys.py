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

Batch turns are jobs of rq, whose keys these are; `{job}` is `{id}-{turn}`, as in `0123456789abcdef-3`:

| key                              | kind   | written by | bound                                          |
|----------------------------------|--------|------------|------------------------------------------------|
| `rq:queues`                      | set    | edge       | one name                                       |
| `rq:queue:batch`                 | list   | edge       | `MAX_WAITING_JOBS` a jobs process, about       |
| `rq:queue:batch:intermediate`    | list   | jobs       | one job on its way to each jobs process        |
| `rq:queue:batch:intermediate:…`  | string | jobs       | TTL of rq's, a day                             |
| `rq:job:{job}`                   | hash   | edge, jobs | `JOB_TTL_S`; refreshed while it runs           |
| `rq:wip:batch`                   | zset   | jobs       | one entry for each job that runs; pruned by rq |
| `rq:execution:{job}:…`           | hash   | jobs       | TTL of rq's, minutes                           |
| `rq:executions:{job}`            | zset   | jobs       | TTL of rq's, minutes                           |
| `rq:failed:batch`                | zset   | jobs       | what was refused, for `JOB_TTL_S`; pruned      |
| `rq:results:{job}`               | stream | jobs       | ten entries, `JOB_TTL_S`                       |
| `rq:workers`, `rq:workers:batch` | set    | jobs       | one name for each jobs process; pruned by rq   |
| `rq:worker:{name}`               | hash   | jobs       | TTL of rq's, minutes                           |
| `rq:worker:{name}:executions`    | set    | jobs       | TTL of rq's, minutes                           |
| `rq:clean_registries:batch`      | string | jobs       | TTL of rq's, a quarter of an hour              |
| `rq:clean_groups`                | string | jobs       | the same                                       |

`{id}` in a conversation's keys is written with its braces: it is a hash tag, so that all of a conversation
lies in one Cluster slot. In the other rows `{p}` and `{name}` stand for a value; the braces round a work
stream's name in the key of its index are real again and put the index into the slot of its stream.

Channels hold nothing: a log's entries are pushed on one of the log's own name, and each edge listens on
`edge:{tag}` for conversations that another edge has taken over.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final, Literal

from shared.wire import Log

GROUP = "workers"
WORKERS = "workers"
DEAD = "work:dead"

DEAD_LETTERS = 1000

BATCH = "batch"
"""The queue of rq that batch turns wait in."""

MAX_WAITING_JOBS = 16
"""How many batch turns may wait for each jobs process before no more are let in."""

JOB_TTL_S = 600
"""How long a job is known that nobody works on: longer than any edge waits for it."""

TTL_MARGIN_S = 60
"""How long a conversation's keys outlive the window in which it may be resumed."""

MAX_TURN_BYTES = {Log.AUDIO: 16 << 20, Log.TEXT: 1 << 20, Log.SPEECH: 32 << 20}
"""Bounds of one turn in one log: over eight minutes of input, eleven of speech."""

LONGEST_UTTERANCE_S = 500.0
"""The most that `MAX_UTTERANCE_S` may be: so much input fits, with what else stands in its entries."""

_CONVERSATION = re.compile(r"[0-9a-f]{16}")


class Role(StrEnum):
    """Which work a worker takes: `reply` is the LLM worker's, `speak` the TTS worker's."""

    REPLY = "reply"
    SPEAK = "speak"


JOBS: Final = "jobs"
"""What a jobs process announces itself as: it takes no work from the streams."""

Trade = Role | Literal["jobs"]
"""What a worker may announce itself as."""


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


def batch_key() -> str:
    """The list of batch turns that wait for a jobs process; rq gives it its name."""
    return f"rq:queue:{BATCH}"


def job_id(conversation: str, turn: int) -> str:
    """The name of a batch turn's job: one turn, one job."""
    return f"{conversation}-{turn}"
