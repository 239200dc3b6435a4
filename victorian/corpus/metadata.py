"""What a corpus says about its books beside their texts: ids, titles, authors and years.

PG19's `metadata.csv` has no header; its columns are id, "Title by Author", year, address
(https://github.com/google-deepmind/pg19).
"""

import csv
import io
import re
from dataclasses import dataclass

from victorian.config import Section
from victorian.corpus.book import Split
from victorian.errors import CorpusError


@dataclass(frozen=True)
class About:
    """What is known of a book without reading it."""

    title: str
    author: str
    year: int | None


class AbsentBook(Section):
    """A book that is named and described, but whose text is not there."""

    id: str
    split: Split | None
    """None where only the text's place would say it."""
    title: str
    author: str
    year: int | None


def about(title: object, year: object) -> About:
    """A book from the two columns that PG19 has for it: "Emma by Jane Austen" and its year."""
    words = "" if title is None else str(title)
    name, _, author = words.rpartition(" by ")
    return About(title=name or words, author=author if name else "", year=_year(year))


def read_metadata(data: bytes, place: str) -> dict[str, About]:
    """The books of a `metadata.csv` by id; `place` names the file for the CorpusError of a bad one."""
    books: dict[str, About] = {}
    lines: dict[str, tuple[int, list[str]]] = {}
    try:
        reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        for row in reader:
            if not row:
                continue
            if len(row) != 4:
                raise CorpusError(
                    f"{place}, line {reader.line_num}: expected id, title, year, address; got {len(row)} columns"
                )
            first, same = lines.setdefault(row[0], (reader.line_num, row))
            if same != row:
                raise CorpusError(
                    f"{place}, line {reader.line_num}: book {row[0]!r} stands in line {first} with other words: "
                    "keep one of the two"
                )
            books[row[0]] = about(row[1], row[2])
    except UnicodeDecodeError as error:
        raise CorpusError(f"{place} is not UTF-8: byte {error.start} is {data[error.start]:#04x}") from error
    except csv.Error as error:
        raise CorpusError(f"{place}, line {reader.line_num}: {error}") from error
    return books


def _year(value: object) -> int | None:
    """The year of what a column may hold: 1847, 1847.0, "1847", "1847-10-16", a date; None of anything else."""
    if (year := getattr(value, "year", None)) is not None:
        return int(year)
    match = re.fullmatch(r"(-?[0-9]{1,4})(\.0|-[0-9]{2}.*)?", str(value).strip(), re.ASCII | re.DOTALL)
    return int(match[1]) if match else None
