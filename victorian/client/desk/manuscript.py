"""The text under a writer's hands: who wrote what, changes of it, and its pages. Knows no page of a browser."""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Author = Literal["writer", "model"]

MAX_CHARACTERS = 4_000_000
"""Of a manuscript: six long novels."""
PAGE_CHARACTERS = 9_000
"""Of a page, about: what a browser lays out again at each key without a delay that is felt."""

_UNWRITABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]")
_HALVES = re.compile(r"[\ud800-\udfff]")


def clean(text: str) -> str:
    """A text that can be shown, sent and stored: line ends are one kind, control characters are gone.

    Halves of surrogate pairs, which are no characters, become U+FFFD. What turns the direction of writing is kept.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _HALVES.sub("\ufffd", _UNWRITABLE.sub("", text))


@dataclass(frozen=True)
class Piece:
    """A stretch of text by one hand."""

    text: str
    author: Author


Pieces = tuple[Piece, ...]


@dataclass(frozen=True)
class Splice:
    """A change: at `start`, what was `removed` gave way to what was `added`."""

    start: int
    removed: Pieces
    added: Pieces

    @property
    def end(self) -> int:
        """Where the removed text ended."""
        return self.start + sum(len(piece.text) for piece in self.removed)

    @property
    def growth(self) -> int:
        """Characters by which the text became longer."""
        return self.start + sum(len(piece.text) for piece in self.added) - self.end

    @property
    def inverse(self) -> "Splice":
        return Splice(self.start, self.added, self.removed)


@dataclass(frozen=True)
class Manuscript:
    """A text in pieces, none of them empty and no two neighbours by one hand."""

    pieces: Pieces = ()

    @cached_property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    @cached_property
    def words(self) -> int:
        return len(self.text.split())

    def between(self, start: int, end: int) -> Pieces:
        """The pieces of a stretch."""
        found = []
        at = 0
        for piece in self.pieces:
            cut = piece.text[max(0, start - at) : max(0, end - at)]
            at += len(piece.text)
            if cut:
                found.append(Piece(cut, piece.author))
        return tuple(found)

    def splice(self, start: int, end: int, added: Pieces) -> Splice:
        """The change that puts other pieces in the place of a stretch."""
        return Splice(start, self.between(start, end), added)

    def after(self, splice: Splice) -> "Manuscript":
        before, rest = self.between(0, splice.start), self.between(splice.end, len(self.text))
        return Manuscript(_joined(before + splice.added + rest))

    def edit(self, start: int, end: int, text: str) -> Splice | None:
        """What a writer changed who had the text from start to end before them and left `text` there; None for nothing.

        Only what differs is the writer's: the rest stays by whom it was.
        """
        before = self.text[start:end]
        if before == text:
            return None
        first = _common(before, text)
        last = _common(before[first:][::-1], text[first:][::-1])
        added = text[first : len(text) - last]
        return self.splice(start + first, end - last, (Piece(added, "writer"),) if added else ())


def _joined(pieces: Pieces) -> Pieces:
    joined: list[Piece] = []
    for piece in pieces:
        if joined and joined[-1].author == piece.author:
            joined[-1] = Piece(joined[-1].text + piece.text, piece.author)
        elif piece.text:
            joined.append(piece)
    return tuple(joined)


def _common(left: str, right: str) -> int:
    """Characters that two texts have in common from their beginning; halving compares whole stretches at once."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def pages(text: str) -> list[tuple[int, int]]:
    """Where the pages of a text begin and end; the last may be half as long again, so that it is never a scrap."""
    found = []
    start = 0
    while len(text) - start > PAGE_CHARACTERS * 3 // 2:
        end = _break(text, start + PAGE_CHARACTERS // 2, start + PAGE_CHARACTERS)
        found.append((start, end))
        start = end
    return [*found, (start, len(text))]


def _break(text: str, low: int, high: int) -> int:
    """The last good place to turn a page between two others: after a paragraph, else a line, else a word."""
    for mark in ("\n\n", "\n", " "):
        at = text.rfind(mark, low, high)
        if at >= 0:
            return at + len(mark)
    return high
