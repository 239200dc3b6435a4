"""Books in parquet files of PG19's columns: a row is a book.

Finding reads the small columns alone. Reading decodes a row group once where most of it is wanted, and takes it from
`row_groups` where it is not: a row group may hold a thousand books, and a unit of work has ten of them.
"""

import os
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache, partial
from itertools import accumulate, groupby, islice, pairwise
from pathlib import PurePosixPath
from typing import Any

from victorian.corpus.book import BookReference
from victorian.corpus.metadata import AbsentBook, about
from victorian.corpus.repository import HUB_ROOT, SplitFile, in_one_line
from victorian.corpus.row_groups import kept_texts
from victorian.corpus.versions import versions
from victorian.errors import CorpusError, VictorianError
from victorian.storage import open_storage

TITLE, YEAR, ADDRESS, TEXT = COLUMNS = ("short_book_title", "publication_date", "url", "text")

LARGEST_ROW_GROUP = 4 * 2**30
"""Bytes of text: what a process may have to hold."""
SMALL_ROW_GROUP = 16 * 2**20
"""Bytes of text that are sooner decoded again than kept."""
READ_AT_ONCE = 8 * 2**20
ROWS_AT_ONCE = 8
RETRY_SECONDS = 60

# No number is looked at from its middle: a long one that does not end the url would take the square of its length.
_BOOK_NUMBER = re.compile(r"(?<![0-9])([0-9]+)/?\s*$", re.ASCII)


@dataclass(frozen=True)
class _Layout:
    """Where the row groups of a file begin, with the number of all rows at the end, and the bytes of their texts."""

    starts: tuple[int, ...]
    sizes: tuple[int, ...]


def find_rows(root: str, files: Sequence[SplitFile]) -> tuple[list[BookReference], list[AbsentBook]]:
    """The books of some files, in the files' order, and those whose text is null.

    Raises:
        CorpusError: naming the file and the row, if a file is damaged or not parquet, if it lacks a column, or if an
            address does not end in a number; or if a split has no rows.
    """
    books: list[BookReference] = []
    absent: list[AbsentBook] = []
    for split, of_split in groupby(files, key=lambda file: file.split):
        rows = [row for file in of_split for row in _rows(root, file)]
        if not rows:
            raise CorpusError(f"{split} is an empty split: its files in {root} hold no rows")
        books += [row for row in rows if isinstance(row, BookReference)]
        absent += [row for row in rows if isinstance(row, AbsentBook)]
    return books, absent


def read_rows(references: Sequence[BookReference]) -> Iterator[tuple[BookReference, bytes]]:
    """The texts of some rows, in the order given; at most one row group is in memory.

    Raises:
        CorpusError: naming the file, if it cannot be read or is not what was found.
    """
    for (root, key, version), of_file in groupby(references, key=lambda book: (book.root, book.key, book.version)):
        layout = _known_layout(root, key, version, _stamp(root, key))
        groups = groupby(of_file, key=lambda book: bisect_right(layout.starts, book.row or 0) - 1)
        for number, of_group in groups:
            wanted = list(of_group)
            if number == len(layout.sizes):
                raise CorpusError(f"{wanted[0].place}, is not there: the file ends before; find the books again")
            rows = [(book.row or 0) - layout.starts[number] for book in wanted]
            of_all = layout.starts[number + 1] - layout.starts[number]
            if layout.sizes[number] <= SMALL_ROW_GROUP or 2 * len(rows) >= of_all:
                texts = _pick(root, key, number, rows)
            else:
                name = f"{root}/{key} {version} {number}"
                texts = kept_texts(name, of_all, partial(_stream, root, key, number), rows)
            for book, text in zip(wanted, texts, strict=True):
                if text is None:
                    raise CorpusError(f"{book.place}, has no text: expected some in the column {TEXT}")
                yield book, text


def _rows(root: str, file: SplitFile) -> Iterator[BookReference | AbsentBook]:
    place = f"{root}/{file.key}"
    with _opened(root, file.key) as parquet:
        layout = _layout(parquet, place)
        for number, (start, stop) in enumerate(pairwise(layout.starts)):
            without_text = _rows_without_text(parquet, number)
            size = layout.sizes[number] // max(1, stop - start)
            table = parquet.read_row_group(number, columns=[TITLE, YEAR, ADDRESS], use_threads=False)
            columns = [table[name] for name in (TITLE, YEAR, ADDRESS)]
            for row, cells in enumerate(zip(*columns, strict=True), start):
                title, year, address = (_value(cell, f"{place}, row {row}") for cell in cells)
                book = _BOOK_NUMBER.search(str(address))
                if book is None:
                    raise CorpusError(f"{place}, row {row}: expected a number at the url's end, got {address!r}")
                known = about(title, year)
                described: dict[str, Any] = {"title": known.title, "author": known.author, "year": known.year}
                if row - start in without_text:
                    yield AbsentBook(id=book[1], split=file.split, **described)
                    continue
                yield BookReference(
                    id=book[1],
                    split=file.split,
                    **described,
                    root=root,
                    key=file.key,
                    row=row,
                    size=size,
                    version=file.version,
                )


def _value(cell: Any, place: str) -> Any:
    """What a cell holds, in Python's types; CorpusError where these end: a day beyond the calendar, an unknown zone."""
    try:
        return cell.as_py()
    except (OverflowError, ValueError, LookupError) as error:
        raise CorpusError(f"{place}, holds a {cell.type} that cannot be read: {in_one_line(error)}") from error


