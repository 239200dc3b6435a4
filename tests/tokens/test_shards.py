"""Data sets: what was written is what is read, the same bytes every time, and damage is named."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import prepare_plainly
from victorian.config import TokensConfig
from victorian.corpus.cleaning import clean
from victorian.corpus.sources import find_books, read_book
from victorian.errors import CorpusError, DataError
from victorian.storage import open_storage
from victorian.tokens.bpe import get_encoding
from victorian.tokens.shards import MANIFEST, open_split, read_manifest, verify

SETTINGS = TokensConfig(ranks=512, tokens_per_shard=20_000)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def test_the_tokens_are_those_of_the_books_in_order(toy_data: Path) -> None:
    storage = open_storage(toy_data)
    manifest = read_manifest(storage)
    encoding = get_encoding(512)
    stream = open_split(storage, manifest, "train")
    books = [book for book in find_books("sample") if book.split == "train"]
    assert [entry.id for entry in manifest.splits["train"].books] == [book.id for book in books]
    for entry, book in zip(manifest.splits["train"].books, books, strict=True):
        tokens = stream.read(entry.offset, entry.offset + entry.tokens)
        text = clean(read_book(book).text)
        assert tokens[0] == encoding.end_of_text
        assert encoding.decode([int(t) for t in tokens[1:]]) == text
        assert (entry.bytes, entry.words) == (len(text.encode()), len(text.split()))
    assert sum(entry.tokens for entry in manifest.splits["train"].books) == stream.length


def test_shards_are_full_but_the_last(toy_data: Path) -> None:
    for split in read_manifest(open_storage(toy_data)).splits.values():
        assert all(shard.tokens == 20_000 for shard in split.shards[:-1])
        assert 0 < split.shards[-1].tokens <= 20_000


@pytest.mark.parametrize("unit_bytes", [1, 30_000, 10_000_000])
def test_the_same_books_give_the_same_bytes_however_the_work_is_cut(
    toy_data: Path, tmp_path: Path, unit_bytes: int
) -> None:
    prepare_plainly("sample", tmp_path / "again", SETTINGS, unit_bytes)
    assert contents(tmp_path / "again") == contents(toy_data)


def test_reading_across_a_border_is_seamless(toy_data: Path) -> None:
    storage = open_storage(toy_data)
    stream = open_split(storage, read_manifest(storage), "train")
    assert len(stream.shards) > 2
    whole = np.concatenate(stream.shards)
    for start, stop in [
        (0, 5),
        (19_990, 20_010),
        (20_000, 20_001),
        (19_999, 40_001),
        (stream.length - 1, stream.length),
    ]:
        assert np.array_equal(stream.read(start, stop), whole[start:stop])


def test_a_flipped_byte_is_found_and_named(toy_data: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(toy_data, tmp_path / "copy"))
    shard = copy / "train-00001.npy"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    storage = open_storage(copy)
    with pytest.raises(DataError, match=r"train-00001\.npy is damaged"):
        verify(storage, read_manifest(storage))
    shard.unlink()
    with pytest.raises(DataError, match=r"train-00001\.npy is missing"):
        open_split(storage, read_manifest(storage), "train")


def test_a_folder_without_a_whole_manifest_is_not_a_data_set(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    with pytest.raises(DataError, match="is not a token data set"):
        read_manifest(storage)
    storage.write(MANIFEST, b'{"encoding": ')
    with pytest.raises(DataError, match=r"manifest\.json is damaged"):
        read_manifest(storage)


def test_an_empty_book_is_left_out_with_the_reason(books: Callable[..., Path], tmp_path: Path) -> None:
    root = books(train={"1": "one", "2": " \n"})
    manifest = prepare_plainly(str(root), tmp_path / "out", SETTINGS)
    assert [(d.id, d.reason) for d in manifest.dropped] == [("2", "empty")]
    assert [entry.id for entry in manifest.splits["train"].books] == ["1"]


def test_nothing_left_is_an_error(books: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no training book is left"):
        prepare_plainly(str(books(train={"1": ""})), tmp_path / "out", SETTINGS)
    assert not (tmp_path / "out" / MANIFEST).exists()


def test_a_book_that_is_not_utf8_leaves_no_part(books: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"2\.txt is not UTF-8"):
        prepare_plainly(str(books(train={"1": "one", "2": b"\xff"})), tmp_path / "out", SETTINGS)
    assert open_storage(tmp_path / "out").names() == []
