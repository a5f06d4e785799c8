"""Which server a command talks to: its URLs, the encoding, the key. Knows nothing of what is said there."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from deploy.cli.client import Hook, ParleyClient
from deploy.cli.recording import Unusable
from edge.protocols.encoding import Encoding
from shared.settings import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that every command which talks to a server has."""
    parser.add_argument(
        "--url",
        action="append",
        metavar="URL",
        help="the server's WebSocket (ws://127.0.0.1:PORT/ws); several: the next one when one is lost",
    )
    parser.add_argument("--encoding", choices=list(Encoding), default=Encoding.MSGPACK, type=Encoding)
    parser.add_argument(
        "--key-file",
        type=Path,
        metavar="FILE",
        help="file that holds the API key; else it is the first of PARLEY_API_KEYS",
    )


@dataclass(frozen=True, slots=True)
class Access:
    """Where to connect, and how."""

    urls: tuple[str, ...]
    encoding: Encoding
    key: str | None

    @classmethod
    def of(cls, arguments: argparse.Namespace, settings: Settings) -> Access:
        """Raises `Unusable` for a file that holds no key."""
        urls = tuple(arguments.url or [f"ws://127.0.0.1:{settings.port}/ws"])
        return cls(urls, arguments.encoding, _key(arguments.key_file, settings))

    def client(self, on_receive: Hook) -> ParleyClient:
        """A new conversation there, not yet begun."""
        return ParleyClient(self.urls, encoding=self.encoding, key=self.key, on_receive=on_receive)


def _key(path: Path | None, settings: Settings) -> str | None:
    if path is None:
        return settings.parley_api_keys[0] if settings.parley_api_keys else None
    try:
        words = path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError):
        words = []
    # Whatever else it holds shall not be shown as a key, nor in the complaint that it is none.
    if len(words) != 1 or not words[0].isprintable():
        raise Unusable(f"{path}: no key can be read from it")
    return words[0]
