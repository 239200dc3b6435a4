"""Finding and reading books."""

import itertools
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from victorian.corpus.book import BookReference
from victorian.corpus.sources import find_books, fingerprint, read_bytes, read_many
from victorian.errors import CorpusError, StorageError, VictorianError
from victorian.storage import open_storage, sha256


def found_in(source: str | Path) -> tuple[BookReference, ...]:
    return find_books(str(source)).books


def test_pg19s_layout_gives_split_title_author_and_year(books: Callable[..., Path]) -> None:
    root = books(train={"2": "two", "1": "one"}, validation={"3": "three"}, test={"4": "four"})
    found = find_books(str(root))
    assert [(book.split, book.id) for book in found.books] == [
        ("train", "1"), ("train", "2"), ("validation", "3"), ("test", "4"),
    ]  # fmt: skip
    first = found.books[0]
    assert (first.title, first.author, first.year) == ("Title 1", "An Author", 1860)
    assert (first.key, first.size, first.version) == ("train/1.txt", 3, sha256(b"one"))
    assert read_bytes(found.books[3]) == b"four"
    assert found.absent == ()


def test_the_sample_is_a_corpus_of_its_own() -> None:
    found = found_in("sample")
    assert {book.split for book in found} == {"train", "validation", "test"}
    assert sum(book.size for book in found) >= 80_000
    assert all(book.year and book.title and book.author for book in found)


def test_many_texts_come_in_the_order_asked_for_from_any_number_of_corpora(books: Callable[..., Path]) -> None:
    mine, sample = found_in(books(train={"1": "one", "2": "two"})), found_in("sample")[:3]
    asked = [mine[1], *sample, mine[0]]
    read = list(read_many(asked))
    assert [book for book, _ in read] == asked
    assert [text for _, text in read] == [b"two", *(Path(book.place).read_bytes() for book in sample), b"one"]
    assert list(read_many([])) == []


def test_a_plain_folder_is_split_by_the_names_alone(tmp_path: Path) -> None:
    for number in range(60):
        (tmp_path / f"book-{number}.txt").write_text(f"text {number}")
    before = {book.id: book.split for book in found_in(tmp_path)}
    assert {"train", "validation", "test"} == set(before.values())
    assert list(before.values()).count("train") > 45
    for number in range(60, 80):
        (tmp_path / f"book-{number}.txt").write_text("more")
    after = {book.id: book.split for book in found_in(tmp_path)}
    assert all(after[book] == split for book, split in before.items())


def test_names_in_capitals_are_texts_as_well(tmp_path: Path) -> None:
    for name in ("EMMA.TXT", "persuasion.txt", "Lady Susan.Txt", "notes.doc"):
        (tmp_path / name).write_text("text")
    assert {book.id for book in find_books(str(tmp_path)).books} == {"EMMA", "persuasion", "Lady Susan"}


def test_a_handful_of_plain_books_still_has_every_split(tmp_path: Path) -> None:
    for name in ("mine", "yours", "theirs"):
        (tmp_path / f"{name}.txt").write_text("text")
    assert {book.split for book in found_in(tmp_path)} == {"train", "validation", "test"}


@pytest.mark.parametrize("names", list(itertools.combinations(["book 5", "book 36", "book 0", "book 1"], 3)))
def test_books_whose_names_fall_into_one_split_are_shared_out_as_well(tmp_path: Path, names: tuple[str, ...]) -> None:
    """By their names "book 5" and "book 36" are for validation."""
    for name in names:
        (tmp_path / f"{name}.txt").write_text("text")
    assert sorted(book.split for book in found_in(tmp_path)) == ["test", "train", "validation"]


def test_a_single_plain_book_is_a_training_book_whatever_its_name(tmp_path: Path) -> None:
    for number in range(30):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / f"book{number}.txt").write_text("text")
        assert [book.split for book in found_in(folder)] == ["train"]


