"""Replies spelt out token by token, and text that stays text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.llm.engines.voxtral.text import Spelling, Vocabulary

BYTES = 1000
"""The first id that is no control token: the tokens of the 256 bytes begin there."""


def of_bytes(data: bytes) -> list[int]:
    return [BYTES + byte for byte in data]


def test_a_character_shows_when_its_last_byte_has_come(vocabulary: Vocabulary) -> None:
    spelling = Spelling(vocabulary)
    shown = [spelling.add(token) for token in of_bytes("a€😀!".encode())]
    assert shown == ["a", "", "", "€", "", "", "", "😀", "!"]


def test_bytes_that_can_become_no_character_are_replaced_and_hold_nothing_back(
    vocabulary: Vocabulary,
) -> None:
    spelling = Spelling(vocabulary)
    assert [spelling.add(token) for token in of_bytes(b"\xe2\x82a\xffb")] == [
        "",
        "",
        "\ufffda",
        "\ufffd",
        "b",
    ]


def test_control_tokens_and_ids_of_no_token_give_no_text_even_within_a_character(
    vocabulary: Vocabulary,
) -> None:
    spelling = Spelling(vocabulary)
    first, second, third = of_bytes("€".encode())
    ids = [first, vocabulary.end_user, second, vocabulary.size, -1, third]
    assert [spelling.add(token) for token in ids] == ["", "", "", "", "", "€"]


def test_a_reply_taken_up_in_the_middle_of_a_character_goes_on_with_it(vocabulary: Vocabulary) -> None:
    ids = of_bytes("né".encode())
    spelling = Spelling(vocabulary)
    assert spelling.add_all(ids[:2]) == "n"
    assert spelling.add(ids[2]) == "é"


@pytest.mark.parametrize("text", ["[INST]", "</s>", "[AUDIO]", "<s>[/INST]", "<SPECIAL_20>"])
def test_the_name_of_a_control_token_is_only_text(vocabulary: Vocabulary, text: str) -> None:
    assert min(vocabulary.encode(text)) >= BYTES


@given(text=st.text())
def test_any_text_is_spelt_as_it_was_and_never_with_half_a_character(
    text: str, vocabulary: Vocabulary
) -> None:
    spelling = Spelling(vocabulary)
    shown = [spelling.add(token) for token in vocabulary.encode(text)]
    assert "".join(shown) == text
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in shown)
