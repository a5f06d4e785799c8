"""Voxtral Mini: speech and text in, text out, many conversations in one running batch.

    audio pieces ─> windows ─> runner ─> batch, decoder (its thread) ─> token ids ─> text

Owns the asyncio face: what of a turn goes to the thread, and when. What was said before is taken in while the
user still speaks, and each half minute of the utterance as soon as it is there; at its end only the rest is
heard. On the event loop bytes are moved and text is encoded, nothing more.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from shared.errors import EngineError
from shared.settings import Settings
from shared.wire import Token
from workers.llm.engines import ReplyRequest, whole_reply
from workers.llm.engines.voxtral import prompt
from workers.llm.engines.voxtral.batch import Batch
from workers.llm.engines.voxtral.checkpoint import Checkpoint, first_line, load, slots_of
from workers.llm.engines.voxtral.decoder import Decoder
from workers.llm.engines.voxtral.pieces import SAMPLE_RATE, WINDOW_BYTES, Ids, Window
from workers.llm.engines.voxtral.runner import Runner, Turn
from workers.llm.engines.voxtral.sampling import Sampling
from workers.llm.engines.voxtral.text import Spelling, Vocabulary
from workers.llm.history import Exchange

WARM_UP_TOKENS = 4
WARM_UPS = (Sampling(0.0, 1.0, 0), Sampling(1.0, 0.9, 0))
"""The second joins while the first still speaks, and draws."""


class Voxtral:
    """Answers turns with one model. `script`: texts to say instead of what was sampled, for benchmarks."""

    name = "voxtral"

    def __init__(
        self,
        settings: Settings,
        checkpoint: Checkpoint | None = None,
        script: Sequence[str] | None = None,
    ) -> None:
        """Load and warm up; blocks. Raises `EngineError` or `SettingsError`."""
        checkpoint = checkpoint or load(settings)
        self.slots = slots_of(settings, checkpoint)
        """How many conversations there is room for at once."""
        self._vocabulary = checkpoint.vocabulary
        self._context = settings.voxtral_context
        self._longest_bytes = round(settings.max_utterance_s * SAMPLE_RATE) * 2
        self._script = None if script is None else tuple(_ids_of_script(self._vocabulary, script))
        self._about = (
            f"on {checkpoint.device} in {str(checkpoint.dtype).removeprefix('torch.')},"
            f" {self.slots} slots of {self._context} tokens"
        )

        def make() -> Batch:
            try:
                batch = Batch(Decoder(checkpoint.model, self.slots, self._context))
                _warm_up(batch, self._vocabulary)
            except RuntimeError as error:  # most likely out of memory
                message = f"cannot set up Voxtral {self._about}: {first_line(error)}"
                raise EngineError(message, retryable=True) from None
            return batch

        self._runner = Runner(make)

    @property
    def description(self) -> str:
        """Where it computes, in what, and for how many: for the line at the start."""
        return self._about

    @property
    def spare(self) -> bool:
        """Whether there is a slot for it, and nobody who has finished speaking waits for one."""
        return self._runner.spare

    async def process_chunked_streaming(
        self, request: ReplyRequest, audio: AsyncIterator[bytes]
    ) -> AsyncGenerator[Token, None]:
        """Yield the reply token by token; a token's text is empty while a character is incomplete."""
        settings = request.settings
        spoken = self._spoken(request)
        max_new = settings.max_reply_tokens - len(spoken)
        if max_new <= 0:
            return
        turn = self._runner.open(self._sampling(request), max_new, self._script)
        try:
            history = self._remembered(request)
            turn.feed(prompt.opening(self._vocabulary, history, typed=settings.text is not None))
            texts = [settings.prompt] if settings.prompt else []
            if settings.text is None:
                await self._listen(turn, audio)
            else:
                texts.append(settings.text)
            turn.feed([prompt.closing(self._vocabulary, texts, spoken)])
            turn.start(len(spoken))
            spelling = Spelling(self._vocabulary)
            spelling.add_all(spoken)
            while (token := await turn.token()) is not None:
                yield Token(spelling.add(token), (token,))
        finally:
            turn.drop()

    async def process_realtime_chunk(self, request: ReplyRequest, audio: bytes) -> str:
        """The whole reply."""
        return await whole_reply(self, request, audio)

    def cost(self, exchange: Exchange) -> int:
        """What a past turn takes in the prompt, in tokens of the model."""
        return prompt.cost(self._vocabulary, exchange)

    def close(self) -> None:
        """End the thread; turns that still run fail."""
        self._runner.close()

    async def _listen(self, turn: Turn, audio: AsyncIterator[bytes]) -> None:
        """Feed the utterance in windows, each when it is full; what is left, when the utterance ends."""
        heard = bytearray()
        begun = False
        async for pcm in audio:
            if pcm and not begun:
                begun = True
                turn.feed([Ids((self._vocabulary.begin_audio,))])
            heard += pcm
            while len(heard) >= WINDOW_BYTES:
                turn.feed([Window(bytes(heard[:WINDOW_BYTES]))])
                del heard[:WINDOW_BYTES]
        if heard:
            turn.feed([Window(bytes(heard))])

    def _spoken(self, request: ReplyRequest) -> tuple[int, ...]:
        """The ids of what was said already; encoded anew where they are those of another engine."""
        ids = tuple(token for piece in request.spoken for token in piece.ids)
        text = "".join(piece.text for piece in request.spoken)
        if max(ids, default=0) < self._vocabulary.size and Spelling(self._vocabulary).add_all(ids) == text:
            return ids
        return self._vocabulary.encode(text)

    def _remembered(self, request: ReplyRequest) -> Sequence[Exchange]:
        """As much of the history as fits beside an utterance of any length, and is the same on a repeat."""
        settings = request.settings
        texts = [text for text in (settings.prompt, settings.text) if text]
        longest = prompt.sound_cost(self._longest_bytes) if settings.text is None else 0
        answer = min(settings.max_reply_tokens, self._context // 4)
        own = len(prompt.closing(self._vocabulary, texts, ()).ids) + longest + answer + prompt.CONTROLS
        return prompt.fitting(self._vocabulary, request.history, self._context - own)

    def _sampling(self, request: ReplyRequest) -> Sampling:
        settings = request.settings
        seed = settings.seed
        if seed is None:
            # The same on every worker, so that one that takes the turn over goes on as the first would have.
            name = f"{request.conversation}/{request.turn}".encode()
            seed = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big")
        return Sampling(settings.temperature, settings.top_p, seed)


def _ids_of_script(vocabulary: Vocabulary, script: Sequence[str]) -> list[int]:
    return [token for text in script for token in vocabulary.encode(text)]


def _warm_up(batch: Batch, vocabulary: Vocabulary) -> None:
    """Two turns that nobody hears, so that the first user does not wait for what is done only once."""
    rows = [batch.open(sampling, WARM_UP_TOKENS) for sampling in WARM_UPS]
    sound = bytes(WINDOW_BYTES // 30)
    for row in rows:
        for piece in (
            *prompt.opening(vocabulary, (), typed=False),
            *prompt.user(vocabulary, [sound]),
            prompt.closing(vocabulary, (), ()),
        ):
            batch.feed(row, piece)
        batch.start(row, 0)
    while not batch.idle:
        batch.step()
    for row in rows:
        if row.error is not None:
            raise row.error