def _layout(parquet: Any, place: str) -> _Layout:
    """The row groups of an open file; CorpusError if it has not the columns, or a row group is too large to be read."""
    from pyarrow import types  # type: ignore[import-untyped]

    schema = parquet.schema_arrow
    if missing := [name for name in COLUMNS if name not in schema.names]:
        raise CorpusError(
            f"{place} lacks the column {missing[0]}: expected {', '.join(COLUMNS)}; got {', '.join(schema.names)}"
        )
    if twice := [name for name in COLUMNS if schema.names.count(name) > 1]:
        raise CorpusError(f"{place} has the column {twice[0]} more than once: write it with one")
    kind = schema.field(TEXT).type
    kinds = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)
    if not any(is_kind(kind) for is_kind in kinds):
        raise CorpusError(f"{place} holds {kind} in its column {TEXT}: expected strings")
    groups = [parquet.metadata.row_group(number) for number in range(parquet.num_row_groups)]
    sizes = tuple(_text_column(group).total_uncompressed_size for group in groups)
    if sizes and max(sizes) > LARGEST_ROW_GROUP:
        raise CorpusError(
            f"{place} has {max(sizes)} bytes of text in a row group: write it again with at most {LARGEST_ROW_GROUP}"
        )
    return _Layout(starts=(0, *accumulate(group.num_rows for group in groups)), sizes=sizes)


def _text_column(group: Any) -> Any:
    columns = [group.column(index) for index in range(group.num_columns)]
    return next(column for column in columns if column.path_in_schema == TEXT)


def _rows_without_text(parquet: Any, number: int) -> set[int]:
    """Rows of a row group whose text is null. The file's statistics say whether it is worth looking."""
    statistics = _text_column(parquet.metadata.row_group(number)).statistics
    if statistics is None or not statistics.has_null_count or not statistics.null_count:
        return set()
    batches = parquet.iter_batches(ROWS_AT_ONCE, row_groups=[number], columns=[TEXT], use_threads=False)
    nulls = (null.as_py() for batch in batches for null in batch.column(0).is_null())
    return {row for row, null in enumerate(nulls) if null}


def _pick(root: str, key: str, number: int, rows: Sequence[int]) -> Iterator[bytes | None]:
    """Some texts of a row group, which is decoded once if the rows ascend."""
    stream, position = _stream(root, key, number), 0
    for row in rows:
        if row < position:
            stream, position = _stream(root, key, number), 0
        yield next(islice(stream, row - position, None))
        position = row + 1


def _stream(root: str, key: str, number: int) -> Iterator[bytes | None]:
    """The texts of a row group in order."""
    with _opened(root, key) as parquet:
        for batch in parquet.iter_batches(ROWS_AT_ONCE, row_groups=[number], columns=[TEXT], use_threads=False):
            for text in batch.column(0):
                yield text.as_buffer().to_pybytes() if text.is_valid else None


@lru_cache(maxsize=64)
def _known_layout(root: str, key: str, version: str, stamp: tuple[int, int] | None) -> _Layout:
    """The layout of a file, after it was found to be of that version; kept, since every unit of work asks again."""
    if not root.startswith(HUB_ROOT):  # a revision of a repository cannot change
        storage = open_storage(root)
        parent = str(PurePosixPath(key).parent)
        there = [entry for entry in storage.entries("" if parent == "." else parent) if entry.key == key]
        if versions(storage, there) != [version]:
            raise CorpusError(f"{root}/{key} changed since it was found: run again")
    with _opened(root, key) as parquet:
        return _layout(parquet, f"{root}/{key}")


def _stamp(root: str, key: str) -> tuple[int, int] | None:
    """What changes with a local file, without reading it."""
    path = None if root.startswith(HUB_ROOT) else open_storage(root).local_path(key)
    if path is None:
        return None
    try:
        status = os.stat(path)
    except OSError as error:
        raise CorpusError(f"cannot read {path}: {error.strerror or error}") from error
    return status.st_mtime_ns, status.st_size


@contextmanager
def _opened(root: str, key: str) -> Iterator[Any]:
    """A parquet file of any kind of root; whatever cannot be read of it becomes a CorpusError that names it.

    Buffering ahead is off: it would take a row group's bytes at once, in Arrow's threads, and such a thread that still
    holds the hub's Python file when the interpreter ends aborts the process.
    """
    from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]

    try:
        with (
            _random_access(root, key) as file,
            ParquetFile(file, buffer_size=READ_AT_ONCE, pre_buffer=False, page_checksum_verification=True) as parquet,
        ):
            yield parquet
    except VictorianError:
        raise
    except _reading_errors(root) as error:
        raise CorpusError(f"cannot read {root}/{key} as a parquet file: {in_one_line(error)}") from error


def _reading_errors(root: str) -> tuple[type[Exception], ...]:
    from pyarrow import ArrowException

    if not root.startswith(HUB_ROOT):
        return OSError, ValueError, ArrowException
    from httpx2 import HTTPError  # what the hub's client lets through when it gives up

    return OSError, ValueError, ArrowException, HTTPError


def _random_access(root: str, key: str) -> Any:
    """An open file of which parts can be read, wherever it is."""
    from pyarrow import OSFile, fs

    if root.startswith(HUB_ROOT):
        from huggingface_hub import HfFileSystem

        return HfFileSystem().open(f"{root.removeprefix('hf://')}/{key}")
    if (path := open_storage(root).local_path(key)) is not None:
        return OSFile(str(path))
    scheme, _, prefix = root.partition("://")
    if scheme == "gs":
        store = fs.GcsFileSystem(anonymous=True, retry_time_limit=timedelta(seconds=RETRY_SECONDS))
    else:
        store, _ = fs.FileSystem.from_uri(f"s3://{prefix.partition('/')[0]}")  # S3FileSystem() ignores AWS_ENDPOINT_URL
    return store.open_input_file(f"{prefix}/{key}")
