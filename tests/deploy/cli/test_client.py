from __future__ import annotations

from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from deploy.cli.client import ConversationLost, ParleyClient
from deploy.cli.link import CannotConnect
from edge.protocols import messages
from edge.protocols.encoding import Encoding
from shared.errors import ClientError
from tests.conftest import eventually
from tests.deploy.cli.fake_edge import FRAMES, WORDS, World, serving

Message = dict[str, Any]

SLICE = bytes(range(64)) * 10
SLICES = 12
GREETING = '{"type": "connection", "conversation_id": "x", "resume_token": "y", "server_config": {}}'
STORY = len(WORDS) + FRAMES + 1


async def ask(client: ParleyClient, slices: int = SLICES) -> None:
    await client.configure(input_format="pcm16")
    for _ in range(slices):
        await client.send_audio(SLICE)
    await client.end_utterance()


async def answer(client: ParleyClient) -> list[Message]:
    """Every message with an address, and every error, up to the end of the turn."""
    received = []
    async for message in client:
        if message["type"] == "error" or "address" in message:
            received.append(message)
        if message["type"] == "chunked_streaming_complete":
            break
    return received


def places(received: list[Message]) -> list[str]:
    return [str(message.get("address")) for message in received]


def whole_story(turn: int = 1) -> list[str]:
    text = [f"text:{turn}-{seq}" for seq in range(len(WORDS))]
    return text + [f"speech:{turn}-{seq}" for seq in range(FRAMES + 1)]


@pytest.mark.parametrize("encoding", Encoding)
async def test_an_utterance_is_answered_in_either_encoding(encoding: Encoding) -> None:
    world = World()
    async with serving(world) as url, ParleyClient(url, encoding=encoding) as client:
        await ask(client)
        assert places(await answer(client)) == whole_story()
    assert world.heard == [SLICE * SLICES]


@pytest.mark.parametrize("cut", range(1, 2 * SLICES + STORY + 4))
async def test_a_socket_cut_after_any_message_of_the_server_costs_nothing(cut: int) -> None:
    world = World(cuts=[cut])
    async with serving(world) as url, ParleyClient(url) as client:
        await ask(client)
        assert places(await answer(client)) == whole_story()
        assert client.resumes <= 1
    assert world.heard == [SLICE * SLICES]


@pytest.mark.parametrize("cut", range(1, SLICES + 3))
async def test_a_socket_cut_before_any_message_of_the_client_is_taken_costs_nothing(cut: int) -> None:
    world = World(deaf_cuts=[cut])
    async with serving(world) as url, ParleyClient(url) as client:
        await ask(client)
        assert places(await answer(client)) == whole_story()
        assert client.resumes == 1
    assert world.heard == [SLICE * SLICES]


async def test_a_socket_that_is_cut_again_and_again_costs_nothing() -> None:
    world = World(cuts=[5, 9, 2, 8, 3, 4, 4, 1, 6])
    async with serving(world) as url, ParleyClient(url) as client:
        await ask(client)
        assert places(await answer(client)) == whole_story()
        await client.send_text("and now?")
        assert places(await answer(client)) == whole_story(2)
    assert world.heard == [SLICE * SLICES, "and now?"]


async def test_what_is_said_while_there_is_no_socket_is_kept() -> None:
    world = World()
    async with serving(world) as url, ParleyClient(url) as client:
        await client.configure(input_format="pcm16")
        await client.send_audio(SLICE)
        await client.until("audio_ack")
        client.cut()
        for _ in range(5):
            await client.send_audio(SLICE)
        await client.end_utterance()
        received = await answer(client)
        assert places(received) == whole_story()
        assert client.resumes == 1
    assert world.heard == [SLICE * 6]


async def test_a_resume_shows_the_newest_token() -> None:
    world = World()
    async with serving(world) as url, ParleyClient(url) as client:
        await client.send_text("one")
        await answer(client)
        for _ in range(3):
            client.cut()
            await client.until("resumed")
    assert world.tokens_shown == ["token-0", "token-2", "token-3"]


async def test_a_resume_goes_to_the_next_edge() -> None:
    world = World()
    async with serving(world) as gone, serving(world) as other:
        async with ParleyClient([gone, other]) as client:
            await client.send_text("one")
            await answer(client)
            client.cut()
            await client.until("resumed")
            assert client.url == other
            await client.send_text("two")
            assert places(await answer(client)) == whole_story(2)


async def test_an_edge_that_goes_away_is_left_for_another_without_a_pause() -> None:
    world = World()
    async with serving(world) as one, serving(world) as two, ParleyClient([one, two]) as client:
        await client.send_text("one")
        await answer(client)
        world.leaving = True
        world.wake()
        await client.until("resumed")
        await client.send_text("two")
        assert places(await answer(client)) == whole_story(2)
    assert world.sockets == 2


async def test_an_end_that_an_edge_tells_and_then_the_log_is_told_once_and_is_the_last_of_its_turn() -> None:
    """An edge that waits for Redis tells of it without an address; another finds what was written then."""
    world = World(broken={1})
    async with serving(world) as one, serving(world) as other, ParleyClient([one, other]) as client:
        await client.send_text("one")
        assert (await client.until("error"))["turn"] == 1
        lost = ClientError("engine_failed", "a part of the answer was lost", retryable=True)
        world.told += [
            {**world.told[0], "address": f"text:1-{len(WORDS)}"},
            {**world.told[len(WORDS)], "address": f"speech:1-{FRAMES}"},
            messages.error(lost, turn=1, address=f"speech:1-{FRAMES + 1}"),
        ]
        client.cut()
        await client.until("resumed")
        await client.send_text("two")
        received = await answer(client)
        assert [message["turn"] for message in received] == [2] * STORY
        assert places(received) == whole_story(2)
        client.cut()
        await client.until("resumed")
        world.told.append(messages.error(lost, turn=2))
        await client.send_text("three")
        assert places(await answer(client)) == whole_story(3)