def test_the_fingerprint_follows_the_books_and_not_their_place(books: Callable[..., Path], tmp_path: Path) -> None:
    root = books(train={"1": "one", "2": "two"})
    before = fingerprint(found_in(root))
    assert fingerprint(found_in(root)) == before
    moved = Path(shutil.copytree(root, tmp_path / "elsewhere"))
    assert fingerprint(found_in(moved)) == before
    (moved / "train" / "2.txt").write_text("owt")
    assert fingerprint(found_in(moved)) != before


@pytest.mark.parametrize("source", ["/nowhere/at/all", "ftp://bucket/books", ""])
def test_what_is_not_a_corpus_is_refused(source: str) -> None:
    with pytest.raises(VictorianError, match="expected"):
        find_books(source)


def test_a_corpus_without_training_books_is_refused(tmp_path: Path, books: Callable[..., Path]) -> None:
    (tmp_path / "notes.md").write_text("no book")
    with pytest.raises(CorpusError, match="holds no training book"):
        find_books(str(tmp_path))
    root = books(validation={"1": "one"})
    with pytest.raises(CorpusError, match="holds no training book"):
        find_books(str(root))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_an_empty_split_is_refused(books: Callable[..., Path], split: str) -> None:
    root = books(**{"train": {"1": "one"}, "validation": {"2": "two"}, split: {}})
    (root / split / "notes.md").write_text("no book")
    with pytest.raises(CorpusError, match=f"{split} is an empty split"):
        find_books(str(root))


def test_a_text_without_metadata_is_named(books: Callable[..., Path]) -> None:
    root = books(train={"1": "one"})
    (root / "train" / "99.txt").write_text("stranger")
    with pytest.raises(CorpusError, match=r"99\.txt has no line in"):
        find_books(str(root))
    (root / "metadata.csv").unlink()
    with pytest.raises(CorpusError, match=r"metadata\.csv is missing"):
        find_books(str(root))


def test_metadata_without_their_texts_are_refused_or_listed(books: Callable[..., Path]) -> None:
    root = books(train={"1": "one", "2": "two", "3": "three"})
    before = find_books(str(root))
    for book in ("3", "2"):
        (root / "train" / f"{book}.txt").unlink()
    with pytest.raises(CorpusError, match=r"books that have no text, 2 of them, '2' the first: .*missing-texts drop"):
        find_books(str(root))
    found = find_books(str(root), missing_texts="drop")
    assert [(book.id, book.split, book.title, book.year) for book in found.absent] == [
        ("2", None, "Title 2", 1860), ("3", None, "Title 3", 1860),
    ]  # fmt: skip
    assert found.books == before.books[:1]


def test_one_id_in_two_splits_is_refused(books: Callable[..., Path]) -> None:
    root = books(train={"1": "one"}, test={"1": "one"})
    with pytest.raises(CorpusError, match=r"book 1 stands in .*/train/1\.txt and in .*/test/1\.txt"):
        find_books(str(root))


def test_a_broken_line_of_metadata_is_named(books: Callable[..., Path]) -> None:
    root = books(train={"1": "one"})
    (root / "metadata.csv").write_text("1,Title\n")
    with pytest.raises(CorpusError, match="line 1: expected id, title, year, address; got 2 columns"):
        find_books(str(root))
    (root / "metadata.csv").write_bytes(b"1,Caf\xe9,1860,x\n")
    with pytest.raises(CorpusError, match=r"metadata\.csv is not UTF-8: byte 5 is 0xe9"):
        find_books(str(root))
    (root / "metadata.csv").write_text("1," + "x" * 200_000 + ",1860,x\n")
    with pytest.raises(CorpusError, match=r"metadata\.csv, line 1: field larger"):
        find_books(str(root))


