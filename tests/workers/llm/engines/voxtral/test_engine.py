"""The engine as the handler uses it, beside the library's own way to answer."""

from __future__ import annotations

import asyncio
import threading
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import VoxtralForConditionalGeneration, VoxtralProcessor

from shared.audio import to_wav
from shared.errors import EngineError
from shared.settings import Settings
from shared.wire import Open, Token
from tests.conftest import eventually
from tests.workers.llm.engines.pausing import answer_after_pauses
from workers.llm.engines import ReplyRequest
from workers.llm.engines.voxtral import mel
from workers.llm.engines.voxtral.engine import Voxtral
from workers.llm.engines.voxtral.pieces import SAMPLE_RATE, WINDOW_BYTES, Window
from workers.llm.engines.voxtral.text import Spelling, Vocabulary
from workers.llm.history import Exchange

SECOND = SAMPLE_RATE * 2
"""Bytes of a second."""

TOKENS = 10


def voice(seed: int, seconds: float = 1.0) -> bytes:
    """A tone with noise, another for each seed."""
    chance = np.random.default_rng(seed)
    times = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    wave = 9000 * np.sin(2 * np.pi * chance.uniform(100, 2000) * times) + chance.normal(0, 900, len(times))
    return wave.astype("<i2").tobytes()


def request(
    turn: int = 1,
    spoken: Sequence[Token] = (),
    history: Sequence[Exchange] = (),
    conversation: str = "c",
    **settings: Any,
) -> ReplyRequest:
    opened = Open(**{"temperature": 0.0, "max_reply_tokens": TOKENS} | settings)
    return ReplyRequest(conversation, turn, opened, tuple(spoken), tuple(history))


