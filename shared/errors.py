"""Every error that crosses a module boundary. One root, one line each on when it is raised."""

from __future__ import annotations


class ParleyError(Exception):
    """The root of all errors that Parley raises on purpose."""


class SettingsError(ParleyError):
    """Raised when a setting has a value that cannot be used; the message names it and what was expected."""


class StoreError(ParleyError):
    """Raised when Redis cannot be reached, or answers with an error that is not a verdict."""


class StoreFull(StoreError):
    """Raised when Redis refuses a write because it is at its `maxmemory`, or its disk takes no more."""


class LogError(ParleyError):
    """The root of what a log answers to a writer or a reader that cannot go on."""


class TurnClosed(LogError):
    """Raised when a writer finds its turn final, or a later turn begun: it stops, nothing is wrong."""


class TurnTaken(LogError):
    """Raised when another writer has taken the turn: go on only if the claim is still one's own."""


class TurnBusy(LogError):
    """Raised when a turn cannot begin because the one before it is not final."""


class TurnFull(LogError):
    """Raised when a turn has reached its bound of bytes."""


class StoryForked(LogError):
    """Raised when a reader finds another story where it had already delivered one (Redis lost its tail).

    `turn` is the one that forked.
    """

    def __init__(self, message: str, turn: int) -> None:
        super().__init__(message)
        self.turn = turn


class EntryGarbled(LogError):
    """Raised when an entry of a log cannot be read: it was written by hand, or by a newer version.

    `turn`: the one that it stands in; `None` where its id is no address.
    """

    def __init__(self, message: str, turn: int | None) -> None:
        super().__init__(message)
        self.turn = turn


class EngineError(ParleyError):
    """Raised by an engine that cannot do what it was asked; `retryable` says whether a repeat may work.

    `final`: not a repeat of this turn, which ends at once; the client may ask again.
    """

    def __init__(self, message: str, *, retryable: bool = False, final: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.final = final


class AudioError(ParleyError):
    """Raised when bytes that should be audio cannot be read as such."""


class ClientError(ParleyError):
    """Raised for a message of a client that is answered by `error`.

    `code` is one of the stable codes of the protocol; `retry_after_ms` goes with the retryable ones.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        retryable: bool = False,
        retry_after_ms: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retryable = retryable
        self.retry_after_ms = retry_after_ms
