"""The engine against a real endpoint that answers, goes on, refuses, hangs and breaks as it is told."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import pytest

from shared.audio import INPUT_RATE, to_wav
from shared.errors import EngineError, SettingsError
from shared.settings import Settings
from shared.wire import Open, Token
from tests.conftest import WITHIN_S, eventually
from tests.endpoint import (
    DONE,
    MODEL,
    WORDS,
    Answer,
    Endpoint,
    breaks,
    event,
    hangs,
    refuses,
    says,
    sends,
    sounds,
)
from tests.stack import free_port
from tests.workers.llm.engines.openai.conftest import Asking
from tests.workers.llm.engines.pausing import answer_after_pauses
from workers.llm.engines import ReplyRequest
from workers.llm.engines.openai import Openai
from workers.llm.engines.openai import endpoint as endpoint_module
from workers.llm.history import Exchange
from workers.packages import COMMAND

PCM = bytes(range(256)) * 50
SECRET = "sk-secret-1234"
REPLY = "".join(WORDS)


def request(
    spoken: tuple[str, ...] = (), history: tuple[Exchange, ...] = (), **settings: Any
) -> ReplyRequest:
    tokens = tuple(Token(text, (place,)) for place, text in enumerate(spoken))
    return ReplyRequest("conversation", 1, Open(**settings), tokens, history)


async def utterance(pcm: bytes = PCM) -> AsyncIterator[bytes]:
    for begin in range(0, len(pcm), 640):
        yield pcm[begin : begin + 640]


async def answer(engine: Openai, asked: ReplyRequest | None = None) -> list[Token]:
    return [token async for token in engine.process_chunked_streaming(asked or request(), utterance())]


async def failure(engine: Openai, asked: ReplyRequest | None = None) -> EngineError:
    with pytest.raises(EngineError) as failed:
        await answer(engine, asked)
    assert "\n" not in str(failed.value)
    return failed.value


# What is asked, and what comes


async def test_after_answers_that_were_taken_back_the_whole_utterance_is_asked_about(
    endpoint: Endpoint, asking: Asking
) -> None:
    endpoint.answers = [hangs("I", " think"), hangs("Or"), says(*WORDS)]
    engine = asking()
    assert engine.spare
    tokens = await answer_after_pauses(engine, request(), PCM[:640], PCM[640:6400], PCM[6400:])
    assert tokens == [Token(word, (place,)) for place, word in enumerate(WORDS)]
    assert [sounds(call.json) for call in endpoint.asked] == [
        [to_wav(pcm, INPUT_RATE)] for pcm in (PCM[:640], PCM[:6400], PCM)
    ]
    await eventually(lambda: [call.left for call in endpoint.asked] == [True, True, False], "both are left")


async def test_an_utterance_is_answered_token_by_token(endpoint: Endpoint, asking: Asking) -> None:
    tokens = await answer(asking())
    assert tokens == [Token(word, (place,)) for place, word in enumerate(WORDS)]
    (call,) = endpoint.asked
    assert call.json["model"] == MODEL
    assert call.json["stream"] is True
    assert sounds(call.json) == [to_wav(PCM, INPUT_RATE)]


async def test_a_typed_turn_is_asked_in_text_and_without_listening(
    endpoint: Endpoint, asking: Asking
) -> None:
    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("a typed turn has no audio")
        yield b""

    stream = asking().process_chunked_streaming(request(text="Hello?"), never())
    assert "".join([token.text async for token in stream]) == REPLY
    (call,) = endpoint.asked
    assert call.json["messages"] == [{"role": "user", "content": "Hello?"}]


async def test_an_utterance_without_sound_is_sent_without(endpoint: Endpoint, asking: Asking) -> None:
    stream = asking().process_chunked_streaming(request(prompt="Greet."), utterance(b""))
    assert "".join([token.text async for token in stream]) == REPLY
    (call,) = endpoint.asked
    assert [message["role"] for message in call.json["messages"]] == ["system", "user"]
    assert sounds(call.json) == []


async def test_what_was_said_before_is_sent_along(endpoint: Endpoint, asking: Asking) -> None:
    history = (Exchange(1, PCM[:100], None, "Yes."), Exchange(2, b"", "typed", ""))
    await answer(asking(), request(history=history))
    (call,) = endpoint.asked
    assert sounds(call.json) == [to_wav(PCM[:100], INPUT_RATE), to_wav(PCM, INPUT_RATE)]
    assert [message["role"] for message in call.json["messages"]] == ["user", "assistant", "user"]


async def test_nothing_is_asked_before_the_utterance_has_ended(endpoint: Endpoint, asking: Asking) -> None:
    arriving: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def live() -> AsyncIterator[bytes]:
        while (piece := await arriving.get()) is not None:
            yield piece

    first = asyncio.ensure_future(anext(asking().process_chunked_streaming(request(), live())))
    arriving.put_nowait(PCM)
    await eventually(lambda: endpoint.looked_up > 0 and arriving.empty(), "the connection is opened")
    assert endpoint.asked == []
    arriving.put_nowait(None)
    assert (await first).text == WORDS[0]


async def test_the_question_goes_over_a_connection_that_is_open_already(
    endpoint: Endpoint, asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    resting: asyncio.Queue[asyncio.Future[None]] = asyncio.Queue()

    async def rest(seconds: float) -> None:
        assert seconds < 5, "servers drop what is idle for longer"
        over = asyncio.get_running_loop().create_future()
        resting.put_nowait(over)
        await over

    async def speaking() -> AsyncIterator[bytes]:
        yield PCM
        async with asyncio.timeout(WITHIN_S):
            for _ in range(3):
                (await resting.get()).set_result(None)
            await resting.get()
        yield PCM

    monkeypatch.setattr(endpoint_module, "asyncio", SimpleNamespace(sleep=rest))
    engine = asking()
    stream = engine.process_chunked_streaming(request(), speaking())
    assert "".join([token.text async for token in stream]) == REPLY
    assert (endpoint.looked_up, endpoint.connections) == (4, 1)


async def test_an_endpoint_that_lists_no_models_is_asked_all_the_same(
    endpoint: Endpoint, asking: Asking
) -> None:
    endpoint.models = refuses(404)
    engine = asking()

    async def speaking() -> AsyncIterator[bytes]:
        await eventually(lambda: endpoint.looked_up > 0, "the connection is opened")
        yield PCM

    stream = engine.process_chunked_streaming(request(), speaking())
    assert "".join([token.text async for token in stream]) == REPLY


async def test_the_connection_of_one_answer_serves_the_next(endpoint: Endpoint, asking: Asking) -> None:
    engine = asking()
    for _ in range(3):
        await answer(engine, request(text="hi"))
    assert endpoint.connections == 1


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_events_may_be_cut_anywhere(size: int, endpoint: Endpoint, asking: Asking) -> None:
    stream = b": warming up\r\n\r\n" + b"".join(event(word) for word in ("Grüß ", "Gött", "in 🙂"))
    stream += event(None, delta={}, finish_reason="stop") + DONE
    endpoint.answers = [sends(*(stream[at : at + size] for at in range(0, len(stream), size)))]
    assert [token.text for token in await answer(asking())] == ["Grüß ", "Gött", "in 🙂"]


async def test_events_without_text_are_passed_over(endpoint: Endpoint, asking: Asking) -> None:
    odd = b'data: {"choices": []}\n\ndata: {"choices": null}\n\ndata: {"usage": {}}\n\ndata: 1\n\n'
    endpoint.answers = [
        sends(
            event(None), event(""), odd, event("a"), event("", delta=None), event("", delta={"content": [1]}),
            event("b", finish_reason="length"), event("c"), DONE,
        )
    ]  # fmt: skip
    assert await answer(asking()) == [Token("a", (0,)), Token("b", (1,))]


async def test_half_a_character_is_replaced(endpoint: Endpoint, asking: Asking) -> None:
    endpoint.answers = [says("a\ud83d", "\ude00b", "\ud83d\ude00")]
    assert [token.text for token in await answer(asking())] == [
        "a\ufffd",
        "\ufffdb",
        "🙂".replace("🙂", "😀"),
    ]


async def test_an_answer_whose_stream_stays_open_is_whole_all_the_same(
    endpoint: Endpoint, asking: Asking
) -> None:
    async def linger(call: Any) -> None:
        await call.begin(Content_Type="text/event-stream")
        await call.say("all", finish_reason="stop")
        await call.wait_until_left()

    endpoint.answers = [linger]
    assert [token.text for token in await answer(asking())] == ["all"]
    await eventually(lambda: endpoint.asked[0].left, "the connection is closed")


async def test_where_no_system_message_may_stand_beside_sound_it_is_asked_the_other_way(
    endpoint: Endpoint, asking: Asking
) -> None:
    endpoint.takes_system = False
    engine = asking()
    for _ in range(2):
        assert "".join(token.text for token in await answer(engine, request(prompt="Be brief."))) == REPLY
    roles = [[message["role"] for message in call.json["messages"]] for call in endpoint.asked]
    assert roles == [["system", "user"], ["user"], ["user"]]
    assert endpoint.asked[-1].json["messages"][0]["content"][-1] == {"type": "text", "text": "Be brief."}


async def test_the_whole_answer_is_the_tokens_joined(asking: Asking) -> None:
    assert await asking().process_realtime_chunk(request(), PCM) == REPLY


# Going on after a dead peer


async def test_an_endpoint_that_can_goes_on_with_the_answer(endpoint: Endpoint, asking: Asking) -> None:
    tokens = await answer(asking(), request(WORDS[:4], max_reply_tokens=100))
    assert tokens == [Token(word, (place,)) for place, word in enumerate(WORDS)][4:]
    (call,) = endpoint.asked
    assert call.json["messages"][-1] == {"role": "assistant", "content": "Hello! Yes,"}
    assert call.json["max_tokens"] == 96
    assert sounds(call.json) == [to_wav(PCM, INPUT_RATE)]


async def test_whether_it_can_is_asked_once_and_after_a_failure_again(
    endpoint: Endpoint, asking: Asking
) -> None:
    engine = asking()
    for _ in range(2):
        await answer(engine, request(WORDS[:4]))
    assert endpoint.looked_up == 1
    endpoint.answers = [breaks()]
    await failure(engine, request(WORDS[:4]))
    await answer(engine, request(WORDS[:4]))
    assert endpoint.looked_up == 2


@pytest.mark.parametrize(
    ("said", "rest", "then"),
    [
        (("Yes, ",), (" I",), "Yes, I"),
        (("Yes, ",), ("I",), "Yes, I"),
        (("Yes,", " \n"), (" ", "\n", "I"), "Yes, \nI"),
        (("Yes,", " \n"), (" ", "I"), "Yes, \nI"),
    ],
)
async def test_blanks_at_the_seam_come_once(
    said: tuple[str, ...], rest: tuple[str, ...], then: str, endpoint: Endpoint, asking: Asking
) -> None:
    endpoint.answers = [says(*rest)]
    tokens = await answer(asking(), request(said))
    assert endpoint.asked[0].json["messages"][-1]["content"] == "Yes,"
    assert "".join([*said, *(token.text for token in tokens)]) == then
    assert tokens[0].ids == (len(said),)


async def test_after_blanks_alone_it_begins_anew(endpoint: Endpoint, asking: Asking) -> None:
    endpoint.owned_by = "nobody"
    tokens = await answer(asking(), request(("\n",)))
    assert "".join(token.text for token in tokens) == REPLY
    assert tokens[0].ids == (1,)
    assert endpoint.asked[0].json["messages"][-1]["role"] == "user"


async def test_an_answer_of_full_length_is_not_gone_on_with(endpoint: Endpoint, asking: Asking) -> None:
    assert await answer(asking(OPENAI_CONTINUE="no"), request(WORDS[:3], max_reply_tokens=3)) == []
    assert endpoint.calls == []


@pytest.mark.parametrize(
    ("env", "owned_by"),
    [({"OPENAI_CONTINUE": "no"}, "vllm"), ({"OPENAI_CONTINUE": "auto"}, "openai"), ({}, "")],
)
async def test_where_the_endpoint_cannot_go_on_the_turn_ends_and_may_be_asked_again(
    env: dict[str, str], owned_by: str, endpoint: Endpoint, asking: Asking
) -> None:
    endpoint.owned_by, endpoint.continues = owned_by, "begins anew"
    failed = await failure(asking(**env), request(WORDS[:4]))
    assert (failed.retryable, failed.final) == (True, True)
    assert "OPENAI_CONTINUE" in str(failed)
    assert endpoint.asked == []


async def test_who_says_that_it_can_is_believed(endpoint: Endpoint, asking: Asking) -> None:
    endpoint.owned_by = "nobody"
    tokens = await answer(asking(OPENAI_CONTINUE="yes"), request(WORDS[:4]))
    assert [token.text for token in tokens] == list(WORDS[4:])
    assert endpoint.looked_up == 0


async def test_an_endpoint_that_refuses_to_go_on_ends_the_turn(endpoint: Endpoint, asking: Asking) -> None:
    endpoint.continues = "refuses"
    failed = await failure(asking(OPENAI_CONTINUE="yes"), request(WORDS[:4], prompt="Be brief."))
    assert (failed.retryable, failed.final) == (True, True)
    assert "not permitted" in str(failed)


async def test_an_endpoint_that_lists_nothing_is_not_said_to_go_on(
    endpoint: Endpoint, asking: Asking
) -> None:
    for models in (
        refuses(404),
        refuses(401),
        sends(b"{"),
        sends(b"[1]"),
        sends(b'{"data": [1, {"id": 2}]}'),
    ):
        endpoint.models = models
        assert (await failure(asking(), request(WORDS[:4]))).final


async def test_while_nobody_can_say_the_attempt_is_made_again(endpoint: Endpoint, asking: Asking) -> None:
    for models in (refuses(503), breaks(), hangs()):
        endpoint.models = models
        failed = await failure(asking(OPENAI_TIMEOUT_S="0.1"), request(WORDS[:4]))
        assert (failed.retryable, failed.final) == (True, False)


# Failures


BROKEN: dict[str, Answer] = {
    "reset in the middle": breaks("Hello"),
    "reset before its first word": breaks(),
    "ends without an end": says("Hello", finish=None),
    "an error in the stream": sends(event("Hello"), b'data: {"error": {"message": "out of memory"}}\n\n'),
    "an error of vLLM in the stream": sends(
        event("Hello"), b'data: {"object": "error", "message": "no"}\n\n'
    ),
    "no JSON": sends(event("Hello"), b"data: {\n\n"),
    "no UTF-8": sends(event("Hello"), b"data: \xff\n\n"),
    "no stream": sends(b'{"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]}'),
    "an end in error": says("Hello", finish="error"),
}


@pytest.mark.parametrize("how", BROKEN)
async def test_a_broken_answer_may_be_tried_again(how: str, endpoint: Endpoint, asking: Asking) -> None:
    endpoint.answers = [BROKEN[how]]
    failed = await failure(asking())
    assert (failed.retryable, failed.final) == (True, False)
    assert "endpoint" in str(failed)


async def test_what_came_before_the_break_stands(endpoint: Endpoint, asking: Asking) -> None:
    endpoint.answers = [breaks("Hello", "!")]
    said = []
    with pytest.raises(EngineError, match="broke its answer off"):
        async for token in asking().process_chunked_streaming(request(), utterance()):
            said.append(token.text)
    assert said == ["Hello", "!"]


@pytest.mark.parametrize("words", [(), ("Hello",)], ids=["at once", "in the middle"])
async def test_silence_is_an_error_in_time(
    words: tuple[str, ...], endpoint: Endpoint, asking: Asking
) -> None:
    endpoint.answers = [hangs(*words)]
    failed = await failure(asking(OPENAI_TIMEOUT_S="0.1"))
    assert failed.retryable
    assert str(failed) == "the endpoint was silent for 0.1 s (OPENAI_TIMEOUT_S)"
    await eventually(lambda: endpoint.asked[0].left, "the connection is closed")


async def test_where_nobody_listens_it_may_be_tried_again(asking: Asking) -> None:
    failed = await failure(asking(OPENAI_BASE_URL=f"http://127.0.0.1:{free_port()}/v1"))
    assert failed.retryable
    assert "OPENAI_BASE_URL cannot be reached" in str(failed)


@pytest.mark.parametrize("status", [400, 401, 403, 404])
async def test_a_refusal_names_the_status_and_the_reason(
    status: int, endpoint: Endpoint, asking: Asking
) -> None:
    endpoint.answers = [refuses(status, f"The model does not exist for {SECRET}.")]
    failed = await failure(asking(OPENAI_API_KEY=SECRET))
    assert not failed.retryable
    assert str(status) in str(failed)
    assert str(failed).endswith("The model does not exist for ….")


async def test_a_refusal_does_not_repeat_what_was_said(endpoint: Endpoint, asking: Asking) -> None:
    endpoint.answers = [refuses(400, "bad input: 'I have a secret'")]
    failed = await failure(asking(), request(text="Listen: I have a secret."))
    assert str(failed) == "the endpoint refused with status 400 Bad Request"


async def test_before_another_attempt_it_waits_as_it_is_asked(
    endpoint: Endpoint, asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    async def wait(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(endpoint_module, "asyncio", SimpleNamespace(sleep=wait))
    endpoint.answers = [refuses(429, Retry_After="1.5")]
    failed = await failure(asking(), request(text="hi"))
    assert waits == [1.5]
    assert (failed.retryable, failed.final) == (True, False)
    assert len(endpoint.asked) == 1


async def test_who_asks_for_a_long_wait_gets_no_other_attempt(endpoint: Endpoint, asking: Asking) -> None:
    endpoint.answers = [refuses(503, Retry_After="30")]
    failed = await failure(asking())
    assert (failed.retryable, failed.final) == (True, True)
    assert "30 s" in str(failed)


async def test_what_a_filter_cuts_ends_there_and_is_refused_where_nothing_is_left(
    endpoint: Endpoint, asking: Asking
) -> None:
    endpoint.answers = [says("Well", finish="content_filter"), says(finish="content_filter")]
    engine = asking()
    assert [token.text for token in await answer(engine)] == ["Well"]
    failed = await failure(engine)
    assert not failed.retryable


async def test_whoever_stops_listening_closes_the_connection(endpoint: Endpoint, asking: Asking) -> None:
    endpoint.answers = [hangs("Hello", "!")]
    async with aclosing(asking().process_chunked_streaming(request(), utterance())) as stream:
        assert (await anext(stream)).text == "Hello"
    await eventually(lambda: endpoint.asked[0].left, "the endpoint sees it")


async def test_a_request_that_is_cancelled_before_its_answer_closes_the_connection(
    endpoint: Endpoint, asking: Asking
) -> None:
    endpoint.answers = [hangs()]
    waiting = asyncio.ensure_future(answer(asking()))
    await eventually(lambda: bool(endpoint.asked), "the question")
    waiting.cancel()
    await asyncio.wait([waiting])
    await eventually(lambda: endpoint.asked[0].left, "the endpoint sees it")


async def test_one_that_fails_leaves_the_others_alone(endpoint: Endpoint, asking: Asking) -> None:
    endpoint.answers = [breaks("Hello")]
    engine = asking()
    failed, *told = await asyncio.gather(*(answer(engine) for _ in range(5)), return_exceptions=True)
    told = [each for each in (failed, *told) if not isinstance(each, EngineError)]
    assert [["".join(token.text for token in each)] for each in told if isinstance(each, list)] == [
        [REPLY]
    ] * 4


# The key, and what else it needs


async def test_the_key_is_shown_to_the_endpoint_and_in_no_log(
    endpoint: Endpoint, asking: Asking, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    endpoint.answers = [says("Hello"), refuses(401, f"Incorrect API key: {SECRET}")]
    engine = asking(OPENAI_API_KEY=SECRET)
    await answer(engine, request(prompt="a prompt nobody logs"))
    await failure(engine)
    assert [call.headers["authorization"] for call in endpoint.asked] == [f"Bearer {SECRET}"] * 2
    assert SECRET not in caplog.text
    assert "nobody logs" not in caplog.text


async def test_without_a_key_none_is_shown(endpoint: Endpoint, asking: Asking) -> None:
    await answer(asking())
    assert all("authorization" not in call.headers for call in endpoint.calls)


@pytest.mark.parametrize(
    ("env", "named"),
    [
        ({"OPENAI_MODEL": "m"}, "OPENAI_BASE_URL"),
        ({"OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}, "OPENAI_MODEL"),
        ({}, "OPENAI_BASE_URL and OPENAI_MODEL"),
    ],
)
def test_a_missing_setting_is_named(env: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=f"needs {named}; not set"):
        Openai(Settings.from_env(env))


def test_without_the_client_library_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    monkeypatch.delitem(sys.modules, "workers.llm.engines.openai.endpoint")
    with pytest.raises(EngineError, match=f"LLM_ENGINE=openai needs the package 'openai'.*{COMMAND}"):
        Openai(Settings(openai_base_url="http://127.0.0.1:1/v1", openai_model="m"))


async def test_the_model_is_named(asking: Asking) -> None:
    assert (asking().name, asking().description) == ("openai", MODEL)


async def test_a_past_turn_costs_its_windows_and_its_text(asking: Asking) -> None:
    engine = asking()
    second = 2 * INPUT_RATE
    assert engine.cost(Exchange(1, bytes(second), None, "")) == 375
    assert engine.cost(Exchange(1, bytes(30 * second), None, "")) == 375
    assert engine.cost(Exchange(1, bytes(30 * second + 2), None, "a" * 40)) == 2 * 375 + 14
    assert engine.cost(Exchange(1, b"", "a" * 8, "")) == 6
