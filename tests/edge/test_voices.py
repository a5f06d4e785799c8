"""A voice sets its language: what a client may ask for together, over a real socket."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from shared.wire import Log, Open
from tests.edge.world import Client, World

Wanted = dict[str, str]
"""Of the world's voices anna speaks en-GB and bruno it."""


async def effective(client: Client) -> tuple[str, str]:
    await client.send("configure")
    configured = await client.until("configured")
    return configured["voice"], configured["language"]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ([{"voice": "anna"}], ("anna", "en-GB")),
        ([{"voice": "bruno"}], ("bruno", "it")),
        ([{"voice": "anna", "language": "en"}], ("anna", "en")),
        ([{"language": "it"}], ("bruno", "it")),
        ([{"language": "it"}, {"voice": "anna"}], ("anna", "en-GB")),
        ([{"language": "it"}, {"voice": "bruno"}], ("bruno", "it")),
        ([{"voice": "bruno", "language": "it"}, {"voice": "anna"}], ("anna", "en-GB")),
        ([{"voice": "anna", "language": "en"}, {"speed": "1.0"}], ("anna", "en")),
        ([{"voice": "bruno"}, {"voice": "", "language": "en"}], ("anna", "en")),
        ([{"voice": "bruno", "language": "it"}, {"voice": ""}], ("bruno", "it")),
        ([{"voice": "bruno", "language": "it"}, {"voice": "", "language": ""}], ("anna", "en-GB")),
        ([{"voice": "bruno", "language": "it"}, {"voice": "anna", "language": ""}], ("anna", "en-GB")),
    ],
)
async def test_a_voice_sets_its_language(
    world: World, wanted: Sequence[Wanted], found: tuple[str, str]
) -> None:
    async with world.client() as client:
        for each in wanted:
            await client.send("configure", **{k: float(v) if k == "speed" else v for k, v in each.items()})
            assert (await client.until("configured", "error"))["type"] == "configured"
        assert await effective(client) == found


@pytest.mark.parametrize(
    ("before", "wrong"),
    [({}, {"voice": "anna", "language": "it"}), ({"voice": "anna"}, {"language": "it"})],
)
async def test_a_language_that_the_voice_does_not_speak_is_refused_and_both_are_named(
    world: World, before: Wanted, wrong: Wanted
) -> None:
    async with world.client() as client:
        await client.send("configure", **before)
        await client.until("configured")
        await client.send("configure", **wrong)
        error = await client.until("error", "configured")
        assert (error["type"], error["code"], error["retryable"]) == ("error", "unsupported", False)
        assert all(word in error["message"] for word in ("'anna'", "'en-GB'", "'it'", "name a voice"))
        assert await effective(client) == ("anna", "en-GB")


async def test_a_voice_for_one_utterance_brings_its_language_for_that_one(world: World) -> None:
    async with world.client(pacing="none", voice="anna", language="en-GB") as client:
        await client.speak(voice="bruno")
        answer = await world.answer(client)
        await answer.say("Ciao.")
        await answer.end()
        assert (await client.until("sequential_audio"))["voice"] == "bruno"
        await client.until("chunked_streaming_complete")
        (opening, *_) = await world.log(client, Log.AUDIO, 1)
        assert isinstance(opening, Open)
        assert (opening.voice, opening.language) == ("bruno", None)
        assert await effective(client) == ("anna", "en-GB")
