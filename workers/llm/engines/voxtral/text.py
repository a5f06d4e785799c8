"""Between text and token ids: the tokenizer as this engine needs it, and a reply spelt out as it comes.

Text never becomes a control token, whatever it says: control tokens are looked up by name and put in by the
prompt alone. Knows no model and no prompt.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from typing import Any


class Vocabulary:
    """A tokenizer of Mistral's `tekken` kind. Raises `ValueError` for one without the tokens of speech."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.size: int = tokenizer.n_words
        self.begin: int = tokenizer.get_special_token("<s>")
        self.end: int = tokenizer.get_special_token("</s>")
        self.begin_user: int = tokenizer.get_special_token("[INST]")
        self.end_user: int = tokenizer.get_special_token("[/INST]")
        self.begin_audio: int = tokenizer.get_special_token("[BEGIN_AUDIO]")
        self.audio: int = tokenizer.get_special_token("[AUDIO]")

    def encode(self, text: str) -> tuple[int, ...]:
        """The ids of a text; none of them a control token."""
        return tuple(self._tokenizer.encode(text, bos=False, eos=False))

    def bytes_of(self, token: int) -> bytes:
        """What a token adds to the UTF-8 of a text: nothing for a control token or an id that is none."""
        if not 0 <= token < self.size:
            return b""
        spelt: bytes = self._tokenizer.id_to_byte_piece(token)
        return spelt


class Spelling:
    """The text of a reply, token by token. Of a character that has begun nothing shows until it is whole."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        # Bytes that can become no character turn into U+FFFD; ones that still may are held back.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token: int) -> str:
        """What the token lets be read: empty while a character is incomplete."""
        return self._decoder.decode(self._vocabulary.bytes_of(token))

    def add_all(self, tokens: Iterable[int]) -> str:
        """The same of many."""
        return "".join(map(self.add, tokens))
