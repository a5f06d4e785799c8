"""A log holds an entry that no worker can read: its turn ends by an error, and the worker goes on."""

from __future__ import annotations

import pytest

from shared.keys import Role, log_key
from shared.settings import Settings
from shared.store import Store
from shared.wire import Closed, Log, ReplyEnd, new_tag
from shared.work import WorkQueue
from tests.conftest import eventually
from tests.shared.support import spoil
from tests.workers.conftest import Desk, Running, nothing_is_pending
from workers.llm.engines.scripted import Scripted
from workers.llm.handler import ReplyHandler


async def left_by_the_dead(store: Store, desk: Desk) -> None:
    """A turn that a worker has taken which is dead by now."""
    await desk.ask(1, None, Role.REPLY)
    dead = WorkQueue(store, Role.REPLY, "dead", lease_s=0.4)
    await dead.pending(1)
    (claim,) = await dead.wait(1)
    assert claim.conversation == desk.conversation
    await dead.close()
    await desk.writer(Log.TEXT, 1, new_tag()).take("claim")


@pytest.mark.parametrize("retried", [False, True], ids=["new", "left by a worker that died"])
async def test_a_turn_whose_reply_cannot_be_read_fails_at_once(
    retried: bool, store: Store, desk: Desk, settings: Settings, running: Running
) -> None:
    await left_by_the_dead(store, desk)
    if retried:
        await desk.writer(Log.TEXT, 1, new_tag()).take("retry")
    await spoil(store, log_key(desk.conversation, Log.TEXT))
    other = Desk(store)
    async with running(ReplyHandler(Scripted(settings), "a test")):
        await other.ask(1, None, Role.REPLY)

        async def ended() -> bool:
            speech = await desk.read(Log.SPEECH, 1)
            return bool(speech) and speech[-1].final

        await eventually(ended, "the turn has failed")
        await eventually(lambda: other.ended(Log.TEXT, 1), "the other one is answered")
        await eventually(lambda: nothing_is_pending(store), "nothing is left")
    (closed,) = [entry.payload for entry in await desk.read(Log.SPEECH, 1)]
    assert isinstance(closed, Closed)
    assert (closed.reason, closed.code, closed.retryable) == ("failed", "engine_failed", True)


async def test_what_stands_behind_a_whole_utterance_keeps_nobody_from_answering_it(
    store: Store, desk: Desk, settings: Settings, running: Running
) -> None:
    await left_by_the_dead(store, desk)
    await spoil(store, log_key(desk.conversation, Log.AUDIO))
    async with running(ReplyHandler(Scripted(settings), "a test")):
        await eventually(lambda: desk.ended(Log.TEXT, 1), "the turn is answered")
        await eventually(lambda: nothing_is_pending(store), "nothing is left")
    assert isinstance((await desk.read(Log.TEXT, 1))[-1].payload, ReplyEnd)
