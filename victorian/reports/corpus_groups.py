"""The books of a corpus in groups: by reason, by year, by length. Plain arithmetic, no pictures."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from victorian.reports.numerals import readable_bytes
from victorian.tokens.manifest import BookEntry, DroppedEntry

MOST_DECADES = 30
"""Decades that are told apart. A wrong year or two far away must not make every other bar too thin to see."""

LENGTH_STEPS = (1.0, 1.5, 2.2, 3.3, 4.7, 6.8)
"""Round numbers, each about 1.47 times the one before, from one power of ten to the next."""


@dataclass(frozen=True)
class Group:
    """Books that have something in common."""

    label: str
    kept: int
    left_out: int
    tokens: int
    """Of the books that were kept."""

    @property
    def books(self) -> int:
        return self.kept + self.left_out


@dataclass(frozen=True)
class LengthGroup(Group):
    """Books whose files have from `low` to less than `high` bytes."""

    low: float
    high: float


@dataclass(frozen=True)
class ReasonGroup:
    """Books that were left out for one reason. Those left out before they were tokenized count no tokens."""

    reason: str
    books: int
    bytes: int
    tokens: int


def by_reason(dropped: Iterable[DroppedEntry]) -> list[ReasonGroup]:
    """The commonest reason first."""
    books: dict[str, list[DroppedEntry]] = {}
    for entry in dropped:
        books.setdefault(entry.reason, []).append(entry)
    groups = [
        ReasonGroup(reason, len(of), sum(entry.bytes for entry in of), sum(entry.tokens for entry in of))
        for reason, of in books.items()
    ]
    return sorted(groups, key=lambda group: (-group.books, group.reason))


def by_decade(kept: Sequence[BookEntry], dropped: Sequence[DroppedEntry]) -> tuple[list[Group], Group]:
    """Decades without a gap, then what is outside them, as "before 1650" or "1950 and later"; and books without a year.

    Of years that spread wider than `MOST_DECADES`, those decades are shown that hold the most books.
    """
    years = [book.year for book in kept] + [entry.year for entry in dropped]
    books = Counter(_decade(year) for year in years if year is not None)
    first, last = _densest(books)

    def place(year: int | None) -> int | None:
        """The decade, or the one before the first or after the last for all that is outside."""
        return None if year is None else min(max(_decade(year), first - 10), last + 10)

    left_out = Counter(place(entry.year) for entry in dropped)
    own = Counter(place(book.year) for book in kept)
    tokens: Counter[int | None] = Counter()
    for book in kept:
        tokens[place(book.year)] += book.tokens

    def group(label: str, at: int | None) -> Group:
        return Group(label, own[at], left_out[at], tokens[at])

    groups = [group(f"{decade}s", decade) for decade in range(first, last + 1, 10)] if books else []
    early, late = group(f"before {first}", first - 10), group(f"{last + 10} and later", last + 10)
    return [g for g in (early, *groups, late) if g.books or g in groups], group("no year", None)


def by_length(kept: Sequence[BookEntry], dropped: Sequence[DroppedEntry]) -> list[LengthGroup]:
    """By the bytes of the file before cleaning, since a book that was left out has no other length.

    From the shortest to the longest without a gap; files without a byte are in none.
    """
    sizes = [size for size in (*(b.original_bytes for b in kept), *(d.bytes for d in dropped)) if size > 0]
    if not sizes:
        return []
    digits = len(str(max(sizes)))
    edges = [float(round(step * 10**power, 1)) for power in range(digits) for step in LENGTH_STEPS] + [10.0**digits]

    def place(size: int) -> int:
        return bisect_right(edges, size) - 1 if size > 0 else -1

    own = Counter(place(book.original_bytes) for book in kept)
    left_out = Counter(place(entry.bytes) for entry in dropped)
    tokens: Counter[int] = Counter()
    for book in kept:
        tokens[place(book.original_bytes)] += book.tokens
    return [
        LengthGroup(_between(edges[at], edges[at + 1]), own[at], left_out[at], tokens[at], edges[at], edges[at + 1])
        for at in range(place(min(sizes)), place(max(sizes)) + 1)
    ]


def _decade(year: int) -> int:
    return year // 10 * 10


def _between(low: float, high: float) -> str:
    return f"{readable_bytes(low)} to {readable_bytes(high)}"


def _densest(books: Counter[int]) -> tuple[int, int]:
    """First and last of the `MOST_DECADES` neighbouring decades that hold the most books."""
    if not books:
        return 0, 0
    width = 10 * MOST_DECADES
    held = {
        start: sum(books[decade] for decade in range(start, start + width, 10) if decade in books) for start in books
    }
    start = max(held, key=lambda decade: (held[decade], decade))
    return start, max(decade for decade in books if decade < start + width)
