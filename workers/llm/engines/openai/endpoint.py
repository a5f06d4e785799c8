"""An OpenAI-compatible endpoint, through the official client library.

Owns the connections, and turns whatever goes wrong into an `EngineError`. Knows nothing of turns.

A request is posted as bytes that are ready: with its history a body has megabytes, and the typed call of the
library would walk through all of it and serialise it at the end of the utterance, 35 ms for two minutes of
sound, in which every other conversation of the process stands still. This way it is 4.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import openai

from shared.errors import EngineError
from workers.llm.engines.openai import failures

log = logging.getLogger(__name__)

WARM_S = 4.0
"""How often a connection is used so that it stays: servers and the library drop an idle one after 5 s."""

VLLM = "vllm"
POSTED = {"Content-Type": "application/json", "Accept": "text/event-stream"}

Event = dict[str, Any]
"""One event of a stream: a `chat.completion.chunk`, as far as the server keeps to it."""


class Endpoint:
    """Where one model is asked. Needs no network to be made."""

    def __init__(self, url: str, key: str | None, model: str, timeout_s: float) -> None:
        self.model = model
        self._key = key
        self._timeout_s = timeout_s
        self._is_vllm: bool | None = None
        # The library insists on a key. Where there is none, none is shown.
        self._headers = {} if key else {"Authorization": openai.Omit()}
        self._client = openai.AsyncOpenAI(
            base_url=url,
            api_key=key or "none",
            timeout=timeout_s,
            max_retries=0,  # another attempt is the stage's to make: it may be another worker's by then
        )

    async def keep_warm(self) -> None:
        """Have an open connection at hand, until cancelled. Says nothing of an endpoint that is not there."""
        while True:
            try:
                await self._look_up()
            except EngineError as error:
                log.debug("not warm: %s", error)
            await asyncio.sleep(WARM_S)

    async def is_vllm(self) -> bool:
        """Whether the endpoint lists the model as served by vLLM: asked once, and after a failure again.

        Raises `EngineError`.
        """
        if self._is_vllm is None:
            await self._look_up()
        return bool(self._is_vllm)

    async def answer(self, body: bytes, texts: Sequence[str]) -> AsyncGenerator[Event, None]:
        """Post a chat completion request and yield the events of its stream.

        Closing the iterator closes the connection, unless the answer is at its end. `texts` were sent in the
        request, and are kept out of every error. Raises `EngineError`.
        """
        stream = None
        try:
            stream = await self._client.post(
                "/chat/completions",
                cast_to=object,
                content=body,
                options={"headers": {**POSTED, **self._headers}},
                stream=True,
                stream_cls=openai.AsyncStream[object],
            )
            async with stream:
                async for event in stream:
                    if isinstance(event, dict):
                        yield event
        except (openai.APIError, ValueError) as error:
            if isinstance(error, openai.APIConnectionError):
                # What is wrong there is the operator's to know: a client is not told where the endpoint is.
                log.warning("connection to the endpoint: %r", error.__cause__)
            raise await self._failed(error, texts, begun=stream is not None) from None

    async def close(self) -> None:
        """Close every connection."""
        await self._client.close()

    async def _look_up(self) -> None:
        listing = None
        try:
            listing = await self._client.get("/models", cast_to=object, options={"headers": self._headers})
        except (openai.APIError, ValueError) as error:
            failure = await self._failed(error)
            if failure.retryable:
                raise failure from None
            # Else an endpoint that lists nothing, or not to us.
        models = listing.get("data") if isinstance(listing, dict) else None
        self._is_vllm = any(
            isinstance(entry, dict) and (entry.get("id"), entry.get("owned_by")) == (self.model, VLLM)
            for entry in (models if isinstance(models, list) else ())
        )

    async def _failed(self, error: Exception, texts: Sequence[str] = (), begun: bool = False) -> EngineError:
        """What to raise instead of the library's `error`, when the endpoint may be asked again.

        `begun`: an answer had come.
        """
        self._is_vllm = None  # what comes back may be another server
        match error:
            case openai.APITimeoutError():
                return failures.silent(self._timeout_s)
            case openai.APIConnectionError():
                return failures.broken() if begun else failures.unreachable()
            case openai.APIStatusError():
                message = failures.shortened(_message(error), texts, self._key)
                failure = failures.Refused(error.status_code, error.response.reason_phrase, message)
                wait_s = failures.retry_after_s(error.response.headers) if failure.retryable else None
                if wait_s is not None and wait_s > failures.MAX_WAIT_S:
                    return failures.put_off(wait_s)
                await asyncio.sleep(wait_s or 0)
                return failure
            case openai.APIError():
                return failures.broken(failures.shortened(error.message, texts, self._key))
        return failures.not_json()


def _message(error: openai.APIError) -> str:
    """What the server itself said, where it did so in the usual form."""
    match error.body:
        case {"message": str(message)}:
            return message
        case str(message) if not message.startswith("<"):
            return message
    return ""
