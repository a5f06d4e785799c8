from __future__ import annotations

import json
import time
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from deploy.cli.client import ConversationLost, ParleyClient
from deploy.cli.dialer import Dialer, pause_after
from deploy.cli.link import CannotConnect
from edge.protocols.encoding import Encoding
from shared.errors import ClientError
from tests.deploy.cli.fake_edge import World, serving

FULL = ClientError("overloaded", "no more conversations here", retryable=True, retry_after_ms=30_000.0)
SHUT = ClientError("unauthorized", "no such key")


@pytest.mark.parametrize(
    ("body", "header", "retry_after_s"),
    [
        (json.dumps({"type": "error", "message": "full", "retry_after_ms": 1500.0}), "2", 1.5),
        (json.dumps({"type": "error", "message": "full", "retry_after_ms": None}), "2", 2.0),
        ("full", "2", 2.0),
        ("full", "Fri, 27 Nov 2026 12:00:00 GMT", 0.0),
        ("full", "", 0.0),
    ],
)
async def test_a_refused_handshake_says_when_to_try_again(
    body: str, header: str, retry_after_s: float
) -> None:
    def refuse(socket: ServerConnection, _: Request) -> Response:
        response = socket.respond(503, body)
        response.headers["Retry-After"] = header
        return response

    async def never(_: ServerConnection) -> None:
        raise AssertionError("nobody is let in")

    async with serve(never, "127.0.0.1", 0, process_request=refuse) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        url = f"ws://127.0.0.1:{port}/ws"
        with pytest.raises(CannotConnect) as caught:
            await Dialer([url], Encoding.JSON, None).once()
    later = f"; try again in {retry_after_s:g} s" if retry_after_s else ""
    assert str(caught.value) == f"{url} answers 503 (full){later}"
    assert (caught.value.retryable, caught.value.retry_after_s) == (True, retry_after_s)


def test_all_that_are_refused_at_once_wait_as_long_as_they_were_told_and_not_the_same_time() -> None:
    refusal = CannotConnect("full", retryable=True, retry_after_s=2.0)
    pauses = {pause_after(refusal, 0.05) for _ in range(100)}
    assert 2.0 <= min(pauses) < max(pauses) <= 3.0
    assert pause_after(CannotConnect("gone", retryable=True), 0.05) == 0.05


async def test_an_edge_is_not_asked_again_sooner_than_it_said() -> None:
    world = World()
    async with serving(world) as url, ParleyClient(url, patience_s=1.0) as client:
        world.refused_with = FULL
        client.cut()
        with pytest.raises(ConversationLost, match=r"no more conversations.*try again in 30 s"):
            await client.until("resumed")
    assert len(world.asked_for) == 2, "who may not ask in time gives up"


async def test_every_edge_is_asked_before_any_is_waited_for() -> None:
    full, other = World(refused_with=FULL), World()
    async with serving(full) as one, serving(other) as two:
        link = await Dialer([one, two], Encoding.JSON, None).insist(time.monotonic() + 1.0)
        assert link.url == two
        link.cut()


@pytest.mark.parametrize("worlds", [(FULL, SHUT), (SHUT, FULL)])
async def test_of_several_refusals_the_one_that_leaves_hope_is_told(worlds: Any) -> None:
    first, second = (World(refused_with=refusal) for refusal in worlds)
    async with serving(first) as one, serving(second) as two:
        with pytest.raises(CannotConnect, match="try again in 30 s") as caught:
            await Dialer([one, two], Encoding.JSON, None).once()
    assert caught.value.retryable


@pytest.mark.parametrize("encoding", Encoding)
@pytest.mark.parametrize("query", ["", "?room=7&lang=pt%2DBR"])
async def test_who_comes_to_resume_says_so_before_it_is_let_in(query: str, encoding: Encoding) -> None:
    world = World()
    async with serving(world) as url, ParleyClient(url + query, encoding=encoding) as client:
        await client.send_text("one")
        await client.until("chunked_streaming_complete")
        client.cut()
        await client.until("resumed")
    spoken = ["encoding=msgpack"] if encoding is Encoding.MSGPACK else []
    own = [query[1:]] if query else []
    assert [path.partition("?")[2] for path in world.asked_for] == [
        "&".join([*own, *spoken]),
        "&".join([*own, *spoken, "resume=1"]),
    ]
