"""The two kinds of work between books and shards, each small enough to be done anywhere, in any order, and again.

The first reads, cleans, selects and tokenizes the books of a unit into a part: a file of tokens beside a record of
what is in it. The second cuts a shard from the parts it needs. A part that is whole is not made twice.
"""

from collections.abc import Iterator

import numpy as np
from pydantic import ValidationError

from victorian.config import DataConfig, Section, SelectionConfig
from victorian.corpus.book import BookReference
from victorian.corpus.cleaning import clean
from victorian.corpus.decoding import decode
from victorian.corpus.duplicates import pack_sketch, sketch
from victorian.corpus.selection import reason_to_drop
from victorian.corpus.sources import read_many
from victorian.corpus.words import count_words
from victorian.errors import StorageError
from victorian.storage import Storage, read_verified, sha256
from victorian.tokens.bpe import Encoding, Tokens, get_encoding
from victorian.tokens.manifest import BookEntry, DroppedEntry, ShardEntry
from victorian.tokens.packing import Unit
from victorian.tokens.shards import from_npy, npy_pieces, to_npy

PARTS = "parts/"


class Part(Section):
    """What the first pass knows of a unit. Offsets of its books count from the unit's first token."""

    name: str
    sha256: str
    tokens: int
    books: tuple[BookEntry, ...]
    sketches: tuple[str, ...]
    """Of every book, what `corpus.duplicates` compares; empty where nothing is compared."""
    dropped: tuple[DroppedEntry, ...]
    reused: bool = False
    """Whether it was there before."""


class ShardPlan(Section):
    """One piece of work of the second pass: the slices of parts that make up a shard."""

    name: str
    slices: tuple[tuple[str, str, int, int], ...]
    """Part name, its SHA-256, first and last token."""

    @property
    def tokens(self) -> int:
        return sum(stop - start for _, _, start, stop in self.slices)


def tokenize_unit(unit: Unit, storage: Storage, data: DataConfig) -> Part:
    """Write the part of a unit and its record, unless both are there already.

    Raises:
        CorpusError: naming the file, if a book cannot be read.
    """
    name = unit.part_name(data)
    record_key, data_key = f"{PARTS}{name}.json", f"{PARTS}{name}.npy"
    if done := _whole_part(storage, record_key, data_key):
        return done
    encoding = get_encoding(data.tokens.ranks)
    pieces: list[Tokens] = []
    books: list[BookEntry] = []
    sketches: list[str] = []
    dropped: list[DroppedEntry] = []
    offset = 0
    for reference, raw in read_many(unit.books):
        found = _examine(reference, raw, data)
        if isinstance(found, DroppedEntry):
            dropped.append(found)
            continue
        entry, text = found
        piece = _encode(text, encoding)
        books.append(entry.model_copy(update={"offset": offset, "tokens": len(piece)}))
        sketches.append(pack_sketch(sketch(text)) if _compares(data.selection) else "")
        pieces.append(piece)
        offset += len(piece)
    tokens = to_npy(np.concatenate(pieces) if pieces else np.empty(0, np.uint16))
    storage.write(data_key, tokens)
    part = Part(
        name=name,
        sha256=sha256(tokens),
        tokens=offset,
        books=tuple(books),
        sketches=tuple(sketches),
        dropped=tuple(dropped),
    )
    storage.write(record_key, part.model_dump_json().encode())
    return part


def cut_shard(plan: ShardPlan, storage: Storage) -> ShardEntry:
    """Write one shard from the parts it needs, each checked against its hash; one part is in memory at a time."""

    def pieces() -> Iterator[Tokens]:
        for part, digest, start, stop in plan.slices:
            yield from_npy(read_verified(storage, f"{PARTS}{part}.npy", digest))[start:stop]

    digest = storage.write_pieces(plan.name, npy_pieces(plan.tokens, pieces()))
    return ShardEntry(name=plan.name, tokens=plan.tokens, sha256=digest)


def _whole_part(storage: Storage, record_key: str, data_key: str) -> Part | None:
    if not (storage.exists(record_key) and storage.exists(data_key)):
        return None
    try:
        done = Part.model_validate_json(storage.read(record_key))
        read_verified(storage, data_key, done.sha256)
    except (ValidationError, StorageError):
        storage.delete(record_key)  # not whole, so made again
        return None
    return done.model_copy(update={"reused": True})


def _examine(reference: BookReference, raw: bytes, data: DataConfig) -> DroppedEntry | tuple[BookEntry, str]:
    """The cleaned text and what the manifest says of it, its place still open; or why the book is left out."""

    def drop(reason: str, detail: str) -> DroppedEntry:
        return DroppedEntry(
            id=reference.id,
            split=reference.split,
            title=reference.title,
            year=reference.year,
            reason=reason,
            detail=detail,
            bytes=len(raw),
            tokens=0,
        )

    decoded = decode(raw, data.cleaning.invalid_utf8)
    if decoded.reason:
        return drop(decoded.reason, reference.key)
    text = decoded.text
    if reference.split == "train" or data.cleaning.held_out:
        text = clean(text, data.cleaning)
        if unfit := reason_to_drop(text, reference.year, data.selection):
            return drop(*unfit)
    words = count_words(text)
    if not words:
        return drop("empty", reference.key)
    entry = BookEntry(
        id=reference.id,
        title=reference.title,
        author=reference.author,
        year=reference.year,
        offset=0,
        tokens=0,
        bytes=len(text.encode()),
        words=words,
        original_bytes=len(raw),
        original_words=words if text == decoded.text else count_words(decoded.text),
        read_as=decoded.read_as,
    )
    return entry, text


def _encode(text: str, encoding: Encoding) -> Tokens:
    return np.concatenate([np.array([encoding.end_of_text], np.uint16), encoding.encode(text)])


def _compares(selection: SelectionConfig) -> bool:
    return selection.edition_similarity is not None or selection.held_out_overlap is not None
