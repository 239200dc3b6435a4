"""How far a preparation is, told while it works."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

from victorian.tokens.packing import Unit
from victorian.tokens.units import Part

FIRST_PASS = 0.9
"""Share of the work that is done when all books are tokenized, for the progress bar."""


@dataclass(frozen=True)
class PrepareProgress:
    """How far the job is."""

    done: float
    """Share of the whole, 0 to 1."""
    books: int
    books_total: int
    tokens: int
    tokens_per_second: float
    """Since the first part was there, less what was reused."""
    seconds_left: float | None
    """By what has been done so far; None before anything has."""


class Watch:
    """Turns what is done into progress."""

    def __init__(self, units: Sequence[Unit], tell: Callable[[PrepareProgress], None]) -> None:
        self._tell = tell
        self._books_total = sum(len(unit.books) for unit in units)
        self._bytes_total = sum(unit.size for unit in units) or 1
        self._began: float | None = None
        self._books = self._bytes = self._tokens = self._fresh = 0
        self._shards = 0.0

    def part(self, unit: Unit, part: Part) -> None:
        """A unit has its part."""
        self._books += len(unit.books)
        self._bytes += unit.size
        self._tokens += part.tokens
        if self._began is not None and not part.reused:
            self._fresh += part.tokens
        self._update()

    def shard(self, share: float) -> None:
        """So many of the shards are cut, 0 to 1."""
        self._shards = share
        self._update()

    def _update(self) -> None:
        now = perf_counter()
        done = FIRST_PASS * self._bytes / self._bytes_total + (1 - FIRST_PASS) * self._shards
        if self._began is None:  # what came before is the cluster's start, by which nothing can be told
            self._began, self._done_then = now, done
        seconds, since = now - self._began, done - self._done_then
        self._tell(
            PrepareProgress(
                done=done,
                books=self._books,
                books_total=self._books_total,
                tokens=self._tokens,
                tokens_per_second=self._fresh / seconds if seconds > 0 else 0.0,
                seconds_left=seconds * (1 - done) / since if since > 0 else None,
            )
        )
