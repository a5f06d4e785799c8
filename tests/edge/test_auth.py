from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from edge.auth import Gate, check_listening, is_loopback, subprotocol
from shared.errors import ClientError, SettingsError
from shared.settings import Settings

KEY = "right-key_1"
OTHER = "another.key~2"


def gate(**environ: str) -> Gate:
    return Gate(Settings.from_env(environ))


def headers(*pairs: tuple[str, str]) -> Headers:
    return Headers(raw=[(name.lower().encode(), value.encode("latin-1")) for name, value in pairs])


def refused(gate: Gate, *pairs: tuple[str, str]) -> str:
    with pytest.raises(ClientError) as caught:
        gate.check(headers(*pairs))
    assert caught.value.code == "unauthorized"
    return caught.value.message


# ---- keys


def test_without_keys_nobody_is_asked_for_one() -> None:
    gate().check(headers())
    gate().check(headers(("Authorization", "Bearer whatever")))


@pytest.mark.parametrize("key", [KEY, OTHER])
def test_any_of_the_keys_opens_by_header_or_subprotocol(key: str) -> None:
    guarded = gate(PARLEY_API_KEYS=f"{KEY},{OTHER}")
    guarded.check(headers(("Authorization", f"Bearer {key}")))
    guarded.check(headers(("authorization", f"bearer  {key} ")))
    guarded.check(headers(("Sec-WebSocket-Protocol", f"parley, parley-key.{key}")))
    guarded.check(
        headers(("Sec-WebSocket-Protocol", "parley"), ("Sec-WebSocket-Protocol", f"parley-key.{key}"))
    )
    guarded.check(
        headers(("Authorization", "Bearer wrong"), ("Sec-WebSocket-Protocol", f"parley,parley-key.{key}"))
    )


@pytest.mark.parametrize(
    "pair",
    [
        ("Authorization", ""),
        ("Authorization", "Bearer"),
        ("Authorization", "Bearer "),
        ("Authorization", KEY),
        ("Authorization", f"Basic {KEY}"),
        ("Authorization", f"Bearer {KEY}x"),
        ("Authorization", f"Bearer {KEY[:-1]}"),
        ("Authorization", f"Bearer {KEY.upper()}"),
        ("Authorization", f"Bearer {KEY},{OTHER}"),
        ("Authorization", "Bearer \xe9\xff"),
        ("Sec-WebSocket-Protocol", "parley"),
        ("Sec-WebSocket-Protocol", KEY),
        ("Sec-WebSocket-Protocol", f"parley.{KEY}"),
        ("Sec-WebSocket-Protocol", "parley-key."),
        ("X-Api-Key", KEY),
        ("Cookie", f"key={KEY}"),
    ],
)
def test_nothing_but_a_key_in_its_place_opens(pair: tuple[str, str]) -> None:
    message = refused(gate(PARLEY_API_KEYS=f"{KEY},{OTHER}"), pair)
    assert KEY not in message and OTHER not in message


def test_with_keys_loopback_and_an_open_edge_need_one_too() -> None:
    assert "API key" in refused(gate(PARLEY_API_KEYS=KEY, HOST="127.0.0.1"), ("Host", "localhost:8000"))
    assert "API key" in refused(gate(PARLEY_API_KEYS=KEY, PARLEY_OPEN="1"))


def test_the_subprotocol_that_is_answered_never_holds_a_key() -> None:
    assert subprotocol(headers(("Sec-WebSocket-Protocol", f"parley, parley-key.{KEY}"))) == "parley"
    assert subprotocol(headers(("Sec-WebSocket-Protocol", f"parley-key.{KEY},parley"))) == "parley"
    assert subprotocol(headers(("Sec-WebSocket-Protocol", f"parley-key.{KEY}"))) is None
    assert subprotocol(headers()) is None


