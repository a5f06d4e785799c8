"""Keys lie in the slots that the Functions need them in, and only a server's id becomes part of one."""

from __future__ import annotations

import pytest

from shared.hold import new_conversation
from shared.keys import (
    Role,
    batch_key,
    conversation_ttl_s,
    index_key,
    is_conversation,
    job_id,
    log_key,
    meta_key,
    session_key,
    work_key,
    worker_key,
)
from shared.store import Store
from shared.wire import Log

ID = "0123456789abcdef"


def test_keys_are_named_as_people_look_for_them() -> None:
    assert [log_key(ID, log) for log in Log] == [
        "conv:{0123456789abcdef}:audio",
        "conv:{0123456789abcdef}:text",
        "conv:{0123456789abcdef}:speech",
    ]
    assert meta_key(ID) == "conv:{0123456789abcdef}:meta"
    assert session_key(ID) == "conv:{0123456789abcdef}:session"
    assert [work_key(role) for role in Role] == ["work:reply:0", "work:speak:0"]
    assert index_key(Role.SPEAK, 3) == "{work:speak:3}:index"
    assert worker_key("host.llm.1") == "worker:host.llm.1"
    assert (batch_key(), job_id(ID, 3)) == ("rq:queue:batch", "0123456789abcdef-3")


async def slots(store: Store, *keys: str) -> set[int]:
    """The Cluster slots of the keys."""
    return {await store.call("CLUSTER", "KEYSLOT", key) for key in keys}


async def test_all_of_a_conversation_lies_in_one_slot(store: Store) -> None:
    apart = set()
    for conversation in (new_conversation() for _ in range(20)):
        logs = [log_key(conversation, log) for log in Log]
        found = await slots(store, *logs, meta_key(conversation), session_key(conversation))
        assert len(found) == 1
        apart |= found
    assert len(apart) > 10


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("partition", [0, 1, 17])
async def test_an_index_lies_in_the_slot_of_its_stream(store: Store, role: Role, partition: int) -> None:
    keys = work_key(role, partition), index_key(role, partition)
    assert len(set(keys)) == 2
    assert len(await slots(store, *keys)) == 1


async def test_partitions_and_roles_lie_apart(store: Store) -> None:
    keys = [work_key(role, partition) for role in Role for partition in range(8)]
    assert len(await slots(store, *keys)) == len(keys)


def test_a_new_conversation_has_an_id() -> None:
    found = {new_conversation() for _ in range(100)}
    assert len(found) == 100
    assert all(map(is_conversation, found))


@pytest.mark.parametrize(
    "text",
    [
        "",
        ID[:-1],
        ID + "0",
        ID + "\n",
        " " + ID,
        ID.upper(),
        "0123456789abcdeg",
        "{123456789abcdef",
        "}:text{123456789",
        "0123456789abcde*",
        "0123456789abcde\x00",
        "\N{FULLWIDTH DIGIT ZERO}123456789abcdef",
        "\N{ARABIC-INDIC DIGIT ZERO}123456789abcdef",
        "0123456789abcd-1",
    ],
)
def test_nothing_else_is_taken_for_an_id(text: str) -> None:
    assert not is_conversation(text)


def test_a_conversations_keys_outlive_the_time_to_resume_it() -> None:
    assert conversation_ttl_s(60) == 120
