from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message
from starlette.websockets import WebSocketDisconnect

from edge.outlet import MAX_IN_LINE, Outlet, SocketGone
from edge.protocols.encoding import Encoding
from tests.conftest import eventually


class Wire:
    """What an outlet writes to; it can be held up, and cut."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.free = asyncio.Event()
        self.free.set()
        self.error: Exception | None = None

    async def send(self, message: Message) -> None:
        await self.free.wait()
        if self.error:
            raise self.error
        self.sent.append(message)


async def test_messages_leave_one_after_the_other_in_their_encoding() -> None:
    wire = Wire()
    outlet = Outlet(wire.send, Encoding.JSON)
    assert await outlet.send({"type": "pong"})
    await Outlet(wire.send, Encoding.MSGPACK).send({"type": "pong"})
    assert wire.sent == [
        {"type": "websocket.send", "text": '{"type":"pong"}'},
        {"type": "websocket.send", "bytes": b"\x81\xa4type\xa4pong"},
    ]


async def test_a_message_whose_reason_is_gone_when_its_turn_comes_is_not_sent() -> None:
    wire = Wire()
    outlet = Outlet(wire.send, Encoding.JSON)
    wire.free.clear()
    unwanted = False
    first = asyncio.create_task(outlet.send({"type": "pong"}))
    second = asyncio.create_task(outlet.send({"type": "frame"}, unless=lambda: unwanted))
    await eventually(lambda: outlet.in_line == 2, "the first is held up")
    unwanted = True
    wire.free.set()
    assert (await first, await second) == (True, False)
    assert len(wire.sent) == 1
    assert outlet.in_line == 0


async def test_more_messages_than_a_session_has_writers_never_wait() -> None:
    wire = Wire()
    outlet = Outlet(wire.send, Encoding.JSON)
    wire.free.clear()
    sending = [asyncio.create_task(outlet.send({"type": "pong"})) for _ in range(MAX_IN_LINE)]
    await eventually(lambda: outlet.in_line == MAX_IN_LINE, "all wait")
    with pytest.raises(AssertionError):
        await outlet.send({"type": "pong"})
    wire.free.set()
    assert all(await asyncio.gather(*sending))
    assert await outlet.send({"type": "pong"})


@pytest.mark.parametrize("error", [WebSocketDisconnect(1006), OSError("reset"), RuntimeError("closed")])
async def test_a_socket_that_is_gone_is_gone_whoever_notices(error: Exception) -> None:
    wire = Wire()
    wire.error = error
    outlet = Outlet(wire.send, Encoding.JSON)
    with pytest.raises(SocketGone):
        await outlet.send({"type": "pong"})
    await outlet.close(1000)