async def test_the_end_of_the_block_ends_the_conversation() -> None:
    world = World()
    async with serving(world) as url:
        async with ParleyClient(url) as client:
            await client.send_text("one")
            await answer(client)
        await eventually(lambda: world.goodbyes == 1, "a goodbye")
        assert [message async for message in client] == []


async def test_messages_are_recorded_with_the_time_of_their_arrival() -> None:
    seen: list[tuple[str, float]] = []
    async with serving(World()) as url:
        hook = lambda message, at: seen.append((message["type"], at))  # noqa: E731
        async with ParleyClient(url, on_receive=hook) as client:
            await client.send_text("one")
            await answer(client)
    assert [kind for kind, _ in seen][:2] == ["connection", "token_chunk"]
    assert [at for _, at in seen] == sorted(at for _, at in seen)


async def test_a_conversation_that_never_had_a_turn_is_begun_again() -> None:
    world = World(known=False)
    async with serving(world) as url, ParleyClient(url) as client:
        await client.configure(input_format="pcm16", voice="fake")
        await client.until("configured")
        client.cut()
        await client.until("connection")
        assert client.resume_token == "another"
        await client.send_audio(SLICE, ends=True)
        assert places(await answer(client)) == whole_story()
    assert [message["voice"] for message in world.settings] == ["fake", "fake"]
    assert world.heard == [SLICE]


async def test_a_conversation_that_is_gone_is_lost_and_says_so() -> None:
    world = World()
    async with serving(world) as url, ParleyClient(url) as client:
        await client.send_text("one")
        await answer(client)
        world.known = False
        client.cut()
        with pytest.raises(ConversationLost, match="does not know"):
            await client.until("resumed")
        with pytest.raises(ConversationLost):
            await anext(client)


async def test_a_server_that_does_not_come_back_is_given_up() -> None:
    world = World()
    async with serving(world) as url:
        client = ParleyClient(url, patience_s=0.2)
        await client.__aenter__()
        await client.send_text("one")
        await answer(client)
    with pytest.raises(ConversationLost, match="nobody listens there"):
        await client.until("resumed")
    await client.close()


async def test_a_server_that_never_lets_the_client_resume_is_given_up() -> None:
    world = World(cuts=[1] * 1000)
    async with serving(world) as url, ParleyClient(url, patience_s=0.3) as client:
        await client.send_text("one")
        with pytest.raises(ConversationLost, match="lets nobody resume"):
            await answer(client)


async def test_a_server_that_babbles_is_not_waited_for_for_ever() -> None:
    async def babble(socket: ServerConnection) -> None:
        await socket.send(GREETING)
        await socket.send("[]]")
        await socket.wait_closed()

    async with serve(babble, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with ParleyClient(f"ws://127.0.0.1:{port}", encoding=Encoding.JSON) as client:
            with pytest.raises(ValueError, match="Extra data"):
                await anext(client)


async def test_an_edge_that_goes_away_is_not_left_before_another_lets_the_client_in() -> None:
    """The edge refuses new sockets as soon as it has said that it goes, as a draining one does."""
    world = World()
    async with serving(world) as url, ParleyClient(url) as client:
        await client.send_text("one")
        await answer(client)
        world.closed, world.leaving = True, True
        world.wake()
        await client.until("going_away")
        await client.send_text("two")
        assert places(await answer(client)) == whole_story(2)
        assert client.resumes == 0
        world.closed = False
        await client.until("resumed")


@pytest.mark.parametrize(("code", "why"), [(4001, "somewhere else"), (1000, "ended")])
async def test_a_close_that_is_meant_is_not_followed_by_a_resume(code: int, why: str) -> None:
    async def close(socket: ServerConnection) -> None:
        await socket.send(GREETING)
        await socket.close(code)

    async with serve(close, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with ParleyClient(f"ws://127.0.0.1:{port}", encoding=Encoding.JSON) as client:
            with pytest.raises(ConversationLost, match=why):
                await anext(client)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ws://127.0.0.1:1/ws", "nobody listens there"),
        ("http://127.0.0.1:1/ws", "no URL of a WebSocket"),
        ("ws://[::", "no URL of a WebSocket"),
        ("ws://127.0.0.1:99999/ws", "no URL of a WebSocket"),
        ("ws://127.0.0.1:port/ws", "no URL of a WebSocket"),
        ("nonsense", "no URL of a WebSocket"),
    ],
)
async def test_a_server_that_cannot_be_reached_is_said_in_one_line(url: str, why: str) -> None:
    with pytest.raises(CannotConnect, match=why) as caught:
        async with ParleyClient(url):
            pass
    assert "\n" not in str(caught.value)


async def test_a_conversation_begins_at_the_first_edge_that_answers() -> None:
    async with serving(World()) as url, ParleyClient(["ws://127.0.0.1:1/ws", url]) as client:
        assert client.url == url


async def test_what_is_no_parley_server_is_not_taken_for_one() -> None:
    async def babble(socket: ServerConnection) -> None:
        await socket.send('{"type": "hello"}')

    async with serve(babble, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        with pytest.raises(CannotConnect, match="not a Parley server"):
            async with ParleyClient(f"ws://127.0.0.1:{port}", encoding=Encoding.JSON):
                pass
