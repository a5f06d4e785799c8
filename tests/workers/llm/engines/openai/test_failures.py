"""What an endpoint's failures mean, and what of its messages goes on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from workers.llm.engines.openai import failures
from workers.llm.engines.openai.failures import Refused, retry_after_s, shortened


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_what_is_refused_in_passing_may_be_tried_again(status: int) -> None:
    failure = Refused(status, "", "")
    assert (failure.retryable, failure.final) == (True, False)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413, 422])
def test_what_is_refused_for_good_is_not(status: int) -> None:
    failure = Refused(status, "Reason", "too long")
    assert not failure.retryable
    assert str(failure) == f"the endpoint refused with status {status} Reason: too long"


def test_who_cannot_go_on_ends_the_turn_and_the_client_may_ask_again() -> None:
    for failure in (failures.cannot_go_on("why"), failures.put_off(30)):
        assert (failure.retryable, failure.final) == (True, True)


def test_a_message_is_one_short_line() -> None:
    message = shortened("The model\n  does not exist. " + "It is so. " * 50, (), None)
    assert message.startswith("The model does not exist. It is so.")
    assert len(message) == failures.MAX_MESSAGE
    assert message.endswith("…")


def test_no_key_and_no_sound_is_in_a_message() -> None:
    assert shortened("bad key 'abc 1'", (), "abc 1") == "bad key '…'"
    assert shortened("bad sound UklGRmQZAABXQVZFZm10IBAAAAABAAEAgD4AAAB9", (), None) == "bad sound …"


@pytest.mark.parametrize(
    ("message", "texts"),
    [
        ("invalid: 'my secret is that I', expected a list", ["Hi, my secret is that I cannot swim"]),
        ("invalid: 'my pin', expected a list", ["my pin"]),
        ("invalid: my secret\nword", ["my  secret word"]),
    ],
)
def test_a_message_that_repeats_the_conversation_is_left_out(message: str, texts: list[str]) -> None:
    assert shortened(message, texts, None) == ""
    assert shortened(message, ["something else"], None) != ""


def test_for_how_long_to_wait_is_said_in_seconds_or_as_a_date() -> None:
    assert retry_after_s({"retry-after": "1.5"}) == 1.5
    assert retry_after_s({"retry-after": "-3"}) == 0
    soon = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    wait_s = retry_after_s({"retry-after": soon})
    assert wait_s is not None and 3500 < wait_s <= 3600
    assert retry_after_s({}) is None
    assert retry_after_s({"retry-after": "soon"}) is None
