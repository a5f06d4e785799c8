"""The embedded Redis: the Valkey server that comes in a wheel, as an object (`start_server`), and as the role
`redis` (`python -m deploy.embedded`)."""

from deploy.embedded.errors import FolderInUse, PortTaken, ServerError
from deploy.embedded.server import RedisServer, start_server

__all__ = ["FolderInUse", "PortTaken", "RedisServer", "ServerError", "start_server"]
