"""What can keep a server from starting."""

from __future__ import annotations

from shared.errors import ParleyError


class ServerError(ParleyError):
    """Raised when the server cannot be started; the message says why, from its own log where there is one."""


class PortTaken(ServerError):
    """Raised when something else listens on the port."""


class FolderInUse(ServerError):
    """Raised when another server runs over the same folder."""
