"""The embedded engine: recognises the words on the CPU, while they are spoken, and says them back.

Owns what is said. It is no model of speech and does not pretend to be one: at the end of its answers it says
that it is a parrot, until that was heard in one of those that it remembers.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from difflib import SequenceMatcher
from itertools import dropwhile

from shared.wire import Token
from workers.llm.engines import ReplyRequest, whole_reply
from workers.llm.engines.ears import Ears
from workers.llm.history import Exchange, rough_cost

NOT_UNDERSTOOD = "I did not catch that."
ADMISSION = " I am a parrot, and only repeat words."
CONFESSION = ADMISSION + " For real answers, choose a speech model as my engine."

HEARD = ("I", " heard", ":")
READ = ("You", " wrote", ":")
FULL_STOP = "."

DRIFT_WORDS = 3
"""By so many words at the most may two hearings of the same utterance have come apart."""


class Parrot:
    """Says back what it heard, or what was typed. Understands English, roughly."""

    name = "parrot"
    slots = None

    def __init__(self, ears: Ears | None = None) -> None:
        self._ears = ears or Ears()

    @property
    def spare(self) -> bool:
        """Never: its answer is ready when the utterance has ended, and to hear it again takes its length."""
        return False

    async def process_chunked_streaming(
        self, request: ReplyRequest, audio: AsyncIterator[bytes]
    ) -> AsyncGenerator[Token, None]:
        """Yield the answer word by word; a token's id is its place.

        After a dead peer the utterance is heard again from its start. Where that gives other words than the
        peer had, what it said stands, and the answer goes on at the same place of the utterance.
        """
        text = request.settings.text
        if text is None:
            heard = await self._ears.listen(request.conversation, audio)
            lead, words = HEARD, [f" {_spelt(word)}" for word in heard]
        else:
            lead, words = READ, _pieces(f" {text.strip()}")
        closing = [] if _admitted(request.history) else _pieces(CONFESSION)
        said = [token.text for token in request.spoken]
        rest = rest_of_answer(said, lead, words, closing)
        for place, piece in enumerate(rest, len(said)):
            if place >= request.settings.max_reply_tokens:
                return
            yield Token(piece, (place,))

    async def process_realtime_chunk(self, request: ReplyRequest, audio: bytes) -> str:
        """The whole answer."""
        return await whole_reply(self, request, audio)

    def cost(self, exchange: Exchange) -> int:
        """About what a speech model would take."""
        return rough_cost(exchange)


def _admitted(history: Sequence[Exchange]) -> bool:
    return any(ADMISSION in exchange.reply for exchange in history)


def rest_of_answer(
    said: Sequence[str], lead: Sequence[str], words: Sequence[str], closing: Sequence[str]
) -> list[str]:
    """What is left of an answer of which `said` was said, on this hearing of the utterance or on another."""
    for answer in (_answer(lead, words, closing), _answer(lead, (), closing)):
        if answer[: len(said)] == list(said):
            return answer[len(said) :]
    repeated = list(said[len(lead) :])
    if FULL_STOP in repeated:
        return list(closing[len(repeated) - repeated.index(FULL_STOP) - 1 :])
    return [*_unsaid(repeated, words or [" nothing"]), FULL_STOP, *closing]


def _answer(lead: Sequence[str], words: Sequence[str], closing: Sequence[str]) -> list[str]:
    if not words:
        return [*_pieces(NOT_UNDERSTOOD), *closing]
    stop = (FULL_STOP,) if words[-1][-1].isalnum() else ()
    return [*lead, *words, *stop, *closing]


def _unsaid(said: list[str], words: Sequence[str]) -> list[str]:
    """The words of this hearing after those that were `said` from another hearing of the same utterance.

    The last word that both have, near the same place, tells where; with none, the number of words does.
    """
    near = words[: len(said) + DRIFT_WORDS]
    matches = SequenceMatcher(None, said, near, autojunk=False).get_matching_blocks()[:-1]
    shift = matches[-1].b - matches[-1].a if matches else 0
    return list(dropwhile(lambda word: [word] == said[-1:], words[len(said) + shift :]))


def _pieces(text: str) -> list[str]:
    """The words of a text with what stands before each: joined, they are the text."""
    return re.findall(r"\s*\S+", text)


def _spelt(word: str) -> str:
    return word.capitalize() if word == "i" or word.startswith("i'") else word
