"""A prompt on its way into a slot, slice by slice. Knows one prompt; which is first is the batch's to say."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import NamedTuple

import torch

from workers.llm.engines.voxtral.decoder import Decoder
from workers.llm.engines.voxtral.pieces import Ids, Piece, Window


class _Part(NamedTuple):
    """Places `begin` up to `end` of a piece."""

    piece: int
    begin: int
    end: int


class Intake:
    """The pieces of a prompt, and how much of it has been taken in."""

    def __init__(self) -> None:
        self.tokens = 0
        """Places of all pieces so far."""
        self.taken = 0
        """Places that are in the slot."""
        self._pieces: list[Piece] = []
        self._index = 0
        self._inside = 0
        self._heard: dict[int, torch.Tensor] = {}
        self._hearing: tuple[int, Generator[None, None, torch.Tensor]] | None = None

    @property
    def last_id(self) -> int | None:
        """The id that the prompt ends in; None where it ends in sound, or is empty."""
        last = self._pieces[-1] if self._pieces else None
        return last.ids[-1] if isinstance(last, Ids) else None

    def add(self, piece: Piece) -> None:
        """Append to the prompt."""
        if piece.tokens:
            self._pieces.append(piece)
            self.tokens += piece.tokens

    def restart(self) -> None:
        """Take it all in anew: the slot is gone."""
        self.taken = self._index = self._inside = 0

    def clear(self) -> None:
        """Let go of everything."""
        self.restart()
        self.tokens = 0
        self._pieces = []
        self._heard = {}
        self._hearing = None

    def advance(self, decoder: Decoder, slot: int, most: int) -> None:
        """One slice of work: part of a window's encoding, or at most `most` places into the slot."""
        parts = list(self._next_parts(most))
        for part in parts:
            piece = self._pieces[part.piece]
            if isinstance(piece, Window) and part.piece not in self._heard:
                return self._hear(decoder, part.piece, piece)
        embeddings = torch.cat([self._embedded(decoder, part) for part in parts])
        decoder.prefill(slot, self.taken, embeddings)
        self.taken += len(embeddings)
        self._index, self._inside = parts[-1].piece, parts[-1].end
        if self._inside == self._pieces[self._index].tokens:
            self._index, self._inside = self._index + 1, 0
        self._heard = {index: heard for index, heard in self._heard.items() if index >= self._index}

    def _next_parts(self, most: int) -> Iterator[_Part]:
        index, begin = self._index, self._inside
        while most > 0 and index < len(self._pieces):
            end = min(self._pieces[index].tokens, begin + most)
            yield _Part(index, begin, end)
            most -= end - begin
            index, begin = index + 1, 0

    def _embedded(self, decoder: Decoder, part: _Part) -> torch.Tensor:
        piece = self._pieces[part.piece]
        if isinstance(piece, Ids):
            return decoder.embed(piece.ids[part.begin : part.end])
        return self._heard[part.piece][part.begin : part.end]

    def _hear(self, decoder: Decoder, index: int, window: Window) -> None:
        if self._hearing is None or self._hearing[0] != index:
            self._hearing = (index, decoder.encode(window))
        try:
            next(self._hearing[1])
        except StopIteration as end:
            self._heard[index] = end.value
            self._hearing = None
