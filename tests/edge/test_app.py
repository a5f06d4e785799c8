from __future__ import annotations

import asyncio
import json
import math
from functools import partial
from typing import Any

import httpx
import pytest
from starlette.websockets import WebSocket
from websockets.exceptions import InvalidStatus

from shared.keys import Role, worker_key
from shared.settings import Settings
from tests.conftest import eventually
from tests.edge.world import World, running

KEY = "a-key-of-the-test"


async def get(world: World, path: str, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{world.port}", trust_env=False) as client:
        return await client.get(path, headers=headers)


async def refusal(world: World, query: str = "msgpack", **options: Any) -> InvalidStatus:
    with pytest.raises(InvalidStatus) as refused:
        async with world.socket(query, **options):
            pass
    return refused.value


async def test_health_is_of_this_process_only(redis_url: str) -> None:
    async with running(redis_url, workers=False) as world:
        response = await get(world, "/healthz")
        assert (response.status_code, response.json()["status"]) == (200, "ok")


async def test_ready_needs_redis_and_a_worker_of_each_role(redis_url: str) -> None:
    async with running(redis_url, workers=False) as world:
        await world.services.room.look()
        response = await get(world, "/readyz")
        assert (response.status_code, response.json()["missing"]) == (503, "llm")
        await world.announce(Role.REPLY, name="host.llm.1")
        assert (await get(world, "/readyz")).json()["missing"] == "tts"
        await world.announce(Role.SPEAK, ("anna", "en"), name="host.tts.1", engine="espeak")
        response = await get(world, "/readyz")
        assert response.status_code == 200
        assert response.json() == {
            "ready": True,
            "draining": False,
            "redis": True,
            "missing": None,
            "engines": {"llm": "test", "tts": "espeak"},
            "voices": 1,
            "workers": {"llm": ["host.llm.1"], "tts": ["host.tts.1"], "jobs": []},
        }
        await world.store.call("CLIENT", "PAUSE", 6000, "ALL")
        await eventually(partial(status_is, world, 503), "redis is missed")
        await eventually(partial(status_is, world, 200), "redis is back")


@pytest.mark.parametrize("role", list(Role))
async def test_a_worker_that_starts_again_takes_no_edge_out_and_turns_wait_for_it(
    world: World, role: Role
) -> None:
    async with world.client() as client:
        await world.store.call("DEL", worker_key(f"test.{role}"))
        await world.services.room.look()
        assert (await get(world, "/readyz")).status_code == 200
        async with world.client():
            await client.speak()
            await world.announce(role, ("anna", "en-GB"))
            await (await world.answer(client)).end()
            await client.until("chunked_streaming_complete")


async def status_is(world: World, status: int) -> bool:
    return (await get(world, "/readyz")).status_code == status


async def test_the_greeting_says_what_a_client_can_count_on(world: World) -> None:
    async with world.socket() as client:
        connection = await client.nothing_before("connection")
    assert len(connection["conversation_id"]) == 16
    assert len(connection["resume_token"]) == 43
    config = connection["server_config"]
    assert (config["sample_rate"], config["output_sample_rate"], config["frame_ms"]) == (16_000, 24_000, 100)
    assert config["engines"] == {"llm": "test", "tts": "test"}
    assert config["voices"] == ["anna", "bruno"]
    assert config["turn_detection"] == ["none", "server_vad"]
    assert config["limits"]["max_utterance_s"] == 60.0
    assert config["version"]


async def test_an_encoding_that_is_not_known_is_refused(world: World) -> None:
    refused = await refusal(world, "xml")
    assert refused.response.status_code == 400
    assert b"unsupported" in refused.response.body


async def test_more_conversations_than_fit_are_sent_away_with_a_time_to_come_back(redis_url: str) -> None:
    async with running(redis_url, Settings(max_conversations=2)) as world:
        async with world.client(), world.client() as second:
            refused = await refusal(world)
            assert refused.response.status_code == 503
            said = json.loads(refused.response.body)
            assert (said["code"], said["retryable"]) == ("overloaded", True)
            assert said["retry_after_ms"] > 0
            assert int(refused.response.headers["Retry-After"]) == math.ceil(said["retry_after_ms"] / 1000)
            await second.send("bye")
            await second.closed()
            await eventually(lambda: len(world.sessions) == 1, "there is room")
            async with world.client():
                pass
        await eventually(lambda: len(world.sessions) == 0, "all have gone")


async def test_a_key_is_asked_for_before_anything_is_said(redis_url: str) -> None:
    async with running(redis_url, Settings(parley_api_keys=(KEY,))) as world:
        refused = await refusal(world)
        assert refused.response.status_code == 401
        assert b"unauthorized" in refused.response.body
        wrong = await refusal(world, additional_headers={"Authorization": "Bearer another-key"})
        assert wrong.response.status_code == 401
        async with world.socket(additional_headers={"Authorization": f"Bearer {KEY}"}) as client:
            await client.greet()
        async with world.socket(subprotocols=["parley", f"parley-key.{KEY}"]) as client:
            assert client.socket.subprotocol == "parley"
            await client.greet()


async def test_a_page_of_another_origin_is_kept_out(world: World) -> None:
    refused = await refusal(world, origin="https://example.org")
    assert refused.response.status_code == 401
    async with world.socket(origin=f"http://127.0.0.1:{world.port}") as client:
        await client.greet()


async def test_a_path_that_does_not_exist_is_not_found(world: World) -> None:
    assert (await get(world, "/nothing-here")).status_code == 404


async def test_when_the_edge_drains_the_idle_are_sent_away_at_once(world: World) -> None:
    async with world.client() as client:
        draining = asyncio.create_task(world.sessions.drain(20.0))
        away = await client.until("going_away")
        assert away["deadline_ms"] == 19_500.0
        assert await client.closed() == 1012
        async with asyncio.timeout(5):
            await draining
        assert (await refusal(world)).response.status_code == 503


async def test_while_the_edge_drains_it_lives_and_is_not_ready_and_refuses_no_turn_that_runs(
    world: World,
) -> None:
    async with world.client() as client:
        await client.speak(ends=False)
        await client.until("speech_started")
        draining = asyncio.create_task(world.sessions.drain(20.0))
        await client.until("going_away")
        ready = await get(world, "/readyz")
        assert (ready.status_code, ready.json()["draining"]) == (503, True)
        assert (await get(world, "/healthz")).status_code == 200
        assert (await get(world, "/ws")).status_code == 503
        assert (await refusal(world, "msgpack&resume=1")).response.status_code == 503
        await client.speak()
        answer = await world.answer(client)
        await answer.say("Hello!")
        await answer.end()
        await client.until("chunked_streaming_complete")
        assert await client.closed() == 1012
        await draining
    assert [m for m in client.received if m["type"] == "error"] == []


async def test_who_is_let_in_as_the_edge_begins_to_drain_is_sent_away(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept = WebSocket.accept

    async def slowly(socket: WebSocket, **options: Any) -> None:
        draining = asyncio.create_task(world.sessions.drain(20.0))
        await eventually(lambda: world.sessions.draining, "the edge drains")
        await accept(socket, **options)
        draining.cancel()

    monkeypatch.setattr(WebSocket, "accept", slowly)
    async with world.socket() as client:
        assert await client.closed() == 1012


async def test_when_the_edge_drains_an_answer_is_played_to_its_end(world: World) -> None:
    async with world.client() as client:
        await client.speak()
        answer = await world.answer(client)
        draining = asyncio.create_task(world.sessions.drain(20.0))
        await client.until("going_away")
        await answer.say("Hello!", frames=3)
        await answer.end()
        await client.until("chunked_streaming_complete")
        assert await client.closed() == 1012
        await draining
    assert [m["frame_index"] for m in client.received if m["type"] == "sequential_audio"] == [0, 1, 2]


async def test_when_the_time_to_drain_is_over_the_rest_is_closed_and_can_be_resumed(
    world: World, redis_url: str
) -> None:
    async with world.client() as client:
        await client.speak()
        answer = await world.answer(client)
        async with asyncio.timeout(10):
            await world.sessions.drain(1.5)
        assert await client.closed() == 1012
        async with running(redis_url) as other, other.socket() as again:
            await again.greet()
            await again.send("resume", conversation_id=client.conversation, resume_token=client.token)
            await again.until("resumed")
            await answer.end()
            await again.until("chunked_streaming_complete")


async def test_the_page_is_sent_with_headers_that_keep_it_to_itself(world: World) -> None:
    page = await get(world, "/")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert page.headers["X-Content-Type-Options"] == "nosniff"


async def test_a_browser_can_ask_why_its_socket_would_be_refused(redis_url: str) -> None:
    async with running(redis_url, Settings(parley_api_keys=(KEY,))) as world:
        refused = await get(world, "/ws")
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
        let_in = await get(world, "/ws", Authorization=f"Bearer {KEY}")
        assert let_in.status_code == 426
