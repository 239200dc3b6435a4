"""Finds and reads books: PG19's layout, a folder of plain text, parquet files, or the sample in this package.

PG19's layout is `{train,validation,test}/ID.txt` beside a `metadata.csv`. In a plain folder every `.txt` is a book and
a hash of its id decides its split: about five in a hundred are validation books and five are test books. Both may lie
in a local folder or in an object store, as parquet files may, which also come from the Hugging Face hub.
"""

import hashlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Literal

from victorian.corpus.book import SPLITS, BookReference, Split
from victorian.corpus.metadata import About, AbsentBook, read_metadata
from victorian.corpus.parquet import find_rows, read_rows
from victorian.corpus.repository import HUB, folder_files, hub_files
from victorian.corpus.versions import versions
from victorian.errors import CorpusError, StorageError
from victorian.storage import Entry, Storage, open_storage, sha256

SAMPLE = "sample"
"""The name under which the corpus in this package is asked for."""
METADATA = "metadata.csv"

READ_AHEAD = 4
"""Texts of an object store that are asked for at once, so that the work does not wait for every answer."""


@dataclass(frozen=True)
class Found:
    """What a corpus holds. The texts have not been read, or are not kept."""

    books: tuple[BookReference, ...]
    """Sorted by split, then by id or, in parquet files, by file and row."""
    absent: tuple[AbsentBook, ...] = ()
    """Books that are described and have no text; empty unless that is allowed."""


def find_books(source: str, missing_texts: Literal["refuse", "drop"] = "refuse") -> Found:
    """Every book of a corpus.

    Args:
        source: a folder, a URI that `open_storage` takes, `hf:OWNER/NAME`, `hf:OWNER/NAME:SPLIT`, or `sample`.
        missing_texts: what becomes of books that are described and have no text.

    Raises:
        CorpusError: if there is no corpus at `source`, if it holds no training book or an empty split, if a text has
            no metadata, if metadata have no text and `missing_texts` says "refuse", or if two books have one id.
        StorageError: if the place cannot be read.
    """
    if source.startswith(HUB):
        root, files = hub_files(source)
        return _checked(source, *find_rows(root, files), missing_texts)
    storage = open_storage(Path(__file__).parent / "sample" if source == SAMPLE else source)
    folders, files_there = storage.folders(), storage.entries()
    if not folders and not files_there:
        raise CorpusError(
            f"no corpus at {source!r}: expected a folder in PG19's layout, of .txt or of .parquet files, "
            f"{HUB}OWNER/NAME, or {SAMPLE!r}"
        )
    if _holds_parquet(storage, folders, files_there):
        return _checked(source, *find_rows(storage.uri, folder_files(storage)), missing_texts)
    books, absent = _pg19(storage, folders) if "train" in folders else (_plain(storage, files_there), [])
    found = _checked(source, books, absent, missing_texts)  # before the long look at every file
    return replace(found, books=_with_versions(storage, found.books))


def fingerprint(books: Sequence[BookReference]) -> str:
    """A hash that changes when a book is added, removed, renamed or changed, wherever the books lie."""
    listing = "\n".join(book.identity() for book in books)
    return sha256(listing.encode())


def read_bytes(reference: BookReference) -> bytes:
    """The text of a book as it lies there, undecoded.

    Raises:
        CorpusError: naming the file, if it cannot be read or is not what was found.
    """
    ((_, data),) = read_many([reference])
    return data


def read_many(references: Sequence[BookReference]) -> Iterator[tuple[BookReference, bytes]]:
    """The texts of many books, in the order given: a few at a time in memory, or a row group of a parquet file.

    Raises:
        CorpusError: naming the file, if one cannot be read or is not what was found.
    """
    for (root, in_rows), group in groupby(references, key=lambda book: (book.root, book.row is not None)):
        books = list(group)
        yield from read_rows(books) if in_rows else _read_texts(open_storage(root), books)


def _checked(
    source: str,
    books: Sequence[BookReference],
    absent: Sequence[AbsentBook],
    missing_texts: Literal["refuse", "drop"],
) -> Found:
    if absent and missing_texts == "refuse":
        raise CorpusError(
            f"{source!r} describes books that have no text, {len(absent)} of them, {absent[0].id!r} the first: "
            "add the texts, or leave these books out with --selection.missing-texts drop"
        )
    if not any(book.split == "train" for book in books):
        raise CorpusError(f"{source!r} holds no training book: expected .txt or .parquet files for it")
    seen: dict[str, BookReference] = {}
    for book in books:
        if (other := seen.setdefault(book.id, book)) is not book:
            raise CorpusError(f"book {book.id} stands in {other.place} and in {book.place}: keep one of the two")
    return Found(tuple(books), tuple(absent))


