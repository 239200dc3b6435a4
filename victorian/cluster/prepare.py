"""Ray Data: corpus to shards, by the two passes of `tokens.units`."""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
import ray.data

from victorian.config import TokensConfig
from victorian.corpus.sources import find_books, fingerprint
from victorian.errors import CorpusError, DataError, StorageError, VictorianError
from victorian.storage import Storage, open_storage
from victorian.tokens.packing import Unit, pack, place
from victorian.tokens.shards import MANIFEST, Manifest, ShardEntry, read_manifest, verify, write_manifest
from victorian.tokens.units import PARTS, Part, ShardPlan, assemble, cut_shard, plan_shards, tokenize_unit

UNIT_BYTES = 4 * 1024 * 1024
"""Text of one task: a few seconds of work, so that progress shows and little is lost with a worker."""


@dataclass(frozen=True)
class PrepareProgress:
    """How far the first pass is."""

    books: int
    books_total: int
    bytes: int
    bytes_total: int
    tokens: int


@dataclass(frozen=True)
class Prepared:
    """A data set, and whether it was there before."""

    manifest: Manifest
    reused: bool


def _tokenize_batch(batch: Any, output: str, tokens: str) -> Any:
    """A task of the first pass. Tasks and not actors: Ray keeps worker processes, and the encoding is kept in each.

    A problem of ours is returned and not raised: Ray Data hands on an exception's traceback, but not the exception.
    """
    storage, settings = open_storage(output), TokensConfig.model_validate_json(tokens)
    part = problem = ""
    try:
        part = tokenize_unit(Unit.model_validate_json(batch["unit"][0]), storage, settings).model_dump_json()
    except VictorianError as error:
        problem = f"{type(error).__name__}:{error}"
    return {"index": [batch["index"][0]], "part": [part], "problem": [problem]}


def _raise_problem(problem: str) -> None:
    """The error that a task returned, as what it was."""
    name, _, message = problem.partition(":")
    raise {kind.__name__: kind for kind in (CorpusError, StorageError)}.get(name, VictorianError)(message)


def _cut(batch: Any, output: str) -> Any:
    """A task of the second pass."""
    shard = problem = ""
    try:
        shard = cut_shard(ShardPlan.model_validate_json(batch["plan"][0]), open_storage(output)).model_dump_json()
    except VictorianError as error:
        problem = f"{type(error).__name__}:{error}"
    return {"shard": [shard], "problem": [problem]}


def prepare(
    source: str,
    output: str,
    tokens: TokensConfig,
    overwrite: bool = False,
    progress: Callable[[PrepareProgress], None] = lambda _: None,
) -> Prepared:
    """Tokenize a corpus into shards at `output`, or find that they are there. Needs a Ray session.

    Raises:
        CorpusError: if the corpus is missing, empty, or holds a book that cannot be read.
        DataError: if `output` holds something else and `overwrite` is not given.
    """
    books = find_books(source)
    storage = open_storage(output)
    if found := _existing(storage, fingerprint(books), tokens, overwrite):
        return Prepared(found, reused=True)
    units = pack(books, UNIT_BYTES)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # `progress` says what there is to say
    ray.data.DataContext.get_current().enable_progress_bars = False
    parts = _tokenize(units, storage.uri, tokens, progress)
    totals = {
        unit.split: [p.tokens for u, p in zip(units, parts, strict=True) if u.split == unit.split] for unit in units
    }
    if not any(totals.get("train", [])):
        raise DataError("no training book is left after cleaning and selection: every one is empty")
    slices = {split: place(counts, tokens.tokens_per_shard) for split, counts in totals.items()}
    shards = _cut_all(plan_shards(units, parts, slices), storage.uri)
    manifest = assemble(books, units, parts, shards, tokens)
    write_manifest(storage, manifest)
    named = {MANIFEST, *(shard.name for shard in shards)}
    for key in storage.names():  # of this and of earlier, interrupted runs
        if key not in named:
            storage.delete(key)
    return Prepared(manifest, reused=False)


def _existing(storage: Storage, corpus: str, tokens: TokensConfig, overwrite: bool) -> Manifest | None:
    """The data set that is asked for, if it is there and whole; refuses to mix with anything else."""
    ours = re.compile(rf"{re.escape(MANIFEST)}|{PARTS}.+|(train|validation|test)-\d{{5}}\.npy")
    if strangers := [key for key in storage.names() if not ours.fullmatch(key)]:
        raise DataError(f"{storage.uri} holds other files ({strangers[0]}): choose an empty --output")
    if storage.exists(MANIFEST) and not overwrite:
        manifest = read_manifest(storage)
        if manifest.corpus_sha256 == corpus and manifest.made_with(tokens):
            verify(storage, manifest)
            return manifest
        raise DataError(
            f"{storage.uri} holds a data set of another corpus or with other settings: "
            "choose another --output, or give --overwrite to replace it"
        )
    if overwrite:
        for key in [MANIFEST, *storage.names()]:  # the manifest first: without it there is no data set
            storage.delete(key)
    return None


def _tokenize(
    units: list[Unit], output: str, tokens: TokensConfig, progress: Callable[[PrepareProgress], None]
) -> list[Part]:
    """The first pass: parts in the order of the units, whoever made them."""
    rows = [{"index": i, "unit": unit.model_dump_json()} for i, unit in enumerate(units)]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        partial(_tokenize_batch, output=output, tokens=tokens.model_dump_json()), batch_size=1
    )
    parts: dict[int, Part] = {}
    size = [sum(book.size for book in unit.books) for unit in units]
    for row in dataset.iter_rows():
        if row["problem"]:
            _raise_problem(row["problem"])
        parts[row["index"]] = Part.model_validate_json(row["part"])
        progress(
            PrepareProgress(
                books=sum(len(units[i].books) for i in parts),
                books_total=sum(len(unit.books) for unit in units),
                bytes=sum(size[i] for i in parts),
                bytes_total=sum(size),
                tokens=sum(part.tokens for part in parts.values()),
            )
        )
    return [parts[i] for i in range(len(units))]


def _cut_all(plans: list[ShardPlan], output: str) -> list[ShardEntry]:
    """The second pass: shards in the order of their names."""
    rows = [{"plan": plan.model_dump_json()} for plan in plans]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        partial(_cut, output=output), batch_size=1
    )
    shards = []
    for row in dataset.iter_rows():
        if row["problem"]:
            _raise_problem(row["problem"])
        shards.append(ShardEntry.model_validate_json(row["shard"]))
    return sorted(shards, key=lambda shard: shard.name)
