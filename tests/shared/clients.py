"""Clients of a random schedule: they send the log's Functions, lose replies, and obey the verdicts.

Knows the rules for writers that `log.lua` has; knows nothing of what befalls a client, or when.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from tests.raw import Command, Reply
from tests.shared.calls import Functions, Written, append, close, take
from tests.shared.stories import entries_of

IN_FLIGHT = 3


class Surroundings(Protocol):
    """What a client needs of the schedule that it is part of."""

    rng: random.Random
    key: str
    functions: Functions
    end_rate: float
    """How often a piece of the story is its last."""

    def acknowledged(self, writer: Writer, first: int, upto: int) -> None:
        """A writer was told that its entries of these places stand in the log."""

    def taken(self, writer: Writer) -> None:
        """A writer found that its turn was taken."""

    def over(self, turn: int, *, closed: bool = False) -> None:
        """A turn is known to be final."""

    def leave(self, writer: Writer) -> None:
        """A writer has no more to do with its turn, and forgets it."""


@dataclass(eq=False, slots=True)
class Sent:
    """A command on its way. `about` is what it is for, `place` the seq that it writes at."""

    command: Command
    about: str
    place: int = 0
    count: int = 0


@dataclass(eq=False, slots=True)
class Connection:
    """Commands that the server has not seen, and replies that the client has not. `client`: if it listens."""

    client: Client | None
    commands: deque[Sent] = field(default_factory=deque)
    replies: deque[tuple[Sent, Reply]] = field(default_factory=deque)


class Client(ABC):
    """Sends commands, in order; after a loss the unanswered ones again, with the same bytes."""

    def __init__(self) -> None:
        self.awake = True
        self.unanswered: deque[Sent] = deque()
        self.connection = Connection(self)

    def send(self, sent: Sent) -> None:
        """Put a command on its way."""
        self.unanswered.append(sent)
        self.connection.commands.append(sent)

    def lose(self) -> Connection:
        """Give the connection up and ask everything that was not answered again on a new one."""
        lost, self.connection = self.connection, Connection(self)
        lost.client = None
        self.connection.commands.extend(self.unanswered)
        return lost

    def hear(self) -> None:
        """Take the next reply."""
        sent, reply = self.connection.replies.popleft()
        self.unanswered.remove(sent)
        self.heed(sent, reply)

    @abstractmethod
    def heed(self, sent: Sent, reply: Reply) -> None:
        """Do as the reply says."""


class Writer(Client):
    """Takes a turn, reads it, goes on with its story to the end, up to three appends ahead of the replies."""

    def __init__(self, world: Surroundings, turn: int, *, takes: bool = True) -> None:
        super().__init__()
        self.world = world
        self.turn = turn
        self.tag = f"{world.rng.getrandbits(64):016x}"
        self.memory: list[Written] = []
        self.next = 0
        self.known = 0
        self.state = "new" if takes else "writing"

    def act(self) -> None:
        """Send what is to be sent next, if anything is."""
        if self.state == "new":
            self.state = "taking"
            command = take(self.world.key, self.turn, self.tag, functions=self.world.functions)
            self.send(Sent(command, "take"))
        elif self.state == "writing" and len(self.unanswered) < IN_FLIGHT:
            self._write()

    def _write(self) -> None:
        if self.next == len(self.memory):
            if self.memory and self.memory[-1][0] == "end":
                return
            self._go_on()
        batch = self.memory[self.next : self.next + self.world.rng.randint(1, 3)]
        command = append(
            self.world.key, self.turn, self.next, self.tag, batch, functions=self.world.functions
        )
        self.send(Sent(command, "append", self.next, len(batch)))
        self.next += len(batch)

    def _go_on(self) -> None:
        rng = self.world.rng
        told = [payload[1] for kind, payload in self.memory if kind == "token"]
        previous = str(told[-1]) if told else ""
        for _ in range(rng.randint(1, 2)):
            piece = f"{rng.getrandbits(48):012x}"
            ends = rng.random() < self.world.end_rate
            self.memory.append(("end" if ends else "token", ("id", piece, "previous", previous)))
            if ends:
                return
            previous = piece

    def heed(self, sent: Sent, reply: Reply) -> None:
        """Obey the verdict."""
        if sent.about == "read":
            self.memory = [
                (entry.kind, tuple(word.decode() for word in entry.payload)) for entry in entries_of(reply)
            ]
            self.next = self.known = len(self.memory)
            self.state = "writing"
            if self.memory and self.memory[-1][0] in ("end", "closed"):
                self.world.over(self.turn)
                self.world.leave(self)
            return
        verdict, place = reply[0].decode(), reply[1]
        match verdict:
            case "OK" | "DUP" if sent.about == "take":
                self.state = "reading"
                turn = str(self.turn)
                self.send(Sent(["XRANGE", self.world.key, turn, turn], "read"))
            case "OK" | "DUP":
                self.known = max(self.known, place)
                self.world.acknowledged(self, sent.place, place)
                if place < sent.place + sent.count:
                    self.next = min(self.next, place)
                if self.known == len(self.memory) and self.memory[-1][0] == "end":
                    self.world.over(self.turn)
                    self.world.leave(self)
            case "GAP":
                self.next = self.known = min(self.next, place)
            case "BUSY" if sent.about == "take":
                self.state = "new"
            case "BUSY":
                self.next = min(self.next, sent.place)
            case "TAKEN":
                self.world.leave(self)
                self.world.taken(self)
            case _:
                self.world.over(self.turn)
                self.world.leave(self)


class Edge(Client):
    """Closes turns."""

    def __init__(self, world: Surroundings) -> None:
        super().__init__()
        self.world = world
        self.tag = "edge"

    def close(self, turn: int) -> None:
        """Close the turn."""
        command = close(self.world.key, turn, self.tag, functions=self.world.functions)
        self.send(Sent(command, "close", turn))

    def heed(self, sent: Sent, reply: Reply) -> None:
        """Note that the turn is over."""
        self.world.over(sent.place, closed=reply[0] in (b"OK", b"DUP"))
