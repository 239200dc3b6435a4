"""Which books go into which unit of work, and where each unit's tokens land: plain arithmetic.

A unit is a run of books in corpus order, small enough to be one task. Units are tokenized in any order by any number
of workers; since their borders and their places depend on the books alone, the shards come out byte for byte the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from victorian.config import DataConfig, Section
from victorian.corpus.book import BookReference, Split
from victorian.corpus.cleaning import CLEANING_VERSION
from victorian.storage import sha256


class Unit(Section):
    """Consecutive books of one split that one task tokenizes into one part."""

    number: int
    """Position among the units of its split."""
    split: Split
    books: tuple[BookReference, ...]

    @property
    def size(self) -> int:
        """Bytes of text, before cleaning."""
        return sum(book.size for book in self.books)

    def part_name(self, data: DataConfig) -> str:
        """Name of the part, without ending; changed books or settings give another name, so no stale part is used."""
        key = f"{CLEANING_VERSION} {data.model_dump_json()}" + "".join(book.identity() for book in self.books)
        return f"{self.split}-{self.number:05d}-{sha256(key.encode())[:16]}"


@dataclass(frozen=True)
class Slice:
    """Tokens `start` to `stop` of a unit's part."""

    unit: int
    start: int
    stop: int


def pack(books: Sequence[BookReference], unit_bytes: int) -> list[Unit]:
    """Cut sorted books into units of about `unit_bytes` of text; a unit never mixes splits.

    A unit is closed before the book that would take it over the size, so a larger book is a unit of its own:
    sizes 3, 3, 5, 12, 1 at 8 give (3, 3), (5), (12), (1).
    """
    units: list[Unit] = []
    batch: list[BookReference] = []
    numbers: dict[Split, int] = {}
    size = 0

    def close() -> None:
        nonlocal size
        if batch:
            split = batch[0].split
            units.append(Unit(number=numbers.get(split, 0), split=split, books=tuple(batch)))
            numbers[split] = numbers.get(split, 0) + 1
            batch.clear()
            size = 0

    for book in books:
        if batch and (book.split != batch[0].split or size + book.size > unit_bytes):
            close()
        batch.append(book)
        size += book.size
    close()
    return units


def without(tokens: int, left_out: Sequence[tuple[int, int]], unit: int) -> list[Slice]:
    """A part of so many tokens less some stretches of it, which are sorted and do not overlap.

    10 tokens without (0, 2) and (5, 6) are 2 to 5 and 6 to 10.
    """
    kept = []
    start = 0
    for first, after in [*left_out, (tokens, tokens)]:
        if start < first:
            kept.append(Slice(unit, start, first))
        start = after
    return kept


def place(pieces: Sequence[Slice], tokens_per_shard: int) -> list[list[Slice]]:
    """For every shard, the slices that fill it, in order.

    Units of 3, 4 and 2 tokens at 5 a shard: unit 0 whole and 2 tokens of unit 1; then the rest of 1, and unit 2.
    """
    shards: list[list[Slice]] = []
    room = 0
    for piece in pieces:
        start = piece.start
        while start < piece.stop:
            if room == 0:
                shards.append([])
                room = tokens_per_shard
            stop = min(piece.stop, start + room)
            shards[-1].append(Slice(piece.unit, start, stop))
            room -= stop - start
            start = stop
    return shards
