"""Books in parquet files, of a folder or of a hub, and the row groups that are kept for other processes."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.corpus.hub import running_hub
from victorian.corpus.row_groups import FOLDER, WRITING, kept_texts
from victorian.corpus.sources import find_books, fingerprint, read_bytes, read_many
from victorian.errors import CorpusError, StorageError, VictorianError
from victorian.storage import open_storage, sha256_file

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


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VICTORIAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / FOLDER


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


def test_a_large_row_group_is_decoded_once_for_many_units(tmp_path: Path, cache: Path) -> None:
    write(tmp_path / "train.parquet", table_of(range(80), LONG), row_group_size=40)
    found = find_books(str(tmp_path)).books
    for unit in (found[:5], found[5:10], found[38:42], found[70:75][::-1]):
        assert [text for _, text in read_many(unit)] == [text_of(int(book.id), LONG).encode() for book in unit]
    kept = [path for path in cache.iterdir() if not path.name.startswith(".")]
    assert len(kept) == 2
    assert sum(path.stat().st_size for path in kept) == pytest.approx(80 * LONG * 2, rel=0.01)  # æ is two bytes
    assert oct(cache.stat().st_mode & 0o777) == "0o700"


def test_a_row_group_that_is_wanted_whole_is_not_kept(tmp_path: Path, cache: Path) -> None:
    write(tmp_path / "train.parquet", table_of(range(40), LONG), row_group_size=40)
    found = find_books(str(tmp_path)).books
    assert len(list(read_many(found))) == 40
    assert not cache.exists()


class Texts:
    """Ten texts that count how often they are decoded, one of them null."""

    TEXTS: tuple[bytes | None, ...] = (*(b"%d" % number * 1000 for number in range(9)), None)

    def __init__(self) -> None:
        self.decoded = 0

    def __call__(self) -> Iterator[bytes | None]:
        self.decoded += 1
        yield from self.TEXTS


def kept(name: str, texts: Texts, rows: Sequence[int] = range(10)) -> list[bytes | None]:
    return list(kept_texts(name, 10, texts, rows))


def test_what_is_kept_is_decoded_once_whoever_asks() -> None:
    texts = Texts()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: kept("a", texts), range(16)))
    assert answers == [list(Texts.TEXTS)] * 16
    assert texts.decoded == 1
    assert kept("a", texts, [9, 0, 3]) == [None, Texts.TEXTS[0], Texts.TEXTS[3]]
    assert kept("b", texts) == list(Texts.TEXTS)
    assert texts.decoded == 2


def test_what_is_not_whole_is_decoded_again(cache: Path) -> None:
    texts = Texts()
    kept("a", texts)
    (path,) = (path for path in cache.iterdir() if not path.name.startswith("."))
    whole = path.read_bytes()
    for spoilt in (b"", whole[:-1], whole[:100], whole + b"x"):
        path.write_bytes(spoilt)
        assert kept("a", texts) == list(Texts.TEXTS)
    assert texts.decoded == 5
    path.write_bytes(b"?" + whole[1:])
    with pytest.raises(CorpusError, match="was damaged and is removed: run again"):
        kept("a", texts)
    assert kept("a", texts) == list(Texts.TEXTS)


def test_a_decoding_that_fails_leaves_nothing(cache: Path) -> None:
    def failing() -> Iterator[bytes]:
        yield b"one"
        raise CorpusError("no more")

    with pytest.raises(CorpusError, match="no more"):
        list(kept_texts("a", 2, failing, [0]))
    assert all(path.name.startswith(".lock") for path in cache.iterdir())


def test_the_longest_unused_makes_room(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = Texts()
    monkeypatch.setenv("VICTORIAN_CACHE_BYTES", "20000")  # two row groups of 9,240 bytes
    for seconds, name in enumerate(("a", "b", "a", "c", "a")):
        kept(name, texts)
        for path in cache.iterdir():  # as if some time had passed since
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns - 10**9 * (seconds + 1)))
    assert texts.decoded == 3
    kept("d", texts)
    kept("e", texts)
    assert sum(path.stat().st_size for path in cache.iterdir()) <= 30_000
    left_over = cache / f"{WRITING}left"
    left_over.write_bytes(b"half")
    kept("f", texts)
    assert left_over.exists()
    os.utime(left_over, (0, 0))
    kept("g", texts)
    assert not left_over.exists()


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("VICTORIAN_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match=r"cannot keep texts in .*set VICTORIAN_CACHE"):
        kept("a", Texts())


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("hf:deepmind/pg19", "is a script, which .* refuses since version 4: take a copy .* hf:emozilla/pg19"),
        ("hf:pg19", "expected hf:OWNER/NAME or hf:OWNER/NAME:SPLIT"),
        ("hf:", "expected hf:OWNER/NAME"),
        ("hf:o/n:dev", "with a split of train, validation, test; got 'hf:o/n:dev'"),
        ("hf:o/n:train[:10%]", "with a split of train, validation, test"),
        ("hf:../n", "cannot find the files|expected"),
    ],
)
def test_sources_on_the_hub_that_cannot_be_are_refused(source: str, reason: str) -> None:
    with pytest.raises(CorpusError, match=reason):
        find_books(source)


READ = """
import json, os, sys, threading, time
import numpy, pyarrow
from victorian.corpus.sources import find_books, fingerprint, read_many
from victorian.errors import CorpusError
def foreign():
    names = [open(f"/proc/self/task/{task}/comm").read() for task in os.listdir("/proc/self/task")]
    return sum("jemalloc" not in name for name in names) - threading.active_count()