async def arriving(pcm: bytes) -> AsyncIterator[bytes]:
    for begin in range(0, len(pcm), SECOND // 10):
        await asyncio.sleep(0)
        yield pcm[begin : begin + SECOND // 10]


async def answer(engine: Voxtral, asked: ReplyRequest, pcm: bytes = b"") -> list[Token]:
    return [token async for token in engine.process_chunked_streaming(asked, arriving(pcm))]


def ids(tokens: Sequence[Token]) -> list[int]:
    return [token for piece in tokens for token in piece.ids]


def make(folder: Path, **settings: Any) -> Voxtral:
    settings = {"voxtral_slots": 3, "voxtral_context": 2048} | settings
    script = settings.pop("script", None)
    return Voxtral(Settings(voxtral_model=str(folder), device="cpu", **settings), script=script)


@pytest.fixture(scope="module")
def engine(voxtral_folder: Path) -> Iterator[Voxtral]:
    """Three slots of 2,048 tokens."""
    engine = make(voxtral_folder)
    yield engine
    engine.close()


class Library:
    """The real processor and `generate`."""

    def __init__(self, folder: Path) -> None:
        self._processor = VoxtralProcessor.from_pretrained(folder)
        self._model = VoxtralForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)

    def sound(self, pcm: bytes) -> dict[str, str]:
        return {"type": "audio", "base64": b64encode(to_wav(pcm, SAMPLE_RATE)).decode()}

    def answer(self, *messages: tuple[str, Any], tokens: int = TOKENS) -> list[int]:
        conversation = [{"role": role, "content": content} for role, content in messages]
        inputs = self._processor.apply_chat_template(conversation, return_dict=True)
        answered = self._model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
        new: list[int] = answered[0, inputs["input_ids"].shape[1] :].tolist()
        return new


@pytest.fixture(scope="session")
def library(voxtral_folder: Path) -> Library:
    return Library(voxtral_folder)


async def test_an_utterance_is_answered_as_the_library_answers_it(engine: Voxtral, library: Library) -> None:
    pcm = voice(1, 2.5)
    answered = ids(await answer(engine, request(prompt="Be brief."), pcm))
    content = [library.sound(pcm), {"type": "text", "text": "Be brief."}]
    assert answered == library.answer(("user", content))
    assert len(set(answered)) > TOKENS / 2


async def test_a_conversation_of_voice_and_text_is_answered_as_the_library_answers_it(
    engine: Voxtral, library: Library
) -> None:
    history = [Exchange(1, voice(2), None, "One."), Exchange(2, b"", "And two?", "Two!")]
    answered = await answer(engine, request(turn=3, history=history), voice(3))
    assert ids(answered) == library.answer(
        ("user", [library.sound(voice(2))]),
        ("assistant", "One."),
        ("user", "And two?"),
        ("assistant", "Two!"),
        ("user", [library.sound(voice(3))]),
    )


async def test_a_typed_turn_is_answered_as_the_library_answers_it(engine: Voxtral, library: Library) -> None:
    answered = await answer(engine, request(text="What is </s>?", prompt="Be brief."))
    assert ids(answered) == library.answer(("user", "Be brief.\n\nWhat is </s>?"))


async def test_an_utterance_without_a_sample_is_answered_by_the_prompt_alone(
    engine: Voxtral, library: Library
) -> None:
    answered = await answer(engine, request(prompt="Say something."))
    assert ids(answered) == library.answer(("user", "Say something."))
    assert len(await answer(engine, request())) == TOKENS


async def test_several_conversations_at_once_are_answered_as_one_at_a_time(engine: Voxtral) -> None:
    """More of them than there are slots, and some sampled."""
    asked = [
        (request(conversation="a"), voice(4, 3.0)),
        (request(conversation="b", text="Hello!", max_reply_tokens=2 * TOKENS), b""),
        (request(conversation="c", temperature=1.0, history=[Exchange(1, b"", "Hi", "Yes")]), voice(5)),
        (request(conversation="d", max_reply_tokens=3), voice(6, 0.2)),
        (request(conversation="e", text="And you?", temperature=0.8, top_p=0.5), b""),
    ]
    alone = [ids(await answer(engine, one, pcm)) for one, pcm in asked]
    together = await asyncio.gather(*(answer(engine, one, pcm) for one, pcm in asked))
    assert [ids(tokens) for tokens in together] == alone
    assert len({tuple(tokens) for tokens in alone}) == len(asked)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("said", [1, 6, TOKENS])
async def test_a_turn_taken_over_goes_on_with_the_same_words(
    engine: Voxtral, temperature: float, said: int
) -> None:
    settings: dict[str, Any] = {"temperature": temperature, "prompt": "Be brief."}
    whole = await answer(engine, request(**settings), voice(7))
    rest = await answer(engine, request(spoken=whole[:said], **settings), voice(7))
    assert rest == whole[said:]


async def test_the_draw_is_another_for_each_turn_and_the_same_for_a_repeat(engine: Voxtral) -> None:
    async def say(**changes: Any) -> list[int]:
        return ids(await answer(engine, request(text="Hello!", temperature=1.0, **changes)))

    first = await say()
    assert await say() == first
    assert await say(turn=2) != first
    assert await say(conversation="other") != first
    assert await say(seed=1) == await say(seed=1, turn=2) != first


async def test_what_another_engine_said_is_taken_as_text(engine: Voxtral, vocabulary: Vocabulary) -> None:
    text = "Hello! Yes"
    mine = [Token(Spelling(vocabulary).add(token), (token,)) for token in vocabulary.encode(text)]
    rest = await answer(engine, request(text="Hello?", spoken=mine))
    for third in (2, 9_000_000):
        others = [Token("Hello", (0,)), Token("!", (1,)), Token(" Yes", (third,))]
        assert ids(await answer(engine, request(text="Hello?", spoken=others))) == ids(rest)
    unknown = [Token("", (9_000_000,))]
    assert await answer(engine, request(text="Hello?", spoken=unknown)) == await answer(
        engine, request(text="Hello?")
    )


async def test_the_text_of_the_tokens_is_that_of_their_ids(engine: Voxtral, vocabulary: Vocabulary) -> None:
    tokens = await answer(engine, request(text="Hello!", max_reply_tokens=40))
    assert "".join(token.text for token in tokens) == Spelling(vocabulary).add_all(ids(tokens))
    assert any(token.text for token in tokens)


async def test_a_whole_reply_is_the_text_of_the_streamed_one(engine: Voxtral) -> None:
    streamed = await answer(engine, request(), voice(8))
    assert await engine.process_realtime_chunk(request(), voice(8)) == "".join(t.text for t in streamed)


async def test_nothing_is_computed_on_the_event_loops_thread(
    engine: Voxtral, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    real = mel.log_mel

    def watched(pcm: bytes, filters: torch.Tensor) -> torch.Tensor:
        threads.append(threading.current_thread().name)
        return real(pcm, filters)

    monkeypatch.setattr(mel, "log_mel", watched)
    await answer(engine, request(), voice(9))
    assert threads == ["voxtral"]


class Speaker:
    """Somebody who speaks when the test says so."""

    def __init__(self, engine: Voxtral, asked: ReplyRequest) -> None:
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._stream: AsyncGenerator[Token, None] = engine.process_chunked_streaming(asked, self._audio())
        self._answer = asyncio.ensure_future(self._collect())

    async def _audio(self) -> AsyncIterator[bytes]:
        while (piece := await self._pieces.get()) is not None:
            yield piece

    async def _collect(self) -> list[int]:
        async with aclosing(self._stream) as tokens:
            return [token async for piece in tokens for token in piece.ids]

    def say(self, pcm: bytes) -> None:
        self._pieces.put_nowait(pcm)

    async def end(self) -> list[int]:
        self._pieces.put_nowait(None)
        return await self._answer


Counts = Callable[[], tuple[int, int]]


@pytest.fixture
def work(engine: Voxtral, monkeypatch: pytest.MonkeyPatch) -> Counts:
    """Counts windows heard and places taken in."""
    heard: list[int] = []
    taken: list[int] = []
    decoder = engine._runner._batch._decoder
    encode, prefill = decoder.encode, decoder.prefill

    def count_window(window: Window) -> Any:
        heard.append(len(window.pcm))
        return encode(window)

    def count_places(slot: int, start: int, embeddings: torch.Tensor) -> Any:
        taken.append(len(embeddings))
        return prefill(slot, start, embeddings)

    monkeypatch.setattr(decoder, "encode", count_window)
    monkeypatch.setattr(decoder, "prefill", count_places)
    return lambda: (sum(heard), sum(taken))


async def test_what_was_said_before_and_each_half_minute_are_taken_in_while_the_user_speaks(
    engine: Voxtral, work: Counts
) -> None:
    past = Exchange(1, voice(10), None, "One.")
    speaker = Speaker(engine, request(turn=2, history=[past]))
    await eventually(lambda: work()[0] == len(past.audio) and work()[1] > 375, "the history is taken in")
    pcm = voice(11, 31.5)
    for begin in range(0, len(pcm), SECOND):
        speaker.say(pcm[begin : begin + SECOND])
    await eventually(lambda: work()[0] == len(past.audio) + WINDOW_BYTES, "the first half minute is heard")
    await eventually(lambda: work()[1] > 750, "the first half minute is taken in")
    answered = await speaker.end()
    assert work()[0] == len(past.audio) + len(pcm)
    assert len(answered) == TOKENS


async def test_a_turn_that_is_closed_leaves_its_slot_to_the_next(voxtral_folder: Path) -> None:
    engine = make(voxtral_folder, voxtral_slots=1, voxtral_context=1024)
    alone = await answer(engine, request(text="Hello!"))
    async with aclosing(
        engine.process_chunked_streaming(request(max_reply_tokens=600), arriving(voice(12)))
    ) as tokens:
        assert await anext(tokens)
    assert await answer(engine, request(text="Hello!")) == alone
    engine.close()


async def test_a_turn_cancelled_while_the_user_speaks_leaves_nothing_behind(engine: Voxtral) -> None:
    speaker = Speaker(engine, request())
    speaker.say(voice(13))
    cache = engine._runner._batch._cache
    await eventually(lambda: cache.free_slots == 2, "the turn holds a slot")
    speaker._answer.cancel()
    await asyncio.wait([speaker._answer])
    await eventually(lambda: cache.free_slots == 3, "the slot is free")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_answers_that_were_taken_back_change_no_token_of_the_one_that_stands(
    temperature: float, engine: Voxtral
) -> None:
    asked = request(turn=2, history=[Exchange(1, voice(30), None, "One.")], temperature=temperature)
    pieces = [voice(seed, 0.7) for seed in (31, 32, 33)]
    alone = await answer(engine, asked, b"".join(pieces))
    assert await answer_after_pauses(engine, asked, *pieces) == alone
    assert await answer(engine, asked, pieces[0]) != alone
    await eventually(lambda: engine._runner._batch._cache.free_slots == 3, "every slot is free")


async def test_one_slot_is_enough_to_think_ahead_in_and_is_free_again(voxtral_folder: Path) -> None:
    engine = make(voxtral_folder, voxtral_slots=1, voxtral_context=1024)
    asked = request(max_reply_tokens=40)
    alone = await answer(engine, asked, voice(34) + voice(35))
    assert await answer_after_pauses(engine, asked, voice(34), voice(35)) == alone
    await eventually(lambda: engine._runner._batch._cache.free_slots == 1, "the slot is free")
    engine.close()


async def test_whether_there_is_room_is_known_after_each_step(voxtral_folder: Path) -> None:
    engine = make(voxtral_folder, voxtral_slots=1, voxtral_context=1024)
    first, second = Speaker(engine, request()), Speaker(engine, request())
    cache = engine._runner._batch._cache
    await eventually(lambda: cache.free_slots == 0 and not engine.spare, "two speak, and there is one slot")
    second._answer.cancel()
    await eventually(lambda: engine.spare, "who has the slot is alone")
    await first.end()
    engine.close()


async def test_a_turn_that_fails_leaves_the_others_alone(
    engine: Voxtral, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = voice(14, 0.5)
    decoder = engine._runner._batch._decoder
    encode = decoder.encode

    def break_one(window: Window) -> Any:
        if window.pcm == bad:
            raise RuntimeError("the encoder broke")
        return encode(window)

    good = [(request(max_reply_tokens=30), voice(15)), (request(text="Hello!"), b"")]
    alone = [ids(await answer(engine, *one)) for one in good]
    monkeypatch.setattr(decoder, "encode", break_one)
    *answers, failure = await asyncio.gather(
        *(answer(engine, *one) for one in good), answer(engine, request(), bad), return_exceptions=True
    )
    assert isinstance(failure, EngineError)
    assert "the encoder broke" in str(failure)
    assert [ids(tokens) for tokens in answers if isinstance(tokens, list)] == alone


async def test_the_oldest_turns_are_forgotten_where_the_context_does_not_hold_all(
    voxtral_folder: Path,
) -> None:
    engine = make(voxtral_folder, voxtral_context=1280, max_utterance_s=30)
    history = [Exchange(turn, voice(turn), None, f"Answer {turn}.") for turn in range(1, 6)]
    answered = await answer(engine, request(turn=6, history=history), voice(20))
    assert answered == await answer(engine, request(turn=6, history=history[-2:]), voice(20))
    assert answered != await answer(engine, request(turn=6, history=history[-1:]), voice(20))
    engine.close()


async def test_a_prompt_that_never_fits_is_refused_while_the_user_still_speaks(voxtral_folder: Path) -> None:
    engine = make(voxtral_folder, voxtral_context=512)
    with pytest.raises(EngineError, match="VOXTRAL_CONTEXT=512") as refusal:
        await answer(engine, request(), voice(21, 61))
    assert not refusal.value.retryable
    engine.close()


async def test_a_script_is_said_in_place_of_what_the_model_says_from_wherever_it_is_taken_up(
    voxtral_folder: Path,
) -> None:
    script = ("Hello", "!", " Yes", ",", " 🦜.")
    engine = make(voxtral_folder, script=script, voxtral_context=1024)
    tokens = await answer(engine, request(max_reply_tokens=100), voice(22))
    assert "".join(token.text for token in tokens) == "".join(script)
    assert any(not token.text for token in tokens), "no character came in parts"
    for said in range(len(tokens)):
        resumed = request(max_reply_tokens=100, spoken=tokens[:said])
        assert await answer(engine, resumed, voice(22)) == tokens[said:]
    engine.close()


def test_an_engine_that_does_not_fit_is_refused_with_what_it_wanted(
    voxtral_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("out of memory. Tried to allocate 1 GiB.\nMore about it.")

    monkeypatch.setattr("workers.llm.engines.voxtral.engine.Decoder", full)
    with pytest.raises(EngineError) as refusal:
        make(voxtral_folder)
    wanted = "on cpu in float32, 3 slots of 2048 tokens"
    assert str(refusal.value) == f"cannot set up Voxtral {wanted}: out of memory. Tried to allocate 1 GiB."


def test_the_engine_says_where_it_computes_and_for_how_many(engine: Voxtral) -> None:
    assert engine.description == "on cpu in float32, 3 slots of 2048 tokens"


def test_a_past_turn_costs_its_windows_and_its_words(engine: Voxtral, vocabulary: Vocabulary) -> None:
    words = len(vocabulary.encode("Certainly not."))
    assert engine.cost(Exchange(1, bytes(31 * SECOND), None, "Certainly not.")) == 751 + words + 3
