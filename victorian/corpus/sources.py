"""Finds and reads books: PG19's layout, a folder of plain text, or the sample that ships with the package.

PG19's layout is `{train,validation,test}/ID.txt` beside a `metadata.csv` without a header, whose columns are
id, "Title by Author", year, address (https://github.com/google-deepmind/pg19). In a plain folder every `.txt` is a
book and a hash of its id decides its split: about five in a hundred are validation books and five are test books.
"""

import csv
import hashlib
import os
import re
from pathlib import Path

from victorian.corpus.book import SPLITS, Book, BookReference, Split
from victorian.errors import CorpusError
from victorian.storage import sha256, sha256_file

SAMPLE = "sample"
"""The name under which the corpus in this package is asked for."""

Metadata = dict[str, tuple[str, str, int | None]]


def find_books(source: str) -> list[BookReference]:
    """Every book of a corpus, sorted by split and id, and its hash; the texts are not kept.

    Raises:
        CorpusError: if there is no corpus at `source`, if it holds no training book, if a book of PG19's layout has
            no metadata, or if one id stands in two splits.
    """
    if "://" in source or source.startswith("hf:"):
        raise CorpusError(f"expected a local folder of books, got {source!r}; other sources are not supported yet")
    root = Path(__file__).parent / "sample" if source == SAMPLE else Path(source).expanduser()
    try:
        there = root.is_dir()
        for folder in (root, root / "train"):
            if folder.is_dir():
                os.listdir(folder)  # glob would take a folder that cannot be read for an empty one
    except OSError as error:
        raise CorpusError(f"cannot read {root}: {error.strerror}") from error
    if not there:
        raise CorpusError(
            f"no corpus at {source!r}: expected a folder in PG19's layout or of .txt files, or {SAMPLE!r}"
        )
    books = _pg19(root) if (root / "train").is_dir() else _plain(root)
    if not any(book.split == "train" for book in books):
        raise CorpusError(f"{source!r} holds no training book: expected .txt files in {root / 'train'} or in {root}")
    seen: dict[str, Split] = {}
    for book in books:
        if book.id in seen:
            raise CorpusError(f"book {book.id} stands in {seen[book.id]} and in {book.split}: keep one of the two")
        seen[book.id] = book.split
    return sorted(books, key=lambda book: (SPLITS.index(book.split), book.id))


def read_book(reference: BookReference) -> Book:
    """The book with its text; CorpusError naming the file if it cannot be read or is not UTF-8."""
    try:
        data = Path(reference.path).read_bytes()
    except OSError as error:
        raise CorpusError(f"cannot read {reference.path}: {error.strerror}") from error
    if sha256(data) != reference.sha256:
        raise CorpusError(f"{reference.path} changed while it was being read: run again")
    try:
        return Book(reference=reference, text=data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{reference.path} is not UTF-8: byte {error.start} is {data[error.start]:#04x}; "
            "convert the file (iconv -t UTF-8) or remove it"
        ) from error


def fingerprint(books: list[BookReference]) -> str:
    """A hash that changes when a book is added, removed, renamed or changed, wherever the books lie."""
    listing = "\n".join(book.identity() for book in books)
    return sha256(listing.encode())


def _pg19(root: Path) -> list[BookReference]:
    metadata = _read_metadata(root / "metadata.csv")
    books = []
    for split in SPLITS:
        for path in sorted((root / split).glob("*.txt")):
            if path.stem not in metadata:
                raise CorpusError(f"{path} has no line in {root / 'metadata.csv'}: add one, or remove the file")
            books.append(_reference(path, split, *metadata[path.stem]))
    return books


def _read_metadata(path: Path) -> Metadata:
    if not path.is_file():
        raise CorpusError(f"{path} is missing: PG19's layout wants lines of id, title by author, year, address")
    metadata: Metadata = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for line, row in enumerate(csv.reader(file), start=1):
                if len(row) != 4:
                    raise CorpusError(f"{path}, line {line}: expected id, title, year, address; got {len(row)} columns")
                title, _, author = row[1].rpartition(" by ")
                year = int(row[2]) if re.fullmatch(r"-?[0-9]{1,4}", row[2].strip()) else None
                metadata[row[0]] = (title or row[1], author if title else "", year)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(f"cannot read {path}: {error}") from error
    return metadata


def _plain(root: Path) -> list[BookReference]:
    paths = sorted(root.glob("*.txt"), key=lambda path: _place(path.stem))
    splits: list[Split] = [
        "validation" if (p := _place(path.stem)) < 0.05 else "test" if p < 0.10 else "train" for path in paths
    ]
    if paths and "train" not in splits:
        splits[-1] = "train"
    # Among few books none may fall low enough, and a run without a validation loss flies blind: take the lowest.
    if len(paths) >= 3 and "validation" not in splits:
        splits[0] = "validation"
    if len(paths) >= 3 and "test" not in splits:
        splits[splits.count("validation")] = "test"
    return [_reference(path, split, path.stem, "", None) for path, split in zip(paths, splits, strict=True)]


def _place(book_id: str) -> float:
    """A number in [0, 1) that depends on the id alone."""
    return int.from_bytes(hashlib.sha256(os.fsencode(book_id)).digest()[:8]) / 2**64


def _reference(path: Path, split: Split, title: str, author: str, year: int | None) -> BookReference:
    if not str(path).isprintable():
        raise CorpusError(f"the name of {str(path)!r} is not plain text: rename the file")
    try:
        size, digest = path.stat().st_size, sha256_file(path)
    except OSError as error:
        raise CorpusError(f"cannot read {path}: {error.strerror}") from error
    place = str(path.absolute())
    return BookReference(
        id=path.stem, split=split, title=title, author=author, year=year, path=place, size=size, sha256=digest
    )
