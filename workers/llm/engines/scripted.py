"""Fixed tokens at fixed times: for benchmarks and tests.

Owns when its tokens are due; the utterance is listened to but not understood. It uses no model and next to no
time of the processor, so whatever else a turn takes is the pipeline's.

With `SCRIPT_ECHO_HISTORY=1` the answer says what the engine was given: a token for each exchange of the
history, oldest first, then one for the settings of this turn. Texts are JSON strings, `null` where there
is none; a user who typed is quoted, of one who spoke the seconds are given:

    [1 user 2.50 s] [1 reply "Hello! Yes"] [2 user "And now?"] [2 reply ""] [3 prompt "Be brief." voice null]

With `SCRIPT_KEYED=1` it has as many tokens as the script, each a function of conversation, turn and place,
and the first says what was heard: samples, or characters of a typed turn, and the CRC-32 of their bytes.
Whoever knows what was said can make the same answer again, so that what is lost or doubled on either way
shows in it:

    Heard 48000 as 1f0c2ab9. kbpanc dolhmb …
"""

from __future__ import annotations

import hashlib
import json
import time
import zlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

from shared.audio import INPUT_RATE, SAMPLE_BYTES, duration_ms
from shared.settings import Settings
from shared.wire import Token
from workers.clock import sleep_until
from workers.llm.engines import ReplyRequest, whole_reply
from workers.llm.history import Exchange, rough_cost

WORDS = 6
"""How many words of the keyed answer stand in a sentence."""

_LETTERS = str.maketrans("0123456789", "ghijklmnop")


class Scripted:
    """Answers with `SCRIPT_TOKENS`, the echo or the keyed tokens; each token's id is its place."""

    name = "scripted"
    slots = None

    def __init__(self, settings: Settings) -> None:
        self._tokens = settings.script_tokens
        self._first_token_ms = settings.script_first_token_ms
        self._inter_token_ms = settings.script_inter_token_ms
        self._echoes = settings.script_echo_history
        self._keyed = settings.script_keyed

    @property
    def spare(self) -> bool:
        """It waits, and keeps nobody waiting."""
        return True

    async def process_chunked_streaming(
        self, request: ReplyRequest, audio: AsyncIterator[bytes]
    ) -> AsyncGenerator[Token, None]:
        """Yield the tokens by the clock, which starts when the utterance has ended.

        The first that is missing comes after `SCRIPT_FIRST_TOKEN_MS`, like after a prefill, also where a dead
        peer had begun; the k-th after it k times `SCRIPT_INTER_TOKEN_MS` later, however late the one before.
        """
        heard = Heard()
        if request.settings.text is None:
            async for pcm in audio:
                heard = heard.and_then(pcm, len(pcm) // SAMPLE_BYTES)
        else:
            heard = heard.and_then(request.settings.text.encode(), len(request.settings.text))
        asked_s = time.monotonic()
        begin = len(request.spoken)
        tokens = self._answer(request, heard)
        missing = tokens[begin : request.settings.max_reply_tokens]
        for place, text in enumerate(missing):
            await sleep_until(asked_s + (self._first_token_ms + place * self._inter_token_ms) / 1000)
            yield Token(text, (begin + place,))

    async def process_realtime_chunk(self, request: ReplyRequest, audio: bytes) -> str:
        """The whole answer, when its last token is due."""
        return await whole_reply(self, request, audio)

    def cost(self, exchange: Exchange) -> int:
        """About what a speech model would take."""
        return rough_cost(exchange)

    def _answer(self, request: ReplyRequest, heard: Heard) -> tuple[str, ...]:
        if self._keyed:
            return keyed(request.conversation, request.turn, heard, len(self._tokens))
        return echo(request) if self._echoes else self._tokens


@dataclass(frozen=True, slots=True)
class Heard:
    """What the engine was given of a turn: samples of speech or characters of text, and their CRC-32."""

    amount: int = 0
    checksum: int = 0

    def and_then(self, data: bytes, amount: int) -> Heard:
        """With what came next."""
        return Heard(self.amount + amount, zlib.crc32(data, self.checksum))


def keyed(conversation: str, turn: int, heard: Heard, count: int) -> tuple[str, ...]:
    """The tokens that say whose they are: first what was heard, then words, six to a sentence."""
    first = f"Heard {heard.amount} as {heard.checksum:08x}."
    return (first, *(_word(conversation, turn, place) for place in range(1, count)))


def _word(conversation: str, turn: int, place: int) -> str:
    key = hashlib.blake2b(f"{conversation} {turn} {place}".encode(), digest_size=3).hexdigest()
    return f" {key.translate(_LETTERS)}" + ("." if place % WORDS == 0 else "")


def echo(request: ReplyRequest) -> tuple[str, ...]:
    """The tokens that say what was asked, and after what."""
    settings = request.settings
    now = f"[{request.turn} prompt {_quoted(settings.prompt)} voice {_quoted(settings.voice)}]"
    return (*(f"{_told(exchange)} " for exchange in request.history), now)


def _told(exchange: Exchange) -> str:
    seconds = duration_ms(exchange.audio, INPUT_RATE) / 1000
    user = f"{seconds:.2f} s" if exchange.text is None else _quoted(exchange.text)
    return f"[{exchange.turn} user {user}] [{exchange.turn} reply {_quoted(exchange.reply)}]"


def _quoted(text: str | None) -> str:
    return json.dumps(text, ensure_ascii=False)