def _holds_parquet(storage: Storage, folders: Sequence[str], files: Sequence[Entry]) -> bool:
    """Whether the texts are in parquet files: beside each other, or in the folders that repositories have for them."""
    names = [entry.key for entry in files]
    if METADATA in names and "train" in folders:
        return False  # PG19's layout, whose many texts are not listed twice
    names += [entry.key for folder in ("data", "train") if folder in folders for entry in storage.entries(folder)]
    parquet = [name for name in names if name.endswith(".parquet")]
    texts = [name for name in names if _is_text(name)]
    if parquet and texts:
        raise CorpusError(f"{storage.uri} holds {parquet[0]} and {texts[0]}: keep one kind of file in a corpus")
    return bool(parquet)


def _pg19(storage: Storage, folders: Sequence[str]) -> tuple[list[BookReference], list[AbsentBook]]:
    listing = f"{storage.uri}/{METADATA}"
    if not storage.exists(METADATA):
        raise CorpusError(f"{listing} is missing: PG19's layout wants lines of id, title by author, year, address")
    metadata = read_metadata(storage.read(METADATA), listing)
    texts: list[tuple[Split, About, Entry]] = []
    for split in SPLITS:
        entries = _texts(storage.entries(split)) if split in folders else []
        if not entries and split in folders:
            raise CorpusError(f"{storage.uri}/{split} is an empty split: put .txt files there, or remove the folder")
        for entry in sorted(entries, key=_id):
            if _id(entry) not in metadata:
                raise CorpusError(f"{storage.uri}/{entry.key} has no line in {listing}: add one, or remove the file")
            texts.append((split, metadata[_id(entry)], entry))
    present = {_id(entry) for _, _, entry in texts}
    absent = [
        AbsentBook(id=book, split=None, title=about.title, author=about.author, year=about.year)
        for book, about in sorted(metadata.items())
        if book not in present
    ]
    return _references(storage, texts), absent


def _plain(storage: Storage, files: Sequence[Entry]) -> list[BookReference]:
    entries = sorted(_texts(files), key=lambda entry: _place(_id(entry)))
    splits: list[Split] = [
        "validation" if (p := _place(_id(entry))) < 0.05 else "test" if p < 0.10 else "train" for entry in entries
    ]
    if entries and "train" not in splits:
        splits[-1] = "train"
    # Among few books none may fall low enough, and a run without a validation loss flies blind: take the lowest.
    if len(entries) >= 3 and "validation" not in splits:
        splits[0] = "validation"
    if len(entries) >= 3 and "test" not in splits:
        splits[min(splits.count("validation"), len(splits) - 2)] = "test"  # the last is for training
    texts = [(split, About(_id(entry), "", None), entry) for split, entry in zip(splits, entries, strict=True)]
    return _references(storage, sorted(texts, key=lambda text: (SPLITS.index(text[0]), _id(text[2]))))


def _texts(entries: Sequence[Entry]) -> list[Entry]:
    return [entry for entry in entries if _is_text(entry.key)]


def _is_text(name: str) -> bool:
    return name.lower().endswith(".txt")  # old systems wrote names in capitals


def _id(entry: Entry) -> str:
    return PurePosixPath(entry.key).stem


def _place(book_id: str) -> float:
    """A number in [0, 1) that depends on the id alone."""
    return int.from_bytes(hashlib.sha256(os.fsencode(book_id)).digest()[:8]) / 2**64


def _references(storage: Storage, texts: Sequence[tuple[Split, About, Entry]]) -> list[BookReference]:
    for _, _, entry in texts:
        if not (place := f"{storage.uri}/{entry.key}").isprintable():
            raise CorpusError(f"the name of {place!r} is not plain text: rename the file")
    return [
        BookReference(
            id=_id(entry),
            split=split,
            title=about.title,
            author=about.author,
            year=about.year,
            root=storage.uri,
            key=entry.key,
            size=entry.size,
            version=entry.version or "",
        )
        for split, about, entry in texts
    ]


def _with_versions(storage: Storage, books: Sequence[BookReference]) -> tuple[BookReference, ...]:
    found = versions(storage, [Entry(book.key, book.size, book.version or None) for book in books])
    return tuple(book.model_copy(update={"version": version}) for book, version in zip(books, found, strict=True))


def _read_texts(storage: Storage, references: Sequence[BookReference]) -> Iterator[tuple[BookReference, bytes]]:
    if storage.local_path(references[0].key) is not None:
        for reference in references:
            yield reference, _read_text(storage, reference)
        return
    waiting: deque[tuple[BookReference, Future[bytes]]] = deque()
    with ThreadPoolExecutor(READ_AHEAD) as pool:
        for reference in references:
            waiting.append((reference, pool.submit(_read_text, storage, reference)))
            if len(waiting) == READ_AHEAD:
                book, text = waiting.popleft()
                yield book, text.result()
        for book, text in waiting:
            yield book, text.result()


def _read_text(storage: Storage, reference: BookReference) -> bytes:
    try:
        data = storage.read(reference.key)
    except StorageError as error:
        raise CorpusError(f"book {reference.id} cannot be read: {error}") from error
    # A store's checksum is not always one of the text alone, so there the size has to do.
    local = storage.local_path(reference.key) is not None
    same = sha256(data) == reference.version if local else len(data) == reference.size
    if not same:
        raise CorpusError(f"{reference.place} changed since it was found: run again")
    return data