before = foreign()
for source in sys.argv[1:]:
    try:
        found = find_books(source)
        texts = [text.decode() for _, text in read_many(found.books)]
        books = [json.loads(b.model_dump_json()) for b in found.books]
        end = time.monotonic() + 5  # a thread that has ended is still listed for a moment
        while (left := foreign() - before) and time.monotonic() < end:
            time.sleep(0.01)
        print(json.dumps({"books": books, "texts": texts, "foreign_threads": left}))
    except CorpusError as error:
        print(json.dumps({"error": str(error)}))
"""


def from_hub(address: str, home: Path, *sources: str) -> list[Any]:
    """What another process finds and reads: the hub's address is read once, when its client is imported."""
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(home)}
    done = subprocess.run([sys.executable, "-c", READ, *sources], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_hub_gives_the_books_of_the_same_files_in_a_folder(tmp_path: Path) -> None:
    root = write_corpus(tmp_path / "hub/owner/pg19")
    here = find_books(str(root)).books
    with running_hub(tmp_path / "hub") as hub:
        sources = ("hf:owner/pg19", "hf:owner/pg19:train", "hf:owner/pg19:test")
        there, train, test = from_hub(hub.address, tmp_path / "home", *sources)
    assert [{**book, "root": ""} for book in there["books"]] == [
        {**json.loads(book.model_dump_json()), "root": ""} for book in here
    ]
    assert there["books"][0]["root"].startswith("hf://datasets/owner/pg19@0123")
    assert there["texts"] == [text.decode() for _, text in read_many(here)]
    assert there["foreign_threads"] == 0, "a thread of Arrow that holds a Python file at the end aborts the process"
    assert [book["id"] for book in train["books"]] == [book.id for book in here if book.split == "train"]
    assert "holds no training book" in test["error"]


def test_a_hub_that_has_not_what_is_asked_for_is_quoted(tmp_path: Path) -> None:
    write(tmp_path / "hub/o/columns/train.parquet", table_of([1], url=None))
    (tmp_path / "hub/o/script").mkdir()
    (tmp_path / "hub/o/script/script.py").write_text("print()")
    (tmp_path / "hub/o/texts").mkdir()
    (tmp_path / "hub/o/texts/train.txt").write_text("text")
    with running_hub(tmp_path / "hub") as hub:
        names = ("columns", "script", "texts", "nothing")
        said = from_hub(hub.address, tmp_path / "home", *(f"hf:o/{name}" for name in names))
        answers = {name: one["error"] for name, one in zip(names, said, strict=True)}
    assert "lacks the column url: expected" in answers["columns"]
    assert "hf:o/script is a script" in answers["script"]
    assert "holds no parquet files" in answers["texts"]
    assert "cannot find the files of 'hf:o/nothing': 404" in answers["nothing"]
    assert not any("\n" in answer for answer in answers.values())


def test_a_hub_that_cannot_be_reached_is_told_at_once(tmp_path: Path, free_port: Callable[[], int]) -> None:
    began = time.monotonic()
    (answer,) = from_hub(f"http://127.0.0.1:{free_port()}", tmp_path, "hf:owner/pg19")
    assert "cannot find the files of 'hf:owner/pg19'" in answer["error"]
    assert "the way to the Hugging Face hub" in answer["error"]
    assert time.monotonic() - began < 30  # its client alone would try again for 23 s, after a start of some


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
