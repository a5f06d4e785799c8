"""The page's outbox in a real browser: what it makes of messages that cross."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.conftest import eventually
from tests.pipeline.browser import CHROMIUM, Visitor, visit
from tests.pipeline.conftest import Stacks
from tests.stack import get

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")

# An outbox that listens hands-free, and what it has to send by now.
LISTENING = """
    const { Outbox } = await import("/outbox.js");
    const outbox = new Outbox({});
    const sent = () => {
        const types = [];
        for (let message; (message = outbox.next()); ) types.push(message.type);
        return types;
    };
    const number = (turn) => turn.number;
    const numbers = (...turns) => [turns.map(number), outbox.takeFound().map(number)];
    outbox.configure({ turn_detection: "server_vad" });
    outbox.stream(new Int16Array(640));
    sent();
    outbox.hear({ type: "configured" });
"""


@pytest.fixture
async def page(stacks: Stacks) -> AsyncIterator[Visitor]:
    """The page of an edge."""
    edge = stacks().start("edge")
    url = f"http://127.0.0.1:{edge.env['PORT']}/"
    await eventually(lambda: get(url)[0] == 200, "the page is served")
    async with visit(url) as visitor:
        yield visitor


async def made(page: Visitor, of: str) -> Any:
    """What an outbox that listens makes of this."""
    return await page.page.evaluate(f"async () => {{ {LISTENING} {of} }}")


async def test_a_typed_turn_that_crosses_one_that_was_found_comes_after_it(page: Visitor) -> None:
    numbers = await made(
        page,
        """
        const typed = outbox.text("typed");
        sent();
        outbox.hear({ type: "speech_started", turn: 1, reason: "server_vad" });
        outbox.hear({ type: "speech_stopped", turn: 1, reason: "client" });
        outbox.hear({ type: "token_chunk", turn: 2 });
        return numbers(typed);
        """,
    )
    assert numbers == [[2], [1]]


async def test_a_typed_turn_that_is_refused_gives_its_number_to_the_next(page: Visitor) -> None:
    refused, numbers = await made(
        page,
        """
        const first = outbox.text("first");
        sent();
        const refused = outbox.hear({ type: "error", code: "wrong_state", turn: null }) === first;
        const second = outbox.text("second");
        sent();
        outbox.hear({ type: "token_chunk", turn: 1 });
        return [refused && first.refused, numbers(first, second)];
        """,
    )
    assert (refused, numbers) == (True, [[None, 1], []])


async def test_an_interruption_that_came_too_late_takes_no_typed_turn_with_it(page: Visitor) -> None:
    numbers = await made(
        page,
        """
        const spoken = outbox.text("spoken");
        sent();
        outbox.hear({ type: "token_chunk", turn: 1 });
        outbox.stream(new Int16Array(640));
        outbox.interrupt(spoken, 100);
        const typed = outbox.text("typed");
        sent();
        outbox.hear({ type: "error", code: "wrong_state", turn: null });
        outbox.hear({ type: "token_chunk", turn: 2 });
        return numbers(spoken, typed);
        """,
    )
    assert numbers == [[1, 2], []]


@pytest.mark.parametrize("is_found", [True, False])
async def test_a_resume_says_whether_a_turn_was_found_or_is_the_typed_one(
    page: Visitor, is_found: bool
) -> None:
    again, numbers = await made(
        page,
        f"""
        const typed = outbox.text("typed");
        sent();
        outbox.rewind(1, 640, {[1] if is_found else []});
        return [sent().includes("text"), numbers(typed)];
        """,
    )
    assert again is is_found
    assert numbers == ([[None], [1]] if is_found else [[1], []])
