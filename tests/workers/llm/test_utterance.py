"""An utterance is heard from its start, by whoever comes, to where it ends or seems to."""

from __future__ import annotations

import asyncio

from tests.conftest import eventually
from workers.llm.utterance import PIECES_AT_ONCE, Utterance


class Listener:
    """Hears an utterance in a task."""

    def __init__(self, utterance: Utterance) -> None:
        self.heard: list[bytes] = []
        self.task = asyncio.create_task(self._listen(utterance))

    async def _listen(self, utterance: Utterance) -> None:
        async for pcm in utterance.listen():
            self.heard.append(pcm)


async def test_pieces_are_heard_from_the_first_on_and_then_as_they_come() -> None:
    utterance = Utterance()
    utterance.add(b"one")
    utterance.add(b"two")
    listener = Listener(utterance)
    await eventually(lambda: listener.heard == [b"one", b"two"], "what was there")
    utterance.add(b"three")
    await eventually(lambda: listener.heard[2:] == [b"three"], "what came")
    assert not listener.task.done()
    utterance.end()
    await listener.task
    assert len(listener.heard) == 3


async def test_what_came_with_the_end_is_heard() -> None:
    utterance = Utterance()
    listener = Listener(utterance)
    await asyncio.sleep(0)
    utterance.add(b"one")
    utterance.end()
    await listener.task
    assert listener.heard == [b"one"]


async def test_who_comes_after_a_seeming_end_hears_all_of_it() -> None:
    utterance = Utterance()
    utterance.add(b"one")
    utterance.end()
    first = Listener(utterance)
    await first.task
    utterance.go_on()
    second = Listener(utterance)
    utterance.add(b"two")
    await eventually(lambda: second.heard == [b"one", b"two"], "all of it")
    assert not second.task.done()
    utterance.end()
    await second.task
    assert first.heard == [b"one"]


async def test_others_of_the_loop_go_on_while_much_is_heard_again() -> None:
    utterance = Utterance()
    for _ in range(3 * PIECES_AT_ONCE):
        utterance.add(b"x")
    utterance.end()
    listener = Listener(utterance)
    turns = 0
    while not listener.task.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 3
    assert len(listener.heard) == 3 * PIECES_AT_ONCE
