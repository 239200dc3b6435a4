"""Finds books that hold the same text: training books that overlap held-out ones, and editions of one book.

Works on sketches alone (`corpus.sketch`) and never compares all pairs: held-out books share one sorted index, and
editions meet in bands of MinHash signatures (LSH, by rensa). No answer depends on the order in which books were added.
"""

from array import array
from dataclasses import dataclass
from itertools import compress

import numpy as np
import numpy.typing as npt
from rensa import RMinHash, RMinHashLSH

from victorian.corpus.sketch import LEAST_HASHES, Sketch, complete_up_to, pack_sketch, sketch, unpack_sketch

__all__ = ["Duplicate", "Editions", "HeldOut", "Overlap", "Sketch", "pack_sketch", "sketch", "unpack_sketch"]

LEAST_SHARED = 8
"""Hashes that two sketches must share to count: of long texts some 500 words, which is more than a quoted poem."""

BANDS = 64
"""Bands of a MinHash signature, of two slots each: how sure it is that editions meet (see decision 0012)."""

_SLOTS = 2 * BANDS
_SEED = 1


@dataclass(frozen=True)
class Overlap:
    """What a book shares with a held-out one."""

    id: str
    """The held-out book."""
    of_theirs: float
    """Share of the held-out book's shingles that the book has, 0 to 1."""
    of_ours: float
    """Share of the book's shingles that the held-out book has, 0 to 1."""


class HeldOut:
    """What validation and test books contain. Memory: 20 bytes a hash, or 22 KB for a book of 70,000 words."""

    def __init__(self) -> None:
        self._books: list[tuple[str, Sketch]] = []
        self._index: tuple[Sketch, npt.NDArray[np.int32]] | None = None

    def add(self, book_id: str, sketch: Sketch) -> None:
        """A validation or test book."""
        self._books.append((book_id, sketch))
        self._index = None

    def overlap(self, sketch: Sketch) -> Overlap | None:
        """The held-out book with the largest common part, as share of either; of equals, the one with the lowest id.

        None if no held-out book shares as many as `LEAST_SHARED` hashes.
        """
        hashes, owners = self._sorted()
        first = np.searchsorted(hashes, sketch, "left")
        counts = np.searchsorted(hashes, sketch, "right") - first
        begins = np.cumsum(counts) - counts
        places = np.repeat(first - begins, counts) + np.arange(counts.sum())
        shared = np.bincount(owners[places], minlength=len(self._books))
        enough = np.flatnonzero(shared >= LEAST_SHARED).tolist()
        found = [self._overlap(book, int(shared[book]), sketch) for book in enough]
        return min(found, key=lambda overlap: (-max(overlap.of_theirs, overlap.of_ours), overlap.id), default=None)

    def _overlap(self, book: int, shared: int, ours: Sketch) -> Overlap:
        book_id, theirs = self._books[book]
        limit = np.uint64(min(complete_up_to(ours), complete_up_to(theirs)))
        comparable = [int(np.searchsorted(sketch, limit, "right")) for sketch in (theirs, ours)]
        return Overlap(book_id, shared / comparable[0], shared / comparable[1])

    def _sorted(self) -> tuple[Sketch, npt.NDArray[np.int32]]:
        """Every book's hashes in one ascending array, and the book that each is from."""
        if self._index is None:
            hashes = np.concatenate([np.empty(0, np.uint64), *(sketch for _, sketch in self._books)])
            owners = np.repeat(np.arange(len(self._books), dtype=np.int32), [len(sketch) for _, sketch in self._books])
            order = np.argsort(hashes, kind="stable")
            self._index = hashes[order], owners[order]
        return self._index


@dataclass(frozen=True)
class Duplicate:
    """A book that is left out, because a longer one holds much the same text."""

    id: str
    of: str
    """The book that stays."""
    similarity: float
    """Estimated share of the shingles of both that both have (Jaccard), 0 to 1."""


class Editions:
    """Training books, to find near-duplicates among them.

    Of a book it keeps the `LEAST_HASHES` lowest hashes: at most 2 KiB, so 59 MB for the 28,602 books of PG19. While
    it looks for duplicates, a signature takes 512 bytes more, and a place in the index 6 KB for each book that stays
    though it met another in some band.
    """

    def __init__(self, least_similarity: float) -> None:
        self._least_similarity = least_similarity
        self._ids: list[str] = []
        self._words: list[int] = []
        self._hashes = array("Q")
        self._ends = [0]

    def add(self, book_id: str, words: int, sketch: Sketch) -> None:
        """A training book. One with an empty sketch is like no other."""
        if len(sketch):
            self._ids.append(book_id)
            self._words.append(words)
            self._hashes.frombytes(sketch[:LEAST_HASHES].tobytes())
            self._ends.append(len(self._hashes))

    def duplicates(self) -> list[Duplicate]:
        """The books to leave out, longest first, each with the book that it is most like among those that stay.

        Books are looked at from the longest to the shortest, of equals from the lowest id on, and one stays unless a
        book that stays is like it. So of editions that are all alike the longest stays, and no book is left out for
        the sake of another that is left out too.
        """
        index = RMinHashLSH(self._least_similarity, _SLOTS, BANDS)
        order = sorted(self._suspects(), key=lambda book: (-self._words[book], self._ids[book]))
        found = []
        for place, book in enumerate(order):
            lowest = self._lowest(book)
            (signature,) = RMinHash.from_token_sets([lowest.view("V8").tolist()], _SLOTS, _SEED)
            alike = [(similarity(lowest, self._lowest(order[other])), -other) for other in index.query(signature)]
            most, other = max(alike, default=(0.0, 0))
            if most >= self._least_similarity:
                found.append(Duplicate(self._ids[book], self._ids[order[-other]], most))
            else:
                index.insert(place, signature)
        return found

    def _suspects(self) -> list[int]:
        """Books whose signature agrees with another's in some band: few, so that the index need hold no more."""
        if not self._ids:
            return []
        samples = map(self._lowest, range(len(self._ids)))  # one by one, since rensa copies a whole array
        signatures = RMinHash.digest_matrix_from_token_hash_sets(samples, _SLOTS, _SEED)
        index = RMinHashLSH(self._least_similarity, _SLOTS, BANDS)
        return list(compress(range(len(self._ids)), index.query_duplicate_flags_matrix_one_shot(signatures)))

    def _lowest(self, book: int) -> Sketch:
        return np.frombuffer(self._hashes, np.uint64)[self._ends[book] : self._ends[book + 1]]


def similarity(ours: Sketch, theirs: Sketch) -> float:
    """An estimate of the Jaccard similarity of two texts that have shingles; exact where sketches hold all of them.

    The lowest hashes of both texts together are a sample of the shingles that either has, and those of them that
    are in both sketches are the ones that both texts have. The standard error is at most 0.031.
    """
    either = np.union1d(ours, theirs)[:LEAST_HASHES]
    both = np.intersect1d(ours, theirs, assume_unique=True)
    return float(np.count_nonzero(both <= either[-1]) / len(either))
