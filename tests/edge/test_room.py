from __future__ import annotations

import json

import pytest

from edge.room import UNCLAIMED_S, Room, Voice
from shared.errors import ClientError
from shared.keys import WORKERS, Role, work_key, worker_key
from shared.store import Store
from shared.work import Announcement, WorkQueue, offer

ANNA, BRUNO = ("anna", "en-GB"), ("bruno", "it")


async def announce(
    store: Store, role: Role, *voices: tuple[str, str], name: str = "", engine: str = "test"
) -> None:
    name = name or f"{role.value}.1"
    said = Announcement(name, role, engine, f"{engine}: because", 64, tuple(voices))
    await store.call("SET", worker_key(name), said.dump(3))
    await store.call("SADD", WORKERS, name)


@pytest.fixture
async def room(store: Store) -> Room:
    await announce(store, Role.REPLY, engine="parrot")
    await announce(store, Role.SPEAK, ANNA, BRUNO, engine="espeak")
    room = Room(store)
    await room.look()
    return room


async def test_engines_voices_and_reasons_are_known_from_what_workers_say(room: Room) -> None:
    assert room.ready
    assert room.engines() == {"llm": "parrot", "tts": "espeak"}
    assert room.voices() == [Voice("anna", "en-GB"), Voice("bruno", "it")]
    assert room.reasons() == ["llm: parrot: because", "tts: espeak: because"]
    assert {(worker.name, worker.attached) for worker in room.workers} == {("reply.1", 3), ("speak.1", 3)}


async def test_several_workers_of_one_kind_count_once_and_of_several_kinds_are_all_named(
    store: Store, room: Room
) -> None:
    await announce(store, Role.REPLY, name="reply.2", engine="parrot")
    await announce(store, Role.SPEAK, ANNA, name="speak.2", engine="another")
    await room.look()
    assert room.engines() == {"llm": "parrot", "tts": "another, espeak"}
    assert [voice.name for voice in room.voices()] == ["anna", "bruno"]


async def test_nothing_is_ready_before_anybody_was_seen(store: Store) -> None:
    room = Room(store)
    assert not room.ready
    await room.look()
    assert not room.ready
    assert room.engines() == {"llm": None, "tts": None}


async def test_a_worker_whose_announcement_lapsed_is_gone_and_its_name_is_pruned(
    store: Store, room: Room
) -> None:
    await store.call("DEL", worker_key("speak.1"))
    await room.look()
    assert room.missing() is Role.SPEAK
    assert await store.call("SMEMBERS", WORKERS) == [b"reply.1"]
    with pytest.raises(ClientError, match="no tts worker") as refused:
        room.admit()
    assert (refused.value.code, refused.value.retryable) == ("overloaded", True)
    assert refused.value.retry_after_ms


@pytest.mark.parametrize("said", ["", "{}", "[1]", json.dumps({"name": "x", "role": "cook"})])
async def test_an_announcement_that_cannot_be_read_is_passed_over(
    store: Store, room: Room, said: str
) -> None:
    await store.call("SET", worker_key("odd"), said)
    await store.call("SADD", WORKERS, "odd")
    await room.look()
    assert {worker.name for worker in room.workers} == {"reply.1", "speak.1"}


async def test_while_redis_is_away_the_workers_last_seen_are_believed_in(room: Room) -> None:
    room._store = Store("redis://127.0.0.1:1")
    await room.look()
    assert not room.reachable
    assert not room.ready
    assert room.missing() is None


async def test_a_turn_that_nobody_claims_for_long_closes_the_door(store: Store, room: Room) -> None:
    await offer(store, Role, "0123456789abcdef", 1)
    await room.look()
    assert 0.0 <= room.unclaimed_s < UNCLAIMED_S
    room.admit()
    long_ago = int((await store.call("TIME"))[0]) * 1000 - 10_000
    await store.call("DEL", work_key(Role.SPEAK))
    await store.call("XADD", work_key(Role.SPEAK), f"{long_ago}-0", "conversation", "x", "turn", 1)
    await room.look()
    assert room.unclaimed_s == pytest.approx(10.0, abs=2.0)
    with pytest.raises(ClientError, match="busy"):
        room.admit()


async def test_a_turn_that_was_claimed_does_not_wait(store: Store, room: Room) -> None:
    long_ago = int((await store.call("TIME"))[0]) * 1000 - 10_000
    fields = ("conversation", "x", "turn", 1, "cause", "claim")
    await store.call("XADD", work_key(Role.REPLY), f"{long_ago}-0", *fields)
    queue = WorkQueue(store, Role.REPLY, "reply.1", lease_s=2.0)
    while not await queue.wait(1):
        pass
    await queue.close()
    await room.look()
    assert room.unclaimed_s == 0.0


@pytest.mark.parametrize(
    ("voice", "language"),
    [(None, None), ("anna", None), (None, "en-gb"), (None, "en"), ("bruno", "it"), (None, "IT")],
)
async def test_a_voice_or_language_that_is_spoken_is_let_through(
    room: Room, voice: str | None, language: str | None
) -> None:
    room.check(voice, language)


@pytest.mark.parametrize(
    ("voice", "language"), [("carla", None), (None, "fr"), (None, "en-US"), ("anna", "e")]
)
async def test_a_voice_or_language_that_nobody_speaks_is_named_and_refused(
    room: Room, voice: str | None, language: str | None
) -> None:
    with pytest.raises(ClientError) as refused:
        room.check(voice, language)
    assert refused.value.code == "unsupported"
    assert repr(voice if voice != "anna" and voice else language) in refused.value.message


async def test_a_voice_with_a_language_of_another_is_refused_and_both_are_named(room: Room) -> None:
    with pytest.raises(ClientError, match="'anna' speaks 'en-GB', not 'it': name a voice") as refused:
        room.check("anna", "it")
    assert refused.value.code == "unsupported"
    assert room.speaks("bruno", "IT") and room.speaks("anna", "en")
    assert not room.speaks("anna", "it") and not room.speaks("carla", "it")


async def test_a_voice_of_two_languages_speaks_both(store: Store, room: Room) -> None:
    await announce(store, Role.SPEAK, ANNA, ("anna", "cy"), name="speak.2")
    await room.look()
    room.check("anna", "cy")
    assert room.voice("anna", "cy") == Voice("anna", "cy")
    assert room.voice("anna", None) == Voice("anna", "en-GB")


async def test_while_no_voice_is_known_everything_passes(store: Store) -> None:
    Room(store).check("anna", "it")


async def test_the_default_voice_is_the_first_or_the_first_of_its_language(room: Room) -> None:
    assert room.voice(None, None) == Voice("anna", "en-GB")
    assert room.voice(None, "it") == Voice("bruno", "it")
    assert room.voice("bruno", None) == Voice("bruno", "it")
    assert room.voice("carla", None) is None
