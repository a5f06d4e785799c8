"""Random schedules of writers against the real Functions, each determined by its seed.

A schedule is one log with several writers that follow the rules, and everything that may go wrong between
them and the server: writers stop, wake and die; replies are lost; commands are executed long after their
sender gave up; the server restarts and has forgotten its tail. What is interleaved are single calls.

Each entry of a story carries its own id and the id of the entry that its writer took for the one before, so
that a splice shows: in one story every entry names its predecessor.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import hiredis

from shared.wire import Address
from tests.raw import Command, Raw, Reply
from tests.shared.calls import OURS, Functions, Written, append, close, take

IN_FLIGHT = 3
STEPS = (50, 150)
AT_ONCE = 64
"""Schedules played side by side, to save round trips."""

PROMPT = 0.9
"""How often only those are served that still listen."""

PATIENCE = 400
"""Steps within which a turn must come to its end once nothing goes wrong any more."""

FAULTS = {"lose": 12, "stop": 4, "steal": 4, "kill": 2, "close": 1, "begin": 1, "restart": 1}
"""What may befall a schedule, and in how many of a hundred steps."""

FORGET = """
local kept = redis.call('XRANGE', KEYS[1], '-', ARGV[1])
redis.call('DEL', KEYS[1])
for _, entry in ipairs(kept) do
  redis.call('XADD', KEYS[1], entry[1], unpack(entry[2]))
end
"""

Play = Generator[Command, Reply, None]


class Fault(AssertionError):
    """Raised when a schedule ended in a log that is not as the rules promise."""


class Entry(NamedTuple):
    """An entry as it stands in the log; `story` and `previous` are empty in what is not of the story."""

    address: Address
    writer: str
    kind: str
    payload: tuple[bytes, ...]
    total: int

    @property
    def story(self) -> str:
        """The id of this piece of the story."""
        return self.payload[1].decode() if self.kind in ("token", "end") else ""

    @property
    def previous(self) -> str:
        """The id of the piece that its writer took for the one before."""
        return self.payload[3].decode()


def entries_of(reply: Reply) -> list[Entry]:
    """The entries in a reply of `XRANGE`."""
    return [
        Entry(Address.parse(address), flat[1].decode(), flat[3].decode(), (*flat[8:],), int(flat[7]))
        for address, flat in reply
    ]


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


class Client:
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

    def heed(self, sent: Sent, reply: Reply) -> None:
        """Do as the reply says."""
        raise NotImplementedError


class Writer(Client):
    """Takes a turn, reads it, goes on with its story to the end, up to three appends ahead of the replies."""

    def __init__(self, world: World, turn: int, *, takes: bool = True) -> None:
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
        """Obey the verdict, as `log.md` has it in its table."""
        if sent.about == "read":
            self.memory = [
                (entry.kind, tuple(word.decode() for word in entry.payload)) for entry in entries_of(reply)
            ]
            self.next = self.known = len(self.memory)
            self.state = "writing"
            if self.memory and self.memory[-1][0] in ("end", "closed"):
                self._leave(ended=True)
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
                    self._leave(ended=True)
            case "GAP":
                self.next = self.known = min(self.next, place)
            case "BUSY" if sent.about == "take":
                self.state = "new"
            case "BUSY":
                self.next = min(self.next, sent.place)
            case "TAKEN":
                self._leave(ended=False)
                if self.world.holders[self.turn] is self:
                    self.world.hold(self.turn)
            case _:
                self._leave(ended=True)

    def _leave(self, *, ended: bool) -> None:
        if ended:
            self.world.ended.add(self.turn)
        # What it has in flight may still be executed; nobody waits for it.
        self.world.lost.append(self.world.leave(self))


class Edge(Client):
    """Closes turns."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.tag = "edge"

    def close(self, turn: int) -> None:
        """Close the turn."""
        command = close(self.world.key, turn, self.tag, functions=self.world.functions)
        self.send(Sent(command, "close", turn))

    def heed(self, sent: Sent, reply: Reply) -> None:
        """Note that the turn is over."""
        self.world.ended.add(sent.place)
        if reply[0] in (b"OK", b"DUP"):
            self.world.closed.add(sent.place)


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
        self.forgotten: set[Address] = set()
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

    def leave(self, writer: Writer) -> Connection:
        """The writer is gone, with all that it remembers."""
        self.writers.remove(writer)
        writer.connection.client = None
        return writer.connection

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
                    self._late(rng.choice(asking).lose())
            case "stop":
                rng.choice(self._clients()).awake = False
            case "kill" if self.writers:
                self._late(self.leave(rng.choice(self.writers)))
            case "steal":
                self.hold(self.turn)
            case "close":
                self.edge.close(self.turn)
            case "begin":
                self.turn += 1
                self.hold(self.turn, takes=rng.random() < 0.7)
            case "restart":
                yield from self._restart()

    def _late(self, connection: Connection) -> None:
        """What was sent may be executed at any time from now on, up to some place, or never."""
        executed = self.rng.randint(0, len(connection.commands))
        connection.commands = deque(islice(connection.commands, executed))
        self.lost.append(connection)

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
        self.forgotten.update(entry.address for entry in entries[kept:])
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
        """Raises `Fault` if the log is not one story a turn, whole, with all that was acknowledged."""
        last: Entry | None = None
        told = ""
        total = 0
        for entry in self.log:
            begins = last is None or entry.address.turn > last.address.turn
            if begins:
                told, total = "", 0
            self._check_place(last, entry)
            if entry.story:
                if entry.previous != told:
                    raise Fault(f"two stories are spliced at {entry.address}")
                told = entry.story
            # What was written by `append` counts; a `take` does so only if it was written again after a loss.
            size = sum(map(len, entry.payload[1::2]))
            if entry.total - total != size and (entry.story or entry.total != total):
                raise Fault(f"{entry.address} counts {entry.total} bytes after {total}")
            last, total = entry, entry.total
        standing = {entry.address: entry.story for entry in self.log}
        for address, piece in self.written.items():
            if address not in self.forgotten and standing.get(address) != piece:
                raise Fault(f"{address} was acknowledged and does not stand in the log")
        ended = {entry.address.turn for entry in self.log if entry.kind == "closed"}
        if not self.closed <= ended:
            raise Fault("a turn was closed and does not stand so in the log")

    def _check_place(self, last: Entry | None, entry: Entry) -> None:
        turn, seq = entry.address
        if last is None or turn != last.address.turn:
            if last is not None and last.kind not in ("end", "closed"):
                raise Fault(f"{entry.address} stands after {last.address}, which is not final")
            if seq != 0:
                raise Fault(f"turn {turn} begins with {entry.address}")
        elif seq != last.address.seq + 1:
            raise Fault(f"{entry.address} stands after {last.address}: a hole")
        elif last.kind == "closed" or (last.kind == "end" and entry.kind != "closed"):
            raise Fault(f"{entry.kind} stands after {last.kind} at {entry.address}")


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
