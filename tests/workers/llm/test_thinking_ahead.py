"""What is thought of ahead reaches the log if the utterance has ended, at once, and never if it has not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.keys import Role, log_key, work_key, worker_key
from shared.log import LogWriter, close_turn
from shared.reader import Reader
from shared.store import Store
from shared.wire import Chunk, Closed, Log, Open, Pause, Payload, ReplyEnd, Semantic, Token, UtteranceEnd
from shared.work import offer
from tests.conftest import eventually
from tests.workers.conftest import Desk, Running
from tests.workers.llm.hearing import Hearing, Worker, answer_to
from workers import attempt
from workers.llm.handler import ReplyHandler
from workers.llm.thinking import MOST_WASTED
from workers.turn import Turn

Hire = Callable[..., Worker]

ONE, TWO, THREE = (bytes([number]) * 640 for number in (1, 2, 3))


class Speaker:
    """The user of a conversation's first turn, as the edge writes it down."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.said = b""
        self._audio = desk.writer(Log.AUDIO, 1)

    async def begin(self, settings: Open | None = None) -> None:
        await self.desk.hold()
        await self._audio.append(settings or Open())

    async def say(self, pcm: bytes) -> None:
        place = len(self.said) // 2
        self.said += pcm
        await self._audio.append(Chunk(place, pcm))

    async def pause(self) -> None:
        await self._audio.append(Pause(len(self.said) // 2))

    async def end(self) -> None:
        await self._audio.append(UtteranceEnd("silence", len(self.said) // 2))

    async def leave(self) -> None:
        """The edge closes the turn."""
        keys = [log_key(self.desk.conversation, log) for log in Log]
        await close_turn(self.desk.store, keys, 1, self.desk.tag, Closed("bye"), ttl_s=60)

    async def reply(self) -> list[Payload]:
        """What stands in `text`."""
        return [entry.payload for entry in await self.desk.read(Log.TEXT, 1)]

    async def kinds(self) -> set[str]:
        return {payload.kind for payload in await self.reply()}

    async def answered(self) -> None:
        """Wait for the end of the reply, which must be the answer to all that was said."""
        await eventually(lambda: self.desk.ended(Log.TEXT, 1), "the reply")
        reply = await self.reply()
        expected = answer_to(self.said)
        assert [payload.text for payload in reply if isinstance(payload, Token)] == expected
        assert "".join(each.text for each in reply if isinstance(each, Semantic)) == "".join(expected)
        end = reply[-1]
        assert isinstance(end, ReplyEnd) and (end.reason, end.tokens) == ("stop", len(expected))


@pytest.fixture(autouse=True)
def again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed attempt is followed by the next one without a pause."""
    monkeypatch.setattr(attempt, "AGAIN_S", 0.0)


@pytest.fixture
def engine() -> Hearing:
    return Hearing()


@pytest.fixture
async def speaker(desk: Desk) -> Speaker:
    return Speaker(desk)


@pytest.fixture
async def hire(store: Store, reader: Reader, desk: Desk, engine: Hearing) -> AsyncIterator[Hire]:
    """Makes workers of the first turn; at the end none may have left a stream of the engine open."""
    hired: list[Worker] = []

    def one(begins: str | None = "claim", of: Hearing = engine, *, think_ahead: bool = True) -> Worker:
        hired.append(Worker(store, reader, desk, of, think_ahead=think_ahead))
        if begins is not None:
            hired[-1].begin(begins)
        return hired[-1]

    yield one
    for worker in hired:
        await worker.leave()
        assert worker.engine.open == 0


async def thought_of(engine: Hearing, pcm: bytes) -> None:
    """Wait until the engine has an answer to this, whole and in memory."""
    expected = engine.said + len(answer_to(pcm))
    await eventually(lambda: engine.heard[-1:] == [pcm] and engine.said >= expected, "it is thought of ahead")


async def test_nothing_is_written_before_the_end_and_then_all_that_is_there(
    speaker: Speaker, engine: Hearing, hire: Hire
) -> None:
    await speaker.begin()
    worker = hire()
    await speaker.say(ONE)
    await speaker.pause()
    await thought_of(engine, ONE)
    assert await speaker.kinds() == {"take"}
    assert worker.attempts.turn is not None and not worker.attempts.computing
    await speaker.end()
    await speaker.answered()
    await worker.done()
    assert (engine.begun, worker.counts) == (1, (1, 0))


async def test_what_is_there_at_the_end_takes_two_appends_of_which_the_first_brings_the_first_chunk(
    speaker: Speaker, engine: Hearing, hire: Hire, monkeypatch: pytest.MonkeyPatch
) -> None:
    appends: list[list[str]] = []
    append = LogWriter.append

    async def noted(writer: LogWriter, *payloads: Payload) -> object:
        if not isinstance(payloads[0], (Open, Chunk, Pause, UtteranceEnd)):
            appends.append([payload.kind for payload in payloads])
        return await append(writer, *payloads)

    monkeypatch.setattr(LogWriter, "append", noted)
    await speaker.begin()
    worker = hire()
    await speaker.say(ONE)
    await speaker.pause()
    await thought_of(engine, ONE)
    await speaker.end()
    await worker.done()
    first, rest = appends
    assert first == ["token"] * 3 + ["semantic"]
    assert rest == ["token"] * 5 + ["semantic", "end"]


async def test_an_answer_that_is_still_being_thought_of_goes_on_live_and_each_token_is_a_step(
    speaker: Speaker, engine: Hearing, hire: Hire, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    step = Turn.step

    def noted(turn: Turn, computing: bool = True) -> None:
        if computing:
            steps.append(engine.said)
        step(turn, computing)

    monkeypatch.setattr(Turn, "step", noted)
    engine.go.clear()
    await speaker.begin()
    worker = hire()
    await speaker.say(ONE)
    await speaker.pause()
    await eventually(lambda: engine.heard == [ONE], "it is thought of ahead")
    await speaker.end()
    await eventually(lambda: worker.attempts.computing, "from the end on the engine is due")
    assert await speaker.kinds() == {"take"}
    engine.go.set()
    await speaker.answered()
    assert (engine.begun, worker.counts) == (1, (1, 0))
    assert steps[0] == 0 and steps[-1] == engine.said


async def test_the_user_goes_on_and_all_of_it_is_answered(
    speaker: Speaker, engine: Hearing, hire: Hire
) -> None:
    await speaker.begin()
    worker = hire()
    await speaker.say(ONE)
    await speaker.pause()
    await thought_of(engine, ONE)
    await speaker.say(TWO)
    await eventually(lambda: engine.listening == ONE + TWO, "it is heard again and on")
    assert await speaker.kinds() == {"take"}
    await speaker.pause()
    await thought_of(engine, ONE + TWO)
    await speaker.say(THREE)
    await speaker.end()
    await speaker.answered()
    assert engine.heard == [ONE, ONE + TWO, ONE + TWO + THREE]
    assert (engine.begun, worker.counts) == (3, (2, 2))


@pytest.mark.parametrize("why", ["the setting", "the engine"])
async def test_a_pause_is_nothing_where_nobody_thinks_ahead(
    why: str, speaker: Speaker, engine: Hearing, hire: Hire
) -> None:
    engine.spare = why != "the engine"
    await speaker.begin()
    worker = hire(think_ahead=why != "the setting")
    await speaker.say(ONE)
    await speaker.pause()
    await speaker.say(TWO)
    await speaker.pause()
    await eventually(lambda: engine.listening == ONE + TWO, "it is heard")
    await speaker.end()
    await speaker.answered()
    assert engine.heard == [ONE + TWO]
    assert (engine.begun, worker.counts) == (1, (0, 0))


async def test_of_a_user_who_stops_all_the_time_few_answers_are_begun(
    speaker: Speaker, engine: Hearing, hire: Hire
) -> None:
    await speaker.begin()
    worker = hire()
    for number in range(MOST_WASTED + 2):
        await speaker.say(bytes([number]) * 640)
        await speaker.pause()
        started = min(number + 1, MOST_WASTED)
        await eventually(
            lambda: worker.counts[0] == started and engine.listening == speaker.said,  # noqa: B023
            "the pause is heard",
        )
    await speaker.end()
    await speaker.answered()
    assert worker.counts == (MOST_WASTED, MOST_WASTED)


async def test_a_turn_that_is_closed_at_a_pause_closes_the_engine_too(
    speaker: Speaker, engine: Hearing, hire: Hire
) -> None:
    engine.go.clear()
    await speaker.begin()
    worker = hire()
    await speaker.say(ONE)
    await speaker.pause()
    await eventually(lambda: engine.heard == [ONE], "it is thought of ahead")
    await speaker.leave()
    await worker.done()
    assert engine.open == 0
    assert await speaker.kinds() == {"take", "closed"}
    assert worker.counts == (1, 1)


async def test_who_takes_a_turn_over_in_a_pause_thinks_ahead_in_that_one_only(
    speaker: Speaker, engine: Hearing, hire: Hire
) -> None:
    await speaker.begin()
    first = hire()
    await speaker.say(ONE)
    await speaker.pause()
    await speaker.say(TWO)
    await speaker.pause()
    await thought_of(engine, ONE + TWO)
    await first.leave()
    assert (engine.open, first.counts[0] - first.counts[1]) == (0, 0)
    other = Hearing()
    second = hire("retry", other)
    await thought_of(other, ONE + TWO)
    assert await speaker.kinds() == {"take"}
    await speaker.end()
    await speaker.answered()
    assert other.heard == [ONE + TWO]
    assert second.counts == (1, 0)


async def test_who_takes_a_turn_over_behind_its_first_tokens_begins_nothing_ahead(
    speaker: Speaker, engine: Hearing, hire: Hire
) -> None:
    await speaker.begin()
    await speaker.say(ONE)
    await speaker.pause()
    await speaker.say(TWO)
    await speaker.pause()
    await speaker.end()
    dead = speaker.desk.writer(Log.TEXT, 1, "dead")
    await dead.take("claim", "dead")
    texts = answer_to(ONE + TWO)
    await dead.append(*(Token(text, (place,)) for place, text in enumerate(texts[:2])))
    worker = hire("retry")
    await speaker.answered()
    assert (engine.begun, engine.said, worker.counts) == (1, len(texts) - 2, (0, 0))


async def test_whoever_lost_the_turn_between_its_end_and_the_first_token_writes_nothing(
    speaker: Speaker, engine: Hearing, hire: Hire
) -> None:
    engine.go.clear()
    await speaker.begin()
    first = hire()
    await speaker.say(ONE)
    await speaker.pause()
    await eventually(lambda: engine.heard == [ONE], "it is thought of ahead")
    await speaker.end()
    await eventually(lambda: first.attempts.computing, "the end is heard")
    first.owner = False
    second = hire("retry", Hearing())
    await speaker.answered()
    engine.go.set()
    await asyncio.gather(first.done(), second.done())
    await speaker.answered()
    writers = {e.writer for e in await speaker.desk.read(Log.TEXT, 1) if e.payload.kind != "take"}
    assert writers == {second.attempts.turn and second.attempts.turn.writer.tag}


async def test_an_error_in_an_answer_that_is_thrown_away_is_forgotten(
    speaker: Speaker, engine: Hearing, hire: Hire
) -> None:
    engine.failures = {0: 0}
    await speaker.begin()
    worker = hire()
    await speaker.say(ONE)
    await speaker.pause()
    await eventually(lambda: engine.begun == 1 and engine.open == 0, "it has failed")
    await speaker.say(TWO)
    await speaker.end()
    await speaker.answered()
    assert (worker.made, worker.counts) == (1, (1, 1))


@pytest.mark.parametrize("place", [0, 4])
async def test_an_error_in_the_answer_that_stands_is_followed_by_another_attempt(
    place: int, speaker: Speaker, engine: Hearing, hire: Hire
) -> None:
    engine.failures = {0: place}
    await speaker.begin()
    worker = hire()
    await speaker.say(ONE)
    await speaker.pause()
    await eventually(lambda: engine.begun == 1 and engine.open == 0, "it has failed")
    assert await speaker.kinds() == {"take"}
    await speaker.end()
    await speaker.answered()
    assert (worker.made, engine.begun, worker.counts) == (2, 2, (1, 0))


async def test_an_engine_that_fails_while_it_listens_is_asked_again_before_the_end(
    speaker: Speaker, engine: Hearing, hire: Hire
) -> None:
    engine.failures = {0: -1}
    await speaker.begin()
    worker = hire()
    await speaker.say(ONE)
    await eventually(lambda: engine.begun == 1 and engine.open == 0, "it has failed")
    await speaker.say(TWO)
    await eventually(lambda: engine.listening == ONE + TWO, "all is heard by the next attempt")
    await speaker.end()
    await speaker.answered()
    assert worker.made == 2


async def test_a_typed_turn_is_no_matter_of_thinking_ahead(
    speaker: Speaker, engine: Hearing, hire: Hire
) -> None:
    await speaker.begin(Open(text="hello"))
    await speaker.end()
    worker = hire()
    await speaker.answered()
    assert (engine.begun, worker.counts) == (1, (0, 0))


async def test_a_stage_that_drains_hands_a_turn_back_that_is_thought_of_ahead_and_tells_the_counts(
    store: Store, speaker: Speaker, engine: Hearing, running: Running
) -> None:
    async def announced(**counts: int) -> bool:
        said = json.loads(await store.call("GET", worker_key("test")) or b"{}")
        return {name: said.get(name) for name in counts} == counts

    engine.go.clear()
    async with running(ReplyHandler(engine, ""), DRAIN_S="3600") as stage:
        await speaker.begin()
        await offer(store, [Role.REPLY], speaker.desk.conversation, 1)
        await speaker.say(ONE)
        await speaker.pause()
        await eventually(lambda: engine.heard == [ONE], "it is thought of ahead")
        await eventually(lambda: announced(computing=0, started_ahead=1, wasted_starts=0), "it is announced")
        stage.drain()
    assert engine.open == 0
    ((_, fields),) = await store.call("XRANGE", work_key(Role.REPLY), "-", "+")
    assert fields[fields.index(b"cause") + 1] == b"handback"


# ---- whatever happens


say = st.tuples(st.just("say"), st.integers(1, 250))
pace = st.tuples(st.just("pace"), st.integers(1, 8))
"""So many round trips to Redis pass."""
STEPS = st.lists(
    st.one_of(
        say,
        st.tuples(st.just("pause"), st.integers(0, 8)),
        pace,
        st.tuples(st.just("die"), st.just(0)),
        st.tuples(st.just("zombie"), st.just(0)),
    ),
    max_size=14,
)


@settings(max_examples=60)
@given(
    steps=STEPS,
    failures=st.dictionaries(st.integers(0, 5), st.integers(-1, 7), max_size=2),
    end=st.sampled_from(["end", "pause and end", "leave"]),
    room=st.booleans(),
)
def test_whatever_happens_the_answer_is_the_one_to_the_whole_utterance(
    server_url: str,
    steps: list[tuple[str, int]],
    failures: dict[int, int],
    end: str,
    room: bool,
) -> None:
    asyncio.run(_play(server_url, steps, failures, end, room))


async def _play(
    url: str, steps: list[tuple[str, int]], failures: dict[int, int], end: str, room: bool
) -> None:
    async with _redis(url) as (store, reader):
        speaker, engine = Speaker(Desk(store)), Hearing()
        engine.failures, engine.spare = failures, room
        workers = [Worker(store, reader, speaker.desk, engine)]
        await speaker.begin()
        workers[0].begin()
        spoke = False  # a pause stands behind something that was said
        pauses = 0
        for step, number in steps:
            match step:
                case "say":
                    await speaker.say(bytes([number]) * 640)
                    spoke = True
                case "pause" if spoke:
                    await speaker.pause()
                    await _round_trips(store, number)
                    spoke, pauses = False, pauses + 1
                case "pace":
                    await _round_trips(store, number)
                case "die" | "zombie" if len(workers) < 4:
                    workers[-1].owner = False
                    if step == "die":
                        await workers[-1].leave()
                    workers.append(Worker(store, reader, speaker.desk, engine))
                    workers[-1].begin("claim")
        if end == "leave":
            await speaker.leave()
        else:
            if end == "pause and end" and spoke:
                await speaker.pause()
                pauses += 1
            assert await speaker.kinds() <= {"take"}
            await speaker.end()
            await speaker.answered()
        await asyncio.gather(*(worker.done() for worker in workers if not worker.left))
        if end == "leave":
            assert await speaker.kinds() <= {"take", "closed"}
        assert engine.open == 0
        for worker in workers:
            started, wasted = worker.counts
            assert 0 <= wasted <= started <= pauses * worker.made
            assert started - wasted <= (worker.made if end != "leave" else 0)
        started = sum(worker.counts[0] for worker in workers)
        assert engine.begun <= sum(worker.made for worker in workers) + started
        assert room or not started


@asynccontextmanager
async def _redis(url: str) -> AsyncIterator[tuple[Store, Reader]]:
    store = Store(url)
    reader = Reader(store)
    await store.load()
    running = asyncio.create_task(reader.run())
    try:
        yield store, reader
    finally:
        running.cancel()
        await asyncio.wait([running])
        await store.close()


async def _round_trips(store: Store, count: int) -> None:
    for _ in range(count):
        await store.call("PING")
