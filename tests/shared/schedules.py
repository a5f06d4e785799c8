"""Random schedules of writers against the real Functions, each determined by its seed.

A schedule is one log with several writers that follow the rules, and everything that may go wrong between
them and the server: writers stop, wake and die; replies are lost; commands are executed long after their
sender gave up; the server restarts and has forgotten its tail. What is interleaved are single calls.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from itertools import islice

import hiredis

from shared.wire import Address
from tests.raw import Command, Raw, Reply
from tests.shared.calls import OURS, Functions
from tests.shared.clients import Client, Connection, Edge, Writer
from tests.shared.stories import Entry, Fault, check_log, check_standing, entries_of
from tests.shared.support import FORGET

STEPS = (50, 150)
AT_ONCE = 64
"""Schedules played side by side, to save round trips."""

PROMPT = 0.9
"""How often only those are served that still listen."""

PATIENCE = 400
"""Steps within which a turn must come to its end once nothing goes wrong any more."""

FAULTS = {"lose": 12, "stop": 4, "steal": 4, "kill": 2, "close": 1, "begin": 1, "restart": 1}
"""What may befall a schedule, and in how many of a hundred steps."""

Play = Generator[Command, Reply, None]


class World:
    """One schedule: the server's log, the clients, and what befalls them."""

    def __init__(self, seed: int, functions: Functions = OURS) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.functions = functions
        self.key = f"conv:{{{seed:016x}}}:text"
        self.turn = 1
        self.writers: list[Writer] = []
        self.holders: dict[int, Writer] = {}
        """Who has the claim of a turn. A writer that lost it goes on until the log stops it."""
        self.edge = Edge(self)
        self.lost: list[Connection] = []
        """Connections that no client listens to any more, with commands that may still be executed."""
        self.ended: set[int] = set()
        self.closed: set[int] = set()
        self.written: dict[Address, str] = {}
        """Pieces of the story that a writer knows to stand in the log."""
        self.log: list[Entry] = []
        self.end_rate = self.rng.choice((0.03, 0.1, 0.3))
        # Each schedule has its own mix of faults, so that some meet one kind without the others.
        kinds = [fault for fault in FAULTS if self.rng.random() < 0.5]
        self.faults = [fault for fault in kinds for _ in range(FAULTS[fault])]

    # ---- what the clients tell

    def acknowledged(self, writer: Writer, first: int, upto: int) -> None:
        """A writer was told that its entries of these places stand in the log."""
        for seq in range(first, upto):
            # Of places beyond its memory it was told too; it must not have been.
            kind, payload = writer.memory[seq] if seq < len(writer.memory) else ("token", ("", "nothing"))
            if kind in ("token", "end"):
                self.written[Address(writer.turn, seq)] = str(payload[1])

    def hold(self, turn: int, *, takes: bool = True) -> None:
        """Give the turn's claim to a new writer."""
        writer = self.holders[turn] = Writer(self, turn, takes=takes)
        self.writers.append(writer)

    def taken(self, writer: Writer) -> None:
        """A writer found that its turn was taken: if the claim is still its own, it takes the turn again."""
        if self.holders[writer.turn] is writer:
            self.hold(writer.turn)

    def over(self, turn: int, *, closed: bool = False) -> None:
        """A turn is known to be final."""
        self.ended.add(turn)
        if closed:
            self.closed.add(turn)

    def leave(self, writer: Writer) -> None:
        """The writer is gone, with all that it remembers. What it has in flight may still be executed."""
        self.writers.remove(writer)
        writer.connection.client = None
        self.lost.append(writer.connection)

    # ---- the schedule

    def play(self) -> Play:
        """The whole schedule; yields commands and is sent their replies."""
        self.hold(1, takes=self.rng.random() < 0.7)
        for _ in range(self.rng.randint(*STEPS)):
            yield from self._step()
        yield from self._come_to_rest()
        reply = yield ["XRANGE", self.key, "-", "+"]
        self.log = entries_of(reply)
        yield ["DEL", self.key]

    def _step(self) -> Play:
        rng = self.rng
        if rng.random() * 100 < len(self.faults):
            yield from self._befall(rng.choice(self.faults))
        awake = [writer for writer in self.writers if writer.awake]
        draw = rng.random()
        if draw < 0.02:
            for client in self._clients():
                client.awake = True
        elif draw < 0.4:
            if awake:
                rng.choice(awake).act()
        elif draw < 0.8:
            yield from self._serve(self._waiting())
        else:
            hearing = [client for client in (*awake, self.edge) if client.connection.replies]
            if hearing:
                rng.choice(hearing).hear()
        if self.turn in self.ended:
            if rng.random() < 0.05:
                yield from self._befall("begin")
        elif self.holders[self.turn] not in self.writers and rng.random() < 0.2:
            self.hold(self.turn)

    def _clients(self) -> list[Client]:
        return [*self.writers, self.edge]

    def _waiting(self) -> list[Connection]:
        self.lost = [connection for connection in self.lost if connection.commands]
        living = [client.connection for client in self._clients() if client.connection.commands]
        # What was given up should come late, not next.
        return living if living and self.rng.random() < PROMPT else [*living, *self.lost]

    def _serve(self, waiting: list[Connection]) -> Play:
        if waiting:
            connection = self.rng.choice(waiting)
            sent = connection.commands.popleft()
            reply = yield sent.command
            if isinstance(reply, hiredis.ReplyError):
                raise Fault(f"{sent.about}: {reply}")
            if connection.client is not None:
                connection.replies.append((sent, reply))

    def _befall(self, fault: str) -> Play:
        rng = self.rng
        match fault:
            case "lose":
                asking = [client for client in self._clients() if client.unanswered]
                if asking:
                    self.lost.append(rng.choice(asking).lose())
                    self._cut_short(self.lost[-1])
            case "stop":
                rng.choice(self._clients()).awake = False
            case "kill" if self.writers:
                killed = rng.choice(self.writers)
                self.leave(killed)
                self._cut_short(killed.connection)
            case "steal":
                self.hold(self.turn)
            case "close":
                self.edge.close(self.turn)
            case "begin":
                self.turn += 1
                self.hold(self.turn, takes=rng.random() < 0.7)
            case "restart":
                yield from self._restart()

    def _cut_short(self, connection: Connection) -> None:
        """What was sent may be executed at any time from now on, but only up to some place."""
        executed = self.rng.randint(0, len(connection.commands))
        connection.commands = deque(islice(connection.commands, executed))

    def _restart(self) -> Play:
        """The server dies, with all connections, and comes back without the last entries of the turn."""
        for client in self._clients():
            client.lose().commands.clear()
        self.lost.clear()
        entries = entries_of((yield ["XRANGE", self.key, "-", "+"]))
        turn = [entry for entry in entries if entry.address.turn == self.turn]
        if not turn:
            return
        kept = len(entries) - self.rng.randint(1, min(len(turn), 8))
        for entry in entries[kept:]:
            # It may be written again or not: that depends on who lives on.
            self.written.pop(entry.address, None)
        if kept:
            yield ["EVAL", FORGET, 1, self.key, str(entries[kept - 1].address)]
        else:
            yield ["DEL", self.key]
        self.ended.clear()
        self.closed.discard(self.turn)

    # ---- the end

    def _come_to_rest(self) -> Play:
        """Nothing goes wrong any more: every turn must come to its end."""
        for client in self._clients():
            client.awake = True
        for turn in range(1, self.turn + 1):
            for _ in range(PATIENCE):
                if turn in self.ended:
                    break
                if self.holders[turn] not in self.writers:
                    self.hold(turn)
                self.holders[turn].act()
                yield from self._serve(self._waiting())
                for client in self._clients():
                    while client.connection.client is client and client.connection.replies:
                        client.hear()
            else:
                raise Fault(f"turn {turn} does not come to its end")
        while waiting := self._waiting():
            yield from self._serve(waiting)

    def check(self) -> None:
        """Raises `Fault` if the log is not as the rules promise."""
        check_log(self.log)
        check_standing(self.log, self.written)
        if not self.closed <= {entry.address.turn for entry in self.log if entry.kind == "closed"}:
            raise Fault("a turn was closed and does not stand so in the log")


def faults(raw: Raw, seeds: Iterable[int], functions: Functions = OURS) -> Iterator[tuple[int, Fault]]:
    """Play the schedules of all seeds, and yield those that ended badly."""
    rest = iter(seeds)
    playing: list[tuple[World, Play, Command]] = []
    while True:
        for seed in islice(rest, AT_ONCE - len(playing)):
            world = World(seed, functions)
            play = world.play()
            playing.append((world, play, next(play)))
        if not playing:
            return
        going: list[tuple[World, Play, Command]] = []
        replies = raw.ask_all([command for _, _, command in playing])
        for (world, play, _), reply in zip(playing, replies, strict=True):
            try:
                going.append((world, play, play.send(reply)))
            except StopIteration:
                try:
                    world.check()
                except Fault as fault:
                    yield world.seed, fault
            except Fault as fault:
                yield world.seed, fault
        playing = going
