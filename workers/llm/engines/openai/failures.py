"""What it means when an endpoint fails: which error the turn ends in, and whether another attempt may work.

| what happened                                     | another attempt | the client may ask again |
|---------------------------------------------------|-----------------|--------------------------|
| not reached, connection lost, silent, no JSON     | yes             | yes                      |
| 408, 425, 429, 5xx                                | yes             | yes                      |
| the same, with a `Retry-After` beyond `MAX_WAIT_S`| no              | yes                      |
| an error in the middle of the stream              | yes             | yes                      |
| any other status (400, 401, 403, 404 …)           | no              | no                       |
| it cannot go on with an answer begun              | no              | yes                      |

An error's message goes to the client. So it says what the endpoint said only in short, and neither where the
endpoint is, nor its key, nor what was said in the conversation.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime

from shared.errors import EngineError

MAX_WAIT_S = 2.0
"""As long as this an attempt waits where the endpoint asks for it: less than a listener's patience."""

MAX_MESSAGE = 160
REPEATED = 8
"""So many characters in a row that were sent, and a message counts as a repetition of them."""

IN_PASSING = frozenset({408, 425, 429})

_LONG_WORD = re.compile(r"[A-Za-z0-9+/=_\-]{32,}")


class Refused(EngineError):
    """Raised when the endpoint answers with an HTTP status that is an error; `message` is short already."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(
            _line(f"the endpoint refused with status {status} {reason}".rstrip(), message),
            retryable=status in IN_PASSING or status >= 500,
        )
        self.status = status

    @property
    def content(self) -> bool:
        """Whether it is about what the request said."""
        return self.status in (400, 422)


def put_off(wait_s: float) -> EngineError:
    """The endpoint asks for more patience than a turn has."""
    return EngineError(
        f"the endpoint has no room, and asks to wait for {wait_s:.0f} s; ask again then",
        retryable=True,
        final=True,
    )


def unreachable() -> EngineError:
    """No connection came about, or it ended before an answer began."""
    return EngineError("the endpoint of OPENAI_BASE_URL cannot be reached", retryable=True)


def silent(timeout_s: float) -> EngineError:
    """Nothing came in time."""
    return EngineError(f"the endpoint was silent for {timeout_s:g} s (OPENAI_TIMEOUT_S)", retryable=True)


def broken(message: str = "") -> EngineError:
    """The answer broke off, or told of an error in its middle."""
    return EngineError(_line("the endpoint broke its answer off", message), retryable=True)


def not_json() -> EngineError:
    """What came cannot be read."""
    return EngineError("the endpoint sent an answer that cannot be read", retryable=True)


def filtered() -> EngineError:
    """Nothing was answered, and on purpose."""
    return EngineError("the endpoint's content filter let no answer through")


def cannot_go_on(why: str) -> EngineError:
    """A turn taken over in the middle of its answer ends here."""
    return EngineError(
        f"the answer was interrupted, and the endpoint cannot go on with it ({why}); ask again",
        retryable=True,
        final=True,
    )


def shortened(message: str, texts: Sequence[str], key: str | None) -> str:
    """A server's message in one short line; nothing where it repeats what was sent."""
    message = " ".join(message.split())
    if key:
        message = message.replace(key, "…")
    message = _LONG_WORD.sub("…", message)
    if len(message) > MAX_MESSAGE:
        message = message[: MAX_MESSAGE - 1] + "…"
    sent = [" ".join(text.split()) for text in texts]
    for begin in range(len(message) - REPEATED + 1):
        run = message[begin : begin + REPEATED]
        if any(run in text for text in sent):
            return ""
    return "" if any(text in message for text in sent if 3 < len(text) < REPEATED) else message


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """For how long a server asks to be left alone, by its `Retry-After` (seconds, or a date), if it does."""
    value = headers.get("retry-after", "")
    with suppress(ValueError):
        return max(0.0, float(value))
    with suppress(ValueError):
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    return None


def _line(what: str, message: str) -> str:
    return f"{what}: {message}" if message else what
