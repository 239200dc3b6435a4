"""Books in parquet files of a folder or of an object store."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.corpus.parquet_books import IN_ORDER, LONG, table_of, text_of, write, write_corpus
from victorian.corpus.sources import find_books, fingerprint, read_bytes, read_many
from victorian.errors import CorpusError, VictorianError
from victorian.storage import open_storage, sha256_file

pytestmark = pytest.mark.usefixtures("cache")


def test_a_row_is_a_book(tmp_path: Path) -> None:
    root = write_corpus(tmp_path / "pg19")
    found = find_books(str(root))
    assert [book.id for book in found.books] == [str(book) for book in IN_ORDER]
    assert [book.split for book in found.books] == ["train"] * 12 + ["validation", "test"]
    assert [book.row for book in found.books] == [*range(8), *range(4), 0, 0]
    fourth = found.books[3]
    assert (fourth.title, fourth.author, fourth.year) == ("Title 5", "An Author", 1805)
    assert (fourth.root, fourth.key) == (str(root), "data/train-00000-of-00002.parquet")
    assert fourth.version == sha256_file(root / fourth.key)
    assert fourth.size >= 60
    assert found.absent == ()


def test_texts_are_read_in_the_order_asked_for(tmp_path: Path) -> None:
    found = find_books(str(write_corpus(tmp_path / "pg19"))).books
    expected = {book.id: text_of(int(book.id)).encode() for book in found}
    for asked in (found, found[::-1], found[5:7], [found[2], found[2], found[9], found[0]]):
        read = list(read_many(asked))
        assert [book for book, _ in read] == list(asked)
        assert [text for _, text in read] == [expected[book.id] for book in asked]
    assert read_bytes(found[-1]) == expected["51"]


@pytest.mark.parametrize(
    "names",
    [
        ("train-00000-of-00001.parquet", "test-00000-of-00001.parquet"),
        ("data/train.parquet", "data/test.parquet"),
        ("train/0000.parquet", "test/0000.parquet"),
        ("training.parquet", "eval.parquet"),
    ],
)
def test_the_names_of_files_say_the_split(tmp_path: Path, names: tuple[str, str]) -> None:
    for name, book in zip(names, (1, 2), strict=True):
        write(tmp_path / "a [b]" / name, table_of([book]))
    assert [(book.id, book.split) for book in find_books(str(tmp_path / "a [b]")).books] == [
        ("1", "train"), ("2", "test"),
    ]  # fmt: skip


def test_a_card_can_say_the_split(tmp_path: Path) -> None:
    write(tmp_path / "one.parquet", table_of([1]))
    write(tmp_path / "two.parquet", table_of([2]))
    card = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: {}\n---\n"
    (tmp_path / "README.md").write_text(card.format("two.parquet"))
    assert [book.id for book in find_books(str(tmp_path)).books] == ["2"]
    other = write(tmp_path.parent / f"{tmp_path.name}-other" / "three.parquet", table_of([3]))
    for path in (str(other), f"../{other.parent.name}/three.parquet"):
        (tmp_path / "README.md").write_text(card.format(path))
        with pytest.raises(
            VictorianError, match=r"README\.md of .* points to .*three|expected a key below|cannot find"
        ):
            find_books(str(tmp_path))
    (tmp_path / "README.md").write_text("---\nconfigs: [\n---\n")
    with pytest.raises(CorpusError, match="cannot find the files of"):
        find_books(str(tmp_path))


def test_a_name_of_a_file_that_would_spoil_a_terminal_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "train-\x1b[31m.parquet", table_of([1]))
    with pytest.raises(CorpusError, match="is not plain text: rename"):
        find_books(str(tmp_path))


def test_the_corpus_follows_the_books_and_not_their_place(tmp_path: Path) -> None:
    first, second = (find_books(str(write_corpus(tmp_path / name))).books for name in "ab")
    assert fingerprint(first) == fingerprint(second)
    write(tmp_path / "b/data/test-00000-of-00001.parquet", table_of([52]))
    assert fingerprint(find_books(str(tmp_path / "b")).books) != fingerprint(first)


@pytest.mark.parametrize(
    ("column", "years"),
    [
        (pa.array([1851, None], pa.int64()), [1851, None]),
        (pa.array([1851.0, float("nan")]), [1851, None]),
        (["1851", "unknown"], [1851, None]),
        (["1851-10-18", ""], [1851, None]),
        (pa.array([0, None], pa.date32()), [1970, None]),
    ],
)
def test_years_come_in_many_forms(tmp_path: Path, column: Any, years: list[int | None]) -> None:
    write(tmp_path / "train.parquet", table_of([1, 2], publication_date=column))
    assert [book.year for book in find_books(str(tmp_path)).books] == years


def test_texts_that_are_null_are_refused_or_listed(tmp_path: Path) -> None:
    texts = ["a", None, "c", "d", None]
    write(tmp_path / "train.parquet", table_of([1, 2, 3, 4, 5], text=texts))
    with pytest.raises(CorpusError, match=r"books that have no text, 2 of them, '2' the first: .*missing-texts drop"):
        find_books(str(tmp_path))
    found = find_books(str(tmp_path), missing_texts="drop")
    assert [(book.id, book.split, book.title, book.year) for book in found.absent] == [
        ("2", "train", "Title 2", 1802), ("5", "train", "Title 5", 1805),
    ]  # fmt: skip
    assert [text for _, text in read_many(found.books)] == [b"a", b"c", b"d"]


def test_a_null_that_the_file_does_not_announce_is_named_when_it_is_read(tmp_path: Path) -> None:
    pq.write_table(table_of([1, 2], text=["a", None]), tmp_path / "train.parquet", write_statistics=False)
    found = find_books(str(tmp_path)).books
    with pytest.raises(CorpusError, match=r"train\.parquet, row 1, has no text"):
        list(read_many(found))


def test_bytes_are_given_as_they_are(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", table_of([1], text=pa.array([b"caf\xe9\r\n\0"], pa.binary())))
    assert read_bytes(find_books(str(tmp_path)).books[0]) == b"caf\xe9\r\n\0"


def with_date(value: int, kind: pa.DataType) -> Callable[[Path], object]:
    return lambda path: write(path, table_of([1, 2], publication_date=pa.array([0, value], kind)))


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.write_bytes(b"not parquet, but long enough to be looked into"), "cannot read .* as a parq"),
        (lambda path: path.write_bytes(b""), "cannot read .* as a parquet file"),
        (halve, "cannot read .* as a parquet file"),
        (
            lambda path: write(path, table_of([1], url=None)),
            "lacks the column url: expected .*; got short_book_title, ",
        ),
        (
            lambda path: write(path, table_of([1]).append_column("url", pa.array(["x/2"]))),
            "has the column url more than once: write it with one",
        ),
        (lambda path: write(path, table_of([1], text=[1])), "holds int64 in its column text: expected strings"),
        (lambda path: write(path, table_of([1, 2], url=["x/1", "x/y"])), "row 1: expected a number .* got 'x/y'"),
        (lambda path: write(path, table_of([1], url=pa.array([None], pa.string()))), "row 0: expected a number"),
        (with_date(2**31 - 1, pa.date32()), r"train\.parquet, row 1, holds a date32.* that cannot be read: days="),
        (with_date(10**15, pa.timestamp("s")), r"train\.parquet, row 1, holds a timestamp.* that cannot be read"),
        (with_date(0, pa.timestamp("s", "No/Where")), "row 0, holds a timestamp.* cannot be read: .*No/Where"),
        (lambda path: write(path, table_of([1])[:0]), "train is an empty split"),
        (lambda path: write(path, table_of([1, 2, 3, 4, 1])), "book 1 stands in .*, row 0 and in .*, row 4: keep one"),
        (lambda path: write(path.with_name("test.parquet"), table_of([1])), "book 1 stands in .*train.* and in .*test"),
        (lambda path: path.rename(path.with_name("test.parquet")), "holds no training book"),
    ],
)
def test_what_is_wrong_is_said_of_the_file(tmp_path: Path, spoil: Callable[[Path], object], reason: str) -> None:
    path = write(tmp_path / "train.parquet", table_of([1, 2, 3]))
    spoil(path)
    with pytest.raises(CorpusError, match=reason) as caught:
        find_books(str(tmp_path))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_url_of_digits_takes_no_longer_than_any_other(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", table_of([1], url=["7" * 200_000 + "x"]))
    began = time.monotonic()
    with pytest.raises(CorpusError, match="row 0: expected a number at the url's end"):
        find_books(str(tmp_path))
    assert time.monotonic() - began < 20


def test_a_split_of_another_name_is_refused(tmp_path: Path) -> None:
    for split in ("train", "extra"):
        write(tmp_path / f"data/{split}-00000-of-00001.parquet", table_of([1]))
    with pytest.raises(CorpusError, match="has a split 'extra': expected train, validation, test"):
        find_books(str(tmp_path))


def test_a_damaged_text_is_named_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    pq.write_table(table_of([1]), path, compression="none", use_dictionary=False, write_page_checksum=True)
    path.write_bytes(path.read_bytes().replace(b"The text of book 1.", b"The text of book 2."))
    (found,) = find_books(str(tmp_path)).books
    with pytest.raises(CorpusError, match=r"cannot read .*train\.parquet as a parquet file"):
        read_bytes(found)


def test_a_file_that_changes_between_the_listing_and_the_reading_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "train.parquet", table_of([1, 2, 3, 4]))
    found = find_books(str(tmp_path)).books
    assert len(list(read_many(found))) == 4
    write(path, table_of([1, 2, 3, 4], text=["a", "b", "c", "d"]))
    with pytest.raises(CorpusError, match=r"train\.parquet changed since it was found"):
        list(read_many(found))
    path.unlink()
    with pytest.raises(CorpusError, match=r"cannot read .*train\.parquet"):
        list(read_many(found))


@pytest.mark.s3
def test_an_object_store_holds_the_same_parquet_files(tmp_path: Path, object_store: Any) -> None:
    root = write_corpus(tmp_path / "pg19")
    write(root / "data/train-00001-of-00002.parquet", table_of(range(100, 140), LONG), row_group_size=40)
    storage = open_storage(f"{object_store.bucket('parquet')}/pg19")
    for path in root.rglob("*.*"):
        storage.write(path.relative_to(root).as_posix(), path.read_bytes())
    here, there = find_books(str(root)).books, find_books(storage.uri).books
    assert [(b.id, b.split, b.key, b.row, b.size) for b in there] == [
        (b.id, b.split, b.key, b.row, b.size) for b in here
    ]
    assert [text for _, text in read_many(there[5:20])] == [text for _, text in read_many(here[5:20])]