def test_a_book_described_twice_is_refused_unless_the_lines_are_equal(books: Callable[..., Path]) -> None:
    root = books(train={"1": "one"})
    line = "1,A by B,1860,x\n"
    (root / "metadata.csv").write_text(line + "\n" + line)
    assert [book.title for book in found_in(root)] == ["A"]
    (root / "metadata.csv").write_text(line + line.replace("1860", "1861"))
    with pytest.raises(CorpusError, match=r"metadata\.csv, line 2: book '1' stands in line 1 with other words"):
        find_books(str(root))


def test_odd_metadata_is_read_as_well_as_it_can_be(books: Callable[..., Path]) -> None:
    root = books(train={"1": "one", "2": "two", "3": "three", "4": "four"})
    (root / "metadata.csv").write_text(
        '\ufeff1,A by B,18\u00b2,x\n2,C,--5,x\n3,"D by E by F",1899,x\n4,by G,1847-10-16,x\n', encoding="utf-8"
    )
    assert [(book.title, book.author, book.year) for book in found_in(root)] == [
        ("A", "B", None), ("C", "", None), ("D by E", "F", 1899), ("by G", "", 1847),
    ]  # fmt: skip


def test_a_name_that_would_spoil_a_terminal_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a\x1b[31m.txt").write_text("text")
    with pytest.raises(CorpusError, match="is not plain text: rename"):
        find_books(str(tmp_path))


def test_a_book_that_changes_between_the_listing_and_the_reading_is_told(books: Callable[..., Path]) -> None:
    root = books(train={"1": "one"})
    (found,) = found_in(root)
    (root / "train" / "1.txt").write_text("two")
    with pytest.raises(CorpusError, match=r"train/1\.txt changed since it was found"):
        read_bytes(found)
    (root / "train" / "1.txt").unlink()
    with pytest.raises(CorpusError, match=r"book 1 cannot be read: .*train/1\.txt"):
        read_bytes(found)


def test_texts_are_bytes_that_nobody_has_decoded(books: Callable[..., Path]) -> None:
    (found,) = found_in(books(train={"1": b"caf\xe9\r\n\x00"}))
    assert read_bytes(found) == b"caf\xe9\r\n\x00"


def test_text_beside_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "1.txt").write_text("text")
    (tmp_path / "train-00000-of-00001.parquet").write_bytes(b"")
    with pytest.raises(CorpusError, match="keep one kind of file"):
        find_books(str(tmp_path))


@pytest.mark.s3
def test_an_object_store_holds_the_same_corpus(books: Callable[..., Path], object_store: object) -> None:
    root = books(
        train={str(number): f"text {number}" for number in range(10)}, validation={"30": "v"}, test={"31": b"\xff"}
    )
    bucket = object_store.bucket("corpus")  # type: ignore[attr-defined]
    storage = open_storage(f"{bucket}/books")
    for path in root.rglob("*.*"):
        storage.write(path.relative_to(root).as_posix(), path.read_bytes())
    here, there = found_in(root), found_in(storage.uri)
    assert [(b.id, b.split, b.title, b.key, b.size) for b in there] == [
        (b.id, b.split, b.title, b.key, b.size) for b in here
    ]
    assert [data for _, data in read_many(there)] == [data for _, data in read_many(here)]
    before = fingerprint(there)
    storage.write("train/3.txt", b"another text")
    assert fingerprint(found_in(storage.uri)) != before
    with pytest.raises(CorpusError, match=r"train/3\.txt changed since it was found"):
        list(read_many(there))
    storage.delete("train/3.txt")
    with pytest.raises(CorpusError, match=r"book 3 cannot be read"):
        list(read_many(there))
    with pytest.raises((CorpusError, StorageError)):
        find_books(f"{bucket}/elsewhere")


def test_looking_for_books_loads_nothing_heavy() -> None:
    heavy = ("torch", "ray", "pyarrow", "datasets", "huggingface_hub")
    code = (
        "import sys; from victorian.corpus.sources import find_books; find_books('sample'); "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
