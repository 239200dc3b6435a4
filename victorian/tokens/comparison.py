"""Which training books are left out because another book holds the same text.

Parts come in any order. Training books are compared with those held out for validation and test once all of these are
known, and with each other at the end; of a book nothing is kept but a signature of fixed size.
"""

from collections.abc import Sequence

from victorian.config import SelectionConfig
from victorian.corpus.duplicates import Editions, HeldOut, Overlap, unpack_sketch
from victorian.corpus.selection import Reason
from victorian.tokens.manifest import BookEntry, DroppedEntry
from victorian.tokens.packing import Unit
from victorian.tokens.units import Part


class Comparison:
    """Takes parts as they are made, and says in the end which books are left out."""

    def __init__(self, units: Sequence[Unit], selection: SelectionConfig) -> None:
        self._selection = selection
        self._held_out_missing = sum(unit.split != "train" for unit in units)
        self._held_out = HeldOut()
        self._editions = Editions(selection.edition_similarity) if selection.edition_similarity else None
        self._titles = {book.id: book.title for unit in units for book in unit.books}
        self._waiting: list[Part] = []
        self._training: dict[str, BookEntry] = {}
        self._left_out: dict[str, DroppedEntry] = {}

    def add(self, unit: Unit, part: Part) -> None:
        """The part of a unit."""
        if unit.split == "train":
            self._waiting.append(part)
        else:
            for book, packed in zip(part.books, part.sketches, strict=True):
                if packed and self._selection.held_out_overlap:
                    self._held_out.add(book.id, unpack_sketch(packed))
            self._held_out_missing -= 1
        if not self._held_out_missing:
            for waiting in self._waiting:
                self._compare(waiting)
            self._waiting.clear()

    def left_out(self) -> dict[str, DroppedEntry]:
        """By id, the books to leave out and why. To be asked once, when every part has been added."""
        assert not self._held_out_missing
        for duplicate in self._editions.duplicates() if self._editions else []:
            detail = f"{duplicate.similarity:.0%} like {self._name(duplicate.of)}"
            self._leave_out(self._training[duplicate.id], "duplicate", detail)
        return self._left_out

    def _compare(self, part: Part) -> None:
        for book, packed in zip(part.books, part.sketches, strict=True):
            if not packed:
                continue
            sketch = unpack_sketch(packed)
            overlap = self._held_out.overlap(sketch)
            if overlap and self._too_much(overlap):
                self._leave_out(book, "overlaps held-out", self._describe(overlap))
            elif self._editions:
                self._training[book.id] = book
                self._editions.add(book.id, book.words, sketch)

    def _too_much(self, overlap: Overlap) -> bool:
        least = self._selection.held_out_overlap
        return least is not None and max(overlap.of_theirs, overlap.of_ours) >= least

    def _describe(self, overlap: Overlap) -> str:
        return f"holds {overlap.of_theirs:.0%} of {self._name(overlap.id)}, which is {overlap.of_ours:.0%} of it"

    def _leave_out(self, book: BookEntry, reason: Reason, detail: str) -> None:
        self._left_out[book.id] = DroppedEntry(
            id=book.id,
            split="train",
            title=book.title,
            year=book.year,
            reason=reason,
            detail=detail,
            bytes=book.original_bytes,
            tokens=book.tokens,
        )

    def _name(self, book: str) -> str:
        return f"{book} ({self._titles[book]})"
