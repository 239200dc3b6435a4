"""Books in parquet files, as PG19 has them, for tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

LONG = 500_000
"""Bytes of a text; forty are more than are decoded twice."""


def text_of(book: int, size: int = 60) -> str:
    return f"The text of book {book}. ".ljust(size, "æ")[:size]


def table_of(books: Sequence[int], size: int = 60, **columns: Any) -> pa.Table:
    """Rows as PG19 has them; a column can be given otherwise, or left out with None."""
    rows = {
        "short_book_title": [f"Title {book} by An Author" for book in books],
        "publication_date": pa.array([1800 + book for book in books], pa.int32()),
        "url": [f"http://www.gutenberg.org/ebooks/{book}" for book in books],
        "text": [text_of(book, size) for book in books],
    } | columns
    return pa.table({name: values for name, values in rows.items() if values is not None})


def write(path: Path, table: pa.Table, row_group_size: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def write_corpus(root: Path) -> Path:
    """Fourteen books in four files of three splits, some of several row groups."""
    write(root / "data/train-00001-of-00002.parquet", table_of([30, 29, 28, 27]))
    write(root / "data/train-00000-of-00002.parquet", table_of([11, 3, 12, 5, 14, 6, 7, 18]))
    write(root / "data/validation-00000-of-00001.parquet", table_of([41]))
    write(root / "data/test-00000-of-00001.parquet", table_of([51]))
    (root / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Books\n")
    return root


IN_ORDER = [11, 3, 12, 5, 14, 6, 7, 18, 30, 29, 28, 27, 41, 51]
