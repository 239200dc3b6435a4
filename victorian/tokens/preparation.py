"""From books to a data set: the order of the work, whoever does it.

Found books are packed into units; every unit becomes a part; what is read in two places is left out; a prefix sum
says where the rest lands; every shard is cut from its parts; the manifest is written last. A claim, written first,
keeps two corpora from mixing in one place: work that is unfinished is gone on with by the same command alone.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol

from victorian.config import DataConfig, Section
from victorian.corpus.book import BookReference
from victorian.corpus.cleaning import CLEANING_VERSION
from victorian.corpus.sources import Found, find_books, fingerprint
from victorian.errors import DataError, StorageError, TakenError
from victorian.storage import Storage, open_storage
from victorian.tokens.assembly import assemble, plan_shards
from victorian.tokens.comparison import Comparison
from victorian.tokens.manifest import (
    MANIFEST,
    DroppedEntry,
    Manifest,
    ShardEntry,
    read_manifest,
    verify,
    write_manifest,
)
from victorian.tokens.packing import Unit, pack
from victorian.tokens.progress import PrepareProgress, Watch
from victorian.tokens.units import PARTS, Part, ShardPlan

SMALLEST_UNIT, LARGEST_UNIT = 4 * 1024 * 1024, 16 * 1024 * 1024
"""Bytes of text: of one second's work, so that progress shows and little is lost with a worker, and of four, which
spend less of it in between (docs/benchmarks.md)."""
UNITS = 64
"""As many units as a corpus has at least, before they grow."""

CLAIM = "prepare.json"
REPORT = "report.html"
OURS = re.compile(
    "|".join(
        [*map(re.escape, (MANIFEST, CLAIM, REPORT)), re.escape(PARTS) + ".+", r"(train|validation|test)-\d{5}\.npy"]
    )
)


class Workers(Protocol):
    """Whoever does the work: this process, or a cluster. Results come in any order."""

    def tokenize(self, units: Sequence[Unit], output: str, data: DataConfig) -> Iterator[tuple[int, Part]]:
        """The index of every unit, and its part."""
        ...

    def cut(self, plans: Sequence[ShardPlan], output: str) -> Iterator[ShardEntry]: ...


class PrepareRun(Section):
    """What a run was like: everything about it that is not the data set itself."""

    source: str
    output: str
    seconds: dict[str, float]
    """Wall time of every stage, in order."""
    units: int
    units_reused: int
    """Units whose parts were there before."""
    tokens_made: int
    """Tokens of the units that were not."""


@dataclass(frozen=True)
class Prepared:
    """A data set that is whole."""

    manifest: Manifest
    run: PrepareRun | None
    """What making it was like; None where it was there before."""

    @property
    def reused(self) -> bool:
        return self.run is None


class Claim(Section):
    """Whose unfinished work lies in a folder."""

    corpus_sha256: str
    data: DataConfig
    cleaning_version: int = CLEANING_VERSION


@dataclass
class Clock:
    """Wall time by stage."""

    seconds: dict[str, float] = field(default_factory=dict)
    last: float = field(default_factory=perf_counter)

    def stage(self, name: str) -> None:
        """The stage that has just ended."""
        now = perf_counter()
        self.seconds[name] = round(now - self.last, 3)
        self.last = now


def prepare_with(
    workers: Workers,
    source: str,
    output: str,
    data: DataConfig,
    overwrite: bool = False,
    progress: Callable[[PrepareProgress], None] = lambda _: None,
    report: Callable[[Manifest, PrepareRun], str] | None = None,
    unit_bytes: int | None = None,
) -> Prepared:
    """Tokenize a corpus into shards at `output`, or find that they are there.

    Args:
        report: makes the page that is put beside the shards.
        unit_bytes: text of one task; by default what suits the size of the corpus.

    Raises:
        CorpusError: if the corpus is missing, empty, or holds a book that cannot be read.
        DataError: if `output` holds something else and `overwrite` is not given, or no training book is left.
        StorageError: if `output` cannot be written.
    """
    clock = Clock()
    found = find_books(source, data.selection.missing_texts)
    claim = Claim(corpus_sha256=fingerprint(found.books), data=data)
    units = pack(found.books, unit_bytes or suitable_unit(found.books))
    clock.stage("finding books")
    storage = open_storage(output)
    if existing := _existing(storage, claim, overwrite):
        with suppress(StorageError, DataError):  # it is whole, also where nothing may be removed
            _clear(storage)  # what a run has left that was killed after its manifest
        return Prepared(existing, run=None)
    try:
        return _make(workers, found, units, storage, claim, clock, progress, source, report)
    except (StorageError, TakenError):
        # Another process with the same claim may have finished first and cleared the parts away.
        if not storage.exists(MANIFEST) or not (existing := _existing(storage, claim, overwrite=False)):
            raise
        return Prepared(existing, run=None)
    finally:
        if storage.exists(MANIFEST):
            _clear(storage)


def _make(
    workers: Workers,
    found: Found,
    units: Sequence[Unit],
    storage: Storage,
    claim: Claim,
    clock: Clock,
    progress: Callable[[PrepareProgress], None],
    source: str,
    report: Callable[[Manifest, PrepareRun], str] | None,
) -> Prepared:
    data = claim.data
    watch = Watch(units, progress)
    comparison = Comparison(units, data.selection)
    parts: dict[int, Part] = {}
    for index, part in workers.tokenize(units, storage.uri, data):
        comparison.add(units[index], part)
        parts[index] = part.model_copy(update={"sketches": ()})  # compared, and too large to keep
        watch.part(units[index], part)
    clock.stage("reading, cleaning and tokenizing")
    ordered = [parts[index] for index in range(len(units))]
    left_out = comparison.left_out()
    clock.stage("comparing books")
    plans = plan_shards(units, ordered, left_out, data.tokens.tokens_per_shard)
    if not any(plan.name.startswith("train-") for plan in plans):
        _give_up(storage, claim)
        raise DataError(
            _nothing_left(source, [*(entry for part in ordered for entry in part.dropped), *left_out.values()])
        )
    shards = []
    for shard in workers.cut(plans, storage.uri):
        shards.append(shard)
        watch.shard(len(shards) / len(plans))
    clock.stage("cutting shards")
    manifest = assemble(found, units, ordered, left_out, shards, data, claim.corpus_sha256)
    run = PrepareRun(
        source=source,
        output=storage.uri,
        seconds=clock.seconds,
        units=len(units),
        units_reused=sum(part.reused for part in ordered),
        tokens_made=sum(part.tokens for part in ordered if not part.reused),
    )
    if report:
        storage.write(REPORT, report(manifest, run).encode())
    if storage.read(CLAIM) != _claim_bytes(claim):
        raise DataError(f"{storage.uri} was taken over by another run while this one worked: choose another --output")
    write_manifest(storage, manifest)
    return Prepared(manifest, run)


def suitable_unit(books: Sequence[BookReference]) -> int:
    """Bytes of text of one task. The corpus alone decides, so that an interrupted job finds its parts again."""
    return min(LARGEST_UNIT, max(SMALLEST_UNIT, sum(book.size for book in books) // UNITS))


def verify_data(uri: str) -> Manifest:
    """Read a whole data set back; its manifest, if every byte is what it says.

    Raises:
        DataError: naming the first file that is not.
    """
    storage = open_storage(uri)
    manifest = read_manifest(storage)
    verify(storage, manifest)
    return manifest


def _claim_bytes(claim: Claim) -> bytes:
    return claim.model_dump_json(indent=1).encode()


def _existing(storage: Storage, claim: Claim, overwrite: bool) -> Manifest | None:
    """The data set that is asked for, if it is there and whole; else the place is claimed for it.

    Refuses to mix with anything else.
    """
    if strangers := [key for key in storage.names() if not OURS.fullmatch(key)]:
        raise DataError(f"{storage.uri} holds other files ({strangers[0]}): choose an empty --output")
    if overwrite:
        for key in [MANIFEST, *storage.names()]:  # the manifest first: without it there is no data set
            storage.delete(key)
    elif storage.exists(MANIFEST):
        manifest = read_manifest(storage)
        if manifest.corpus_sha256 == claim.corpus_sha256 and manifest.made_with(claim.data):
            verify(storage, manifest)
            return manifest
        raise DataError(
            f"{storage.uri} holds a data set of another corpus or with other settings: "
            "choose another --output, or give --overwrite to replace it"
        )
    try:
        storage.write(CLAIM, _claim_bytes(claim), only_new=True)
    except TakenError:
        if storage.read(CLAIM) != _claim_bytes(claim):
            raise DataError(
                f"{storage.uri} holds the unfinished work of another corpus or of other settings: "
                "finish that first, choose another --output, or give --overwrite to replace it"
            ) from None
    return None


def _give_up(storage: Storage, claim: Claim) -> None:
    """Free a place that is claimed: the next attempt, which needs other settings or books, would be refused there."""
    if storage.exists(CLAIM) and storage.read(CLAIM) == _claim_bytes(claim):  # and not another run's by now
        for key in storage.names():
            if OURS.fullmatch(key):
                storage.delete(key)


def _clear(storage: Storage) -> None:
    """Take away what a finished data set does not need, of this and of earlier, interrupted runs."""
    manifest = read_manifest(storage)
    shards = {shard.name for split in manifest.splits.values() for shard in split.shards}
    for key in storage.names():
        if key not in {MANIFEST, REPORT, *shards}:
            storage.delete(key)


def _nothing_left(source: str, dropped: Sequence[DroppedEntry]) -> str:
    reasons = ", ".join(sorted({entry.reason for entry in dropped if entry.split == "train"}))
    return f"no training book of {source} is left after cleaning and selection: {reasons}"
