"""`parley voices` over the announcements of workers in a real Redis."""

from __future__ import annotations

import json

import pytest
import redis

from deploy.cli.main import main
from shared.keys import WORKERS, Role, worker_key
from shared.work import Announcement

KOKORO = (("af_heart", "en-US"), ("bf_emma", "en-GB"), ("ef_dora", "es"))
ESPEAK = (("english", "en-GB"), ("german", "de"))


def announce(url: str, *announcements: Announcement) -> None:
    with redis.Redis.from_url(url) as client:
        for each in announcements:
            client.sadd(WORKERS, each.name)
            client.set(worker_key(each.name), each.dump(0))


def speaking(name: str, engine: str, voices: tuple[tuple[str, str], ...]) -> Announcement:
    return Announcement(name, Role.SPEAK, engine, f"{engine}: TTS_ENGINE asks for it", 4, voices)


@pytest.fixture(autouse=True)
def url(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("REDIS_URL", redis_url)
    return redis_url


def test_every_voice_is_listed_once_and_the_default_is_marked(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    announce(
        url,
        Announcement("a", Role.REPLY, "parrot", "parrot", 4),
        speaking("b", "kokoro", KOKORO),
        speaking("c", "kokoro", KOKORO),
    )
    assert main(["voices"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["VOICE", "LANGUAGE", "ENGINE"]
    assert [line.split() for line in lines] == [
        ["af_heart", "en-US", "kokoro", "default"],
        ["bf_emma", "en-GB", "kokoro"],
        ["ef_dora", "es", "kokoro"],
    ]


def test_a_language_is_every_kind_of_it_or_one(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    announce(url, speaking("a", "kokoro", KOKORO), speaking("b", "espeak", ESPEAK))

    def names(language: str) -> list[str]:
        assert main(["voices", "--json", "--language", language]) == 0
        return [row["name"] for row in json.loads(capsys.readouterr().out)]

    assert names("en") == ["af_heart", "bf_emma", "english"]
    assert names("EN-gb") == ["bf_emma", "english"]
    assert names("de") == ["german"]


def test_json_says_the_engine_and_the_default(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    announce(url, speaking("a", "espeak", ESPEAK))
    assert main(["voices", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"name": "english", "language": "en-GB", "engine": "espeak", "default": True},
        {"name": "german", "language": "de", "engine": "espeak", "default": False},
    ]


def test_a_language_that_nobody_speaks_is_one_line(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    announce(url, speaking("a", "kokoro", KOKORO))
    assert main(["voices", "--language", "fi"]) == 1
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "parley: no voice speaks 'fi'\n")


def test_no_worker_is_one_line(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    announce(url, Announcement("a", Role.REPLY, "parrot", "parrot", 4))
    with redis.Redis.from_url(url) as client:
        client.sadd(WORKERS, "dead")
    assert main(["voices"]) == 1
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "parley: no TTS worker is running, so there are no voices\n")


def test_a_worker_that_announces_itself_in_another_way_hides_no_voice(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    announce(url, speaking("b", "kokoro", KOKORO))
    with redis.Redis.from_url(url) as client:
        for name, said in (("a", "[]"), ("c", '{"role": "sing"}'), ("d", "{")):
            client.sadd(WORKERS, name)
            client.set(worker_key(name), said)
        client.sadd(WORKERS, b"\xff")
    assert main(["voices"]) == 0
    shown = capsys.readouterr()
    assert "af_heart" in shown.out
    assert shown.err == ""
