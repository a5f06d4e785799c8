from __future__ import annotations

import json

import pytest

from edge.room import Room
from edge.roster import Voice
from shared.errors import ClientError
from shared.keys import WORKERS, Role, worker_key
from shared.store import Store
from shared.work import Announcement

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
    room = Room(store, admit_within_s=5.0)
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
    room = Room(store, admit_within_s=5.0)
    assert not room.ready
    await room.look()
    assert not room.ready
    assert room.engines() == {"llm": None, "tts": None}


async def test_a_worker_whose_announcement_lapsed_is_gone_and_its_name_is_pruned(
    store: Store, room: Room
) -> None:
    await announce(store, Role.SPEAK, BRUNO, name="speak.2")
    await store.call("DEL", worker_key("speak.1"))
    await room.look()
    assert {worker.name for worker in room.workers} == {"reply.1", "speak.2"}
    assert sorted(await store.call("SMEMBERS", WORKERS)) == [b"reply.1", b"speak.2"]


async def test_the_last_worker_of_a_role_is_believed_in_for_a_grace(
    store: Store, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.call("DEL", worker_key("speak.1"))
    await room.look()
    assert room.ready and room.voices() == [Voice("anna", "en-GB"), Voice("bruno", "it")]
    room.admit()
    monkeypatch.setattr("edge.roster.GRACE_S", 0.0)
    await room.look()
    assert room.missing() is Role.SPEAK
    with pytest.raises(ClientError, match="no tts worker") as refused:
        room.admit()
    assert (refused.value.code, refused.value.retryable) == ("overloaded", True)
    assert refused.value.retry_after_ms
    await announce(store, Role.SPEAK, BRUNO, name="speak.2")
    await room.look()
    assert room.ready and room.voices() == [Voice("bruno", "it")]


async def test_the_grace_does_not_run_while_nobody_can_be_heard(
    store: Store, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.roster.GRACE_S", 0.0)
    monkeypatch.setattr("edge.roster.LOOK_COUNTS_S", 0.0)
    await store.call("FLUSHALL")
    await room.look()
    assert room.ready, "as much time as passed does not count for one look"
    monkeypatch.undo()
    monkeypatch.setattr("edge.roster.GRACE_S", 0.0)
    monkeypatch.setattr("edge.room.FULL_AT", 0.0)
    await room.look()
    assert room.missing() is None, "at maxmemory no announcement can be written"


@pytest.mark.parametrize("said", ["", "{}", "[1]", json.dumps({"name": "x", "role": "cook"})])
async def test_an_announcement_that_cannot_be_read_is_passed_over(
    store: Store, room: Room, said: str
) -> None:
    await store.call("SET", worker_key("odd"), said)
    await store.call("SADD", WORKERS, "odd")
    await room.look()
    assert {worker.name for worker in room.workers} == {"reply.1", "speak.1"}


async def test_while_redis_is_away_the_workers_last_seen_are_believed_in(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    room._store = Store("redis://127.0.0.1:1")
    await room.look()
    assert not room.reachable
    assert room.missing() is None
    assert room.ready and not room.away, "turns that begin now may well find it back"
    monkeypatch.setattr("edge.room.AWAY_S", 0.0)
    assert room.away and not room.ready


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
    Room(store, admit_within_s=5.0).check("anna", "it")


async def test_the_default_voice_is_the_first_or_the_first_of_its_language(room: Room) -> None:
    assert room.voice(None, None) == Voice("anna", "en-GB")
    assert room.voice(None, "it") == Voice("bruno", "it")
    assert room.voice("bruno", None) == Voice("bruno", "it")
    assert room.voice("carla", None) is None
