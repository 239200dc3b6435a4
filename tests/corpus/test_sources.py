"""Finding and reading books."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from victorian.corpus.sources import find_books, fingerprint, read_book
from victorian.errors import CorpusError


def test_pg19s_layout_gives_split_title_author_and_year(books: Callable[..., Path]) -> None:
    root = books(train={"2": "two", "1": "one"}, validation={"3": "three"}, test={"4": "four"})
    found = find_books(str(root))
    assert [(book.split, book.id) for book in found] == [
        ("train", "1"), ("train", "2"), ("validation", "3"), ("test", "4"),
    ]  # fmt: skip
    assert (found[0].title, found[0].author, found[0].year) == ("Title 1", "An Author", 1860)
    assert read_book(found[3]).text == "four"


def test_the_sample_is_a_corpus_of_its_own() -> None:
    found = find_books("sample")
    assert {book.split for book in found} == {"train", "validation", "test"}
    assert sum(book.size for book in found) >= 80_000
    assert all(book.year and book.title and book.author for book in found)


def test_a_plain_folder_is_split_by_the_names_alone(tmp_path: Path) -> None:
    for number in range(60):
        (tmp_path / f"book-{number}.txt").write_text(f"text {number}")
    before = {book.id: book.split for book in find_books(str(tmp_path))}
    assert {"train", "validation", "test"} == set(before.values())
    assert list(before.values()).count("train") > 45
    for number in range(60, 80):
        (tmp_path / f"book-{number}.txt").write_text("more")
    after = {book.id: book.split for book in find_books(str(tmp_path))}
    assert all(after[book] == split for book, split in before.items())


def test_a_handful_of_plain_books_still_has_every_split(tmp_path: Path) -> None:
    for name in ("mine", "yours", "theirs"):
        (tmp_path / f"{name}.txt").write_text("text")
    assert {book.split for book in find_books(str(tmp_path))} == {"train", "validation", "test"}


def test_the_fingerprint_follows_the_books_and_not_their_place(books: Callable[..., Path], tmp_path: Path) -> None:
    root = books(train={"1": "one", "2": "two"})
    before = fingerprint(find_books(str(root)))
    assert fingerprint(find_books(str(root))) == before
    moved = Path(shutil.copytree(root, tmp_path / "elsewhere"))
    assert fingerprint(find_books(str(moved))) == before
    (moved / "train" / "2.txt").write_text("owt")
    assert fingerprint(find_books(str(moved))) != before


@pytest.mark.parametrize(
    ("source", "reason"),
    [("/nowhere/at/all", "no corpus at"), ("s3://bucket/books", "not supported yet"), ("hf:o/n", "not supported yet")],
)
def test_what_is_not_a_corpus_is_refused(source: str, reason: str) -> None:
    with pytest.raises(CorpusError, match=reason):
        find_books(source)


def test_an_empty_corpus_is_refused(tmp_path: Path, books: Callable[..., Path]) -> None:
    with pytest.raises(CorpusError, match="holds no training book"):
        find_books(str(tmp_path))
    root = books(validation={"1": "one"})
    (root / "train").mkdir()
    with pytest.raises(CorpusError, match="holds no training book"):
        find_books(str(root))


def test_a_text_without_metadata_is_named(books: Callable[..., Path]) -> None:
    root = books(train={"1": "one"})
    (root / "train" / "99.txt").write_text("stranger")
    with pytest.raises(CorpusError, match=r"99\.txt has no line in"):
        find_books(str(root))
    (root / "metadata.csv").unlink()
    with pytest.raises(CorpusError, match=r"metadata\.csv is missing"):
        find_books(str(root))


def test_one_id_in_two_splits_is_refused(books: Callable[..., Path]) -> None:
    root = books(train={"1": "one"}, test={"1": "one"})
    with pytest.raises(CorpusError, match="book 1 stands in train and in test"):
        find_books(str(root))


def test_a_book_that_is_not_utf8_is_named_with_the_place(books: Callable[..., Path]) -> None:
    root = books(train={"1": b"caf\xe9"})
    with pytest.raises(CorpusError, match=r"1\.txt is not UTF-8: byte 3 is 0xe9"):
        read_book(find_books(str(root))[0])


def test_a_broken_line_of_metadata_is_named(books: Callable[..., Path]) -> None:
    root = books(train={"1": "one"})
    (root / "metadata.csv").write_text("1,Title\n")
    with pytest.raises(CorpusError, match="line 1: expected id, title, year, address; got 2 columns"):
        find_books(str(root))


def test_a_single_plain_book_is_a_training_book_whatever_its_name(tmp_path: Path) -> None:
    for number in range(30):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / f"book{number}.txt").write_text("text")
        assert [book.split for book in find_books(str(folder))] == ["train"]


def test_a_book_that_changes_between_the_listing_and_the_reading_is_told(books: Callable[..., Path]) -> None:
    root = books(train={"1": "one"})
    (found,) = find_books(str(root))
    (root / "train" / "1.txt").write_text("two")
    with pytest.raises(CorpusError, match=r"1\.txt changed while it was being read"):
        read_book(found)


def test_odd_metadata_is_read_as_well_as_it_can_be(books: Callable[..., Path]) -> None:
    root = books(train={"1": "one", "2": "two", "3": "three"})
    (root / "metadata.csv").write_text(
        '\ufeff1,A by B,18\u00b2,x\n2,C,--5,x\n3,"D by E by F",1899,x\n', encoding="utf-8"
    )
    found = find_books(str(root))
    assert [(b.title, b.author, b.year) for b in found] == [("A", "B", None), ("C", "", None), ("D by E", "F", 1899)]
