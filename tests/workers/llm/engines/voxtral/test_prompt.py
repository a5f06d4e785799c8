"""The prompt beside what the real tokenizer's chat template makes of the same conversation."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import MistralCommonBackend

from shared.audio import to_wav
from workers.llm.engines.voxtral import prompt
from workers.llm.engines.voxtral.pieces import SAMPLE_RATE, WINDOW_BYTES, WINDOW_TOKENS, Ids, Piece, Window
from workers.llm.engines.voxtral.text import Vocabulary
from workers.llm.history import Exchange

SECOND_BYTES = SAMPLE_RATE * 2


@pytest.fixture(scope="session")
def backend(voxtral_folder: Path) -> Any:
    return MistralCommonBackend.from_pretrained(voxtral_folder)


def said(seconds: float = 0, text: str | None = None, reply: str = "") -> Exchange:
    return Exchange(1, bytes(round(seconds * SECOND_BYTES)), text, reply)


def ids_of(pieces: Sequence[Piece], vocabulary: Vocabulary) -> list[int]:
    parts = (piece.ids if isinstance(piece, Ids) else (vocabulary.audio,) * WINDOW_TOKENS for piece in pieces)
    return [token for part in parts for token in part]


class Template:
    """The chat template."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def sound(self, seconds: float) -> dict[str, str]:
        wav = to_wav(bytes(round(seconds * SECOND_BYTES)), SAMPLE_RATE)
        return {"type": "audio", "base64": b64encode(wav).decode()}

    def ids(self, *messages: tuple[str, Any]) -> list[int]:
        conversation = [{"role": role, "content": content} for role, content in messages]
        ids: list[int] = self._backend.apply_chat_template(conversation, tokenize=True)["input_ids"]
        return ids


@pytest.fixture
def template(backend: Any) -> Template:
    return Template(backend)


@pytest.mark.parametrize("seconds", [0.5, 30, 30.5, 61])
def test_an_utterance_with_a_prompt_is_as_the_template_has_it(
    template: Template, vocabulary: Vocabulary, seconds: float
) -> None:
    turn = [
        *prompt.opening(vocabulary, (), typed=False),
        *prompt.user(vocabulary, [bytes(round(seconds * SECOND_BYTES))]),
        prompt.closing(vocabulary, ["Be brief."], ()),
    ]
    content = [template.sound(seconds), {"type": "text", "text": "Be brief."}]
    assert ids_of(turn, vocabulary) == template.ids(("user", content))


def test_a_typed_conversation_is_as_the_template_has_it(template: Template, vocabulary: Vocabulary) -> None:
    history = [said(text="Hello </s>", reply=" Hi! "), said(text="¿Qué?", reply="[INST]")]
    turn = [
        *prompt.opening(vocabulary, history, typed=True),
        prompt.closing(vocabulary, ["And now?"], ()),
    ]
    assert ids_of(turn, vocabulary) == template.ids(
        ("user", "Hello </s>"),
        ("assistant", " Hi! "),
        ("user", "¿Qué?"),
        ("assistant", "[INST]"),
        ("user", "And now?"),
    )


def test_a_spoken_conversation_is_as_the_template_has_it(template: Template, vocabulary: Vocabulary) -> None:
    history = [said(1, reply="One."), said(31, reply="Two.")]
    turn = [
        *prompt.opening(vocabulary, history, typed=False),
        *prompt.user(vocabulary, [bytes(2 * SECOND_BYTES)]),
        prompt.closing(vocabulary, (), ()),
    ]
    assert ids_of(turn, vocabulary) == template.ids(
        ("user", [template.sound(1)]),
        ("assistant", "One."),
        ("user", [template.sound(31)]),
        ("assistant", "Two."),
        ("user", [template.sound(2)]),
    )


def test_turns_that_nobody_heard_an_answer_to_are_one_with_the_next(
    template: Template, vocabulary: Vocabulary
) -> None:
    history = [
        said(text="One"),
        said(text="two"),
        said(1),
        said(text="three", reply="Four."),
        said(text="Five"),
    ]
    turn = [*prompt.opening(vocabulary, history, typed=True), prompt.closing(vocabulary, ["six"], ())]
    assert ids_of(turn, vocabulary) == template.ids(
        ("user", "One"),
        ("user", "two"),
        ("user", [template.sound(1)]),
        ("user", "three"),
        ("assistant", "Four."),
        ("user", "Five"),
        ("user", "six"),
    )


def test_a_text_before_sound_is_as_the_template_has_it(template: Template, vocabulary: Vocabulary) -> None:
    turn = [
        *prompt.opening(vocabulary, [said(text="Hear this.")], typed=False),
        *prompt.user(vocabulary, [bytes(SECOND_BYTES)]),
        prompt.closing(vocabulary, (), ()),
    ]
    assert ids_of(turn, vocabulary) == template.ids(("user", "Hear this."), ("user", [template.sound(1)]))


def test_what_was_said_of_the_answer_stands_behind_the_turn(vocabulary: Vocabulary) -> None:
    assert prompt.closing(vocabulary, (), (5000, 5001)).ids == (vocabulary.end_user, 5000, 5001)


def test_the_prompt_comes_before_what_was_typed(vocabulary: Vocabulary) -> None:
    ids = prompt.closing(vocabulary, ["Be brief.", "Why?"], ()).ids
    assert ids == (*vocabulary.encode("Be brief.\n\nWhy?"), vocabulary.end_user)


def test_sound_is_cut_into_windows_with_the_rest_in_the_last() -> None:
    pcm = bytes(range(256)) * (WINDOW_BYTES // 256) + b"rest"
    assert list(prompt.windows(pcm)) == [Window(pcm[:WINDOW_BYTES]), Window(b"rest")]


@pytest.mark.parametrize(
    "exchange",
    [
        said(0.1, reply="Yes."),
        said(30, reply="Yes."),
        said(30.1, reply="Yes."),
        said(text="No?", reply="No!"),
    ],
)
def test_a_past_turn_costs_what_it_adds_to_the_prompt(vocabulary: Vocabulary, exchange: Exchange) -> None:
    before = prompt.opening(vocabulary, (), typed=False)
    after = prompt.opening(vocabulary, [exchange], typed=False)
    added = len(ids_of(after, vocabulary)) - len(ids_of(before, vocabulary))
    assert prompt.cost(vocabulary, exchange) == added


def test_the_oldest_turns_go_first_where_not_all_fit(vocabulary: Vocabulary) -> None:
    history = [said(text="Hello", reply="Hi."), said(1, reply="Yes."), said(text="And?", reply="No.")]
    costs = [prompt.cost(vocabulary, exchange) for exchange in history]
    assert prompt.fitting(vocabulary, history, sum(costs)) == history
    assert prompt.fitting(vocabulary, history, sum(costs) - 1) == history[1:]
    # The old one would fit where the middle one does not; but then there were a gap.
    assert prompt.fitting(vocabulary, history, costs[2] + costs[0]) == history[2:]
    assert prompt.fitting(vocabulary, history, -1) == []
