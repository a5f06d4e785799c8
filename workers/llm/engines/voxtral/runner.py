"""The one thread that computes, and how turns on an event loop talk with it.

    turn: open, feed, start, drop ─> queue ─> thread: commands, then a step of the batch, again and again
    turn: its tokens <─ one call into the loop for all tokens of a step <─┘

Owns the thread and who is told what. What stands in prompts and replies it does not look at. A loop never
waits for the thread, and the thread never for a loop.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from queue import SimpleQueue

from shared.errors import EngineError
from workers.llm.engines.voxtral.batch import Batch
from workers.llm.engines.voxtral.pieces import Piece
from workers.llm.engines.voxtral.rows import Event, Failed, Finished, Row, Sampled
from workers.llm.engines.voxtral.sampling import Sampling

log = logging.getLogger(__name__)

Command = Callable[[], None]


class Runner:
    """A batch in a thread of its own."""

    def __init__(self, make: Callable[[], Batch]) -> None:
        """Blocks until `make` has made the batch in the new thread, and raises what it raises."""
        self._commands: SimpleQueue[Command | None] = SimpleQueue()
        self._turns: dict[Row, Turn] = {}
        self.spare = False
        """Whether a row may start that is perhaps dropped (`Batch.spare`): as it was after the last step."""
        made: Future[Batch] = Future()
        self._thread = threading.Thread(target=self._run, args=(make, made), name="voxtral", daemon=True)
        self._thread.start()
        self._batch = made.result()
        # A daemon that is in the middle of a step while the interpreter goes would take the process down.
        atexit.register(self.close)

    def open(self, sampling: Sampling, max_new: int, script: tuple[int, ...] | None) -> Turn:
        """A turn of the running loop, to be dropped in the end. Raises `EngineError` once closed."""
        if not self._thread.is_alive():
            raise EngineError("Voxtral was closed", retryable=True)
        turn = Turn(self, asyncio.get_running_loop())
        self._commands.put(lambda: self._open(turn, sampling, max_new, script))
        return turn

    def close(self) -> None:
        """End the thread, after the step it is in; turns that still wait fail. May be called again."""
        atexit.unregister(self.close)
        self._commands.put(None)
        self._thread.join()

    def tell(self, command: Command) -> None:
        """Have the thread do something between two steps."""
        self._commands.put(command)

    # -- In the thread.

    def _run(self, make: Callable[[], Batch], made: Future[Batch]) -> None:
        try:
            batch = make()
        except BaseException as error:
            made.set_exception(error)
            return
        self._batch = batch
        self.spare = batch.spare
        made.set_result(batch)
        going = True
        while going:
            try:
                going = self._obey(wait=batch.idle)
                self._deliver(batch.step())
            except Exception as error:  # those that are here now are lost; those that come need not be
                log.exception("the batch failed")
                self._fail_all(EngineError(f"Voxtral failed: {error}", retryable=True))
            self.spare = batch.spare
        self._fail_all(EngineError("Voxtral was closed", retryable=True))

    def _obey(self, *, wait: bool) -> bool:
        """Do what was asked for; False to end. Whoever waits, waits for a first command."""
        while wait or not self._commands.empty():
            command = self._commands.get()
            if command is None:
                return False
            command()
            wait = False
        return True

    def _open(self, turn: Turn, sampling: Sampling, max_new: int, script: tuple[int, ...] | None) -> None:
        turn.row = self._batch.open(sampling, max_new, script)
        self._turns[turn.row] = turn

    def feed(self, turn: Turn, pieces: Iterable[Piece]) -> None:
        """In the thread: append to the prompt."""
        if turn.row is not None:
            for piece in pieces:
                self._batch.feed(turn.row, piece)

    def start(self, turn: Turn, position: int) -> None:
        """In the thread: the prompt is whole."""
        if turn.row is not None:
            self._batch.start(turn.row, position)

    def drop(self, turn: Turn) -> None:
        """In the thread: the turn is over, whatever it waits for."""
        if turn.row is not None:
            self._batch.drop(turn.row)
            self._turns.pop(turn.row, None)
            turn.row = None

    def _deliver(self, events: Iterable[Event]) -> None:
        self._tell((turn, event) for event in events if (turn := self._turns.get(event.row)) is not None)

    def _fail_all(self, error: EngineError) -> None:
        turns = dict(self._turns)
        for turn in turns.values():
            self.drop(turn)
        self._tell((turn, Failed(row, error)) for row, turn in turns.items())

    def _tell(self, news: Iterable[tuple[Turn, Event]]) -> None:
        """Tell the turns, with one call into each loop."""
        calls: dict[asyncio.AbstractEventLoop, list[tuple[Turn, Event]]] = {}
        for turn, event in news:
            calls.setdefault(turn.loop, []).append((turn, event))
        for loop, told in calls.items():
            try:
                loop.call_soon_threadsafe(_hear_all, told)
            except RuntimeError:  # the loop is closed, and nobody is left to drop its turns
                for turn, _ in told:
                    self.drop(turn)


class Turn:
    """One turn as its event loop sees it: feed what there is, start, then its tokens; drop it in the end."""

    def __init__(self, runner: Runner, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.row: Row | None = None
        """The thread's alone."""
        self._runner = runner
        self._events: deque[Event] = deque()
        self._told = asyncio.Event()

    def feed(self, pieces: Iterable[Piece]) -> None:
        """Append to the prompt. Raises `EngineError` if the turn has failed already."""
        self._raise_failure()
        pieces = tuple(pieces)
        self._runner.tell(lambda: self._runner.feed(self, pieces))

    def start(self, position: int) -> None:
        """The prompt is whole: the reply goes on from `position`."""
        self._runner.tell(lambda: self._runner.start(self, position))

    def drop(self) -> None:
        """Be over, before the next step."""
        self._runner.tell(lambda: self._runner.drop(self))

    async def token(self) -> int | None:
        """The next token of the reply; None at its end. Raises `EngineError`."""
        while not self._events:
            self._told.clear()
            await self._told.wait()
        match self._events.popleft():
            case Sampled(_, token):
                return token
            case Finished():
                return None
            case Failed(_, error):
                raise error

    def hear(self, event: Event) -> None:
        """In the loop: something happened."""
        self._events.append(event)
        self._told.set()

    def _raise_failure(self) -> None:
        for event in self._events:
            if isinstance(event, Failed):
                raise event.error


def _hear_all(told: Iterable[tuple[Turn, Event]]) -> None:
    for turn, event in told:
        turn.hear(event)
