"""The two passes from books to shards, a unit of work at a time.

First every unit is tokenized into a part, a file of its own beside a record of what is in it. When all are there, a
prefix sum says where each part's tokens land, and every shard is cut from the parts it needs. Both kinds of work can
be done in any order, on any machine, and again: a part or shard that is whole is not made twice.
"""

from collections.abc import Mapping

import numpy as np
from pydantic import ValidationError

from victorian.config import Section, TokensConfig
from victorian.corpus.book import SPLITS, BookReference, Split
from victorian.corpus.cleaning import CLEANING_VERSION, clean
from victorian.corpus.selection import reason_to_drop
from victorian.corpus.sources import fingerprint, read_book
from victorian.errors import DataError, StorageError
from victorian.storage import Storage, read_verified, sha256
from victorian.tokens.bpe import Tokens, get_encoding
from victorian.tokens.packing import Slice, Unit
from victorian.tokens.shards import (
    BookEntry,
    DroppedEntry,
    EncodingEntry,
    Manifest,
    ShardEntry,
    SplitEntry,
    from_npy,
    shard_name,
    to_npy,
)

PARTS = "parts/"


class Part(Section):
    """What the first pass knows of a unit. Offsets of its books count from the unit's first token."""

    name: str
    sha256: str
    tokens: int
    books: tuple[BookEntry, ...]
    dropped: tuple[DroppedEntry, ...]


class ShardPlan(Section):
    """One piece of work of the second pass: the slices of parts that make up a shard."""

    name: str
    slices: tuple[tuple[str, str, int, int], ...]
    """Part name, its SHA-256, first and last token."""


def tokenize_unit(unit: Unit, storage: Storage, tokens: TokensConfig) -> Part:
    """Write the part of a unit and its record, unless both are there already.

    Raises:
        CorpusError: naming the file, if a book cannot be read.
    """
    name = unit.part_name(f"{CLEANING_VERSION} {tokens.model_dump_json()}")
    record_key, data_key = f"{PARTS}{name}.json", f"{PARTS}{name}.npy"
    if storage.exists(record_key) and storage.exists(data_key):
        try:
            done = Part.model_validate_json(storage.read(record_key))
            read_verified(storage, data_key, done.sha256)
            return done
        except (ValidationError, StorageError):
            storage.delete(record_key)  # not whole, so made again
    encoding = get_encoding(tokens.ranks)
    pieces: list[Tokens] = []
    books: list[BookEntry] = []
    dropped: list[DroppedEntry] = []
    offset = 0
    for reference in unit.books:
        original = read_book(reference).text
        text = clean(original)
        if reason := reason_to_drop(text):
            dropped.append(DroppedEntry(id=reference.id, split=reference.split, reason=reason))
            continue
        piece = np.concatenate([np.array([encoding.end_of_text], np.uint16), encoding.encode(text)])
        books.append(_entry(reference, offset, len(piece), text, original))
        pieces.append(piece)
        offset += len(piece)
    data = to_npy(np.concatenate(pieces) if pieces else np.empty(0, np.uint16))
    storage.write(data_key, data)
    part = Part(name=name, sha256=sha256(data), tokens=offset, books=tuple(books), dropped=tuple(dropped))
    storage.write(record_key, part.model_dump_json().encode())
    return part


def cut_shard(plan: ShardPlan, storage: Storage) -> ShardEntry:
    """Write one shard from the parts it needs, each checked against its hash."""
    pieces = []
    for part, digest, start, stop in plan.slices:
        pieces.append(from_npy(read_verified(storage, f"{PARTS}{part}.npy", digest))[start:stop])
    data = to_npy(np.concatenate(pieces))
    storage.write(plan.name, data)
    return ShardEntry(name=plan.name, tokens=sum(map(len, pieces)), sha256=sha256(data))


def plan_shards(units: list[Unit], parts: list[Part], slices: Mapping[Split, list[list[Slice]]]) -> list[ShardPlan]:
    """The second pass, from where the parts of every split land."""
    plans = []
    for split in SPLITS:
        of_split = [part for unit, part in zip(units, parts, strict=True) if unit.split == split]
        for number, shard in enumerate(slices.get(split, [])):
            plans.append(
                ShardPlan(
                    name=shard_name(split, number),
                    slices=tuple((of_split[s.unit].name, of_split[s.unit].sha256, s.start, s.stop) for s in shard),
                )
            )
    return plans


def assemble(
    books: list[BookReference],
    units: list[Unit],
    parts: list[Part],
    shards: list[ShardEntry],
    tokens: TokensConfig,
) -> Manifest:
    """The manifest of a finished data set; DataError if no training token is left."""
    splits = {}
    for split in SPLITS:
        entries: list[BookEntry] = []
        offset = 0
        for unit, part in zip(units, parts, strict=True):
            if unit.split == split:
                entries += [b.model_copy(update={"offset": b.offset + offset}) for b in part.books]
                offset += part.tokens
        if offset:
            own = tuple(shard for shard in shards if shard.name.startswith(f"{split}-"))
            splits[split] = SplitEntry(tokens=offset, shards=own, books=tuple(entries))
    if "train" not in splits:
        raise DataError("no training book is left after cleaning and selection: every one is empty")
    encoding = get_encoding(tokens.ranks)
    return Manifest(
        encoding=EncodingEntry(ranks=encoding.ranks, sha256=encoding.sha256),
        tokens_per_shard=tokens.tokens_per_shard,
        corpus_sha256=fingerprint(books),
        cleaning=CLEANING_VERSION,
        splits=splits,
        dropped=tuple(d for part in parts for d in part.dropped),
    )


def _entry(reference: BookReference, offset: int, tokens: int, text: str, original: str) -> BookEntry:
    return BookEntry(
        id=reference.id,
        title=reference.title,
        author=reference.author,
        year=reference.year,
        offset=offset,
        tokens=tokens,
        bytes=len(text.encode()),
        words=len(text.split()),
        original_bytes=len(original.encode()),
        original_words=len(original.split()),
    )