# ---- origins


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://localhost:8000", "localhost:8000"),
        ("http://127.0.0.1:8000", "127.0.0.1:8000"),
        ("http://[::1]:8000", "[::1]:8000"),
        ("HTTP://LocalHost:8000", "localhost:8000"),
        ("http://localhost", "localhost:80"),
        ("https://localhost", "localhost"),
    ],
)
def test_the_edges_own_page_may_connect(origin: str, host: str) -> None:
    gate().check(headers(("Origin", origin), ("Host", host)))


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://evil.example", "localhost:8000"),
        ("http://localhost:9000", "localhost:8000"),
        ("http://localhost", "localhost:8000"),
        ("http://localhost.evil.example:8000", "localhost:8000"),
        ("http://localhost:8000@evil.example", "localhost:8000"),
        ("http://evil.example@localhost:8000", "localhost:8000"),
        ("http://localhost:8000/page", "localhost:8000"),
        ("http://localhost:99999", "localhost:99999"),
        ("http://[::1", "[::1"),
        ("file://", "localhost:8000"),
        ("null", "null"),
        ("null", "localhost:8000"),
        ("", ""),
        ("localhost:8000", "localhost:8000"),
        ("ws://localhost:8000", "localhost:8000"),
    ],
)
def test_the_pages_of_others_may_not_connect(origin: str, host: str) -> None:
    assert "PARLEY_ORIGINS" in refused(gate(), ("Origin", origin), ("Host", host))


def test_a_strangers_name_for_loopback_does_not_make_their_page_ours() -> None:
    rebound = (("Origin", "http://evil.example:8000"), ("Host", "evil.example:8000"))
    refused(gate(), *rebound)
    gate(PARLEY_OPEN="1").check(headers(*rebound))
    gate(PARLEY_API_KEYS=KEY).check(headers(*rebound, ("Authorization", f"Bearer {KEY}")))


def test_listed_origins_may_connect_exactly_as_they_are_listed() -> None:
    listed = gate(PARLEY_ORIGINS="https://app.example,http://dev.example:3000")
    for origin in ("https://app.example", "https://app.example:443", "http://dev.example:3000"):
        listed.check(headers(("Origin", origin), ("Host", "parley.example")))
    for origin in (
        "http://app.example",
        "https://app.example:8443",
        "https://sub.app.example",
        "https://app.example.evil",
        "http://dev.example",
        "https://dev.example:3000",
    ):
        refused(listed, ("Origin", origin), ("Host", "parley.example"))
    listed.check(headers(("Origin", "http://localhost:8000"), ("Host", "localhost:8000")))


def test_a_client_that_is_no_page_says_no_origin_and_may_connect() -> None:
    gate().check(headers(("Host", "localhost:8000")))
    gate(PARLEY_ORIGINS="https://app.example").check(headers())


def test_two_origins_or_two_hosts_are_refused() -> None:
    own = ("Origin", "http://localhost:8000")
    host = ("Host", "localhost:8000")
    refused(gate(), own, own, host)
    refused(gate(), own, host, host)
    refused(gate(), own)


def test_a_listed_origin_does_not_replace_a_key() -> None:
    guarded = gate(PARLEY_API_KEYS=KEY, PARLEY_ORIGINS="https://app.example")
    assert "API key" in refused(guarded, ("Origin", "https://app.example"))
    key = ("Sec-WebSocket-Protocol", f"parley, parley-key.{KEY}")
    guarded.check(headers(("Origin", "https://app.example"), key))
    refused(guarded, ("Origin", "https://evil.example"), key)


# ---- where to listen


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.2", "127.255.255.254", "::1", "localhost", "LOCALHOST"]
)
def test_loopback_needs_no_keys(host: str) -> None:
    assert is_loopback(host)
    check_listening(Settings.from_env({"HOST": host}))


@pytest.mark.parametrize(
    "host",
    [
        "0.0.0.0",
        "::",
        "10.0.0.1",
        "128.0.0.1",
        "126.255.255.255",
        "::2",
        "example.org",
        "127.1",
        "localhost.x",
    ],
)
def test_anything_else_needs_keys_or_an_explicit_word(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(SettingsError) as caught:
        check_listening(Settings.from_env({"HOST": host}))
    message = str(caught.value)
    assert all(part in message for part in (f"HOST='{host}'", "loopback", "PARLEY_API_KEYS", "PARLEY_OPEN=1"))
    check_listening(Settings.from_env({"HOST": host, "PARLEY_API_KEYS": KEY}))
    check_listening(Settings.from_env({"HOST": host, "PARLEY_OPEN": "1"}))
    with pytest.raises(SettingsError):
        check_listening(Settings.from_env({"HOST": host, "PARLEY_OPEN": "0"}))
