"""Data sets: what was written is what is read, and damage is named."""

import gc
import io
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import TOY
from victorian.corpus.cleaning import clean
from victorian.corpus.sources import find_books, read_bytes
from victorian.errors import DataError
from victorian.storage import open_storage, sha256
from victorian.tokens.bpe import get_encoding
from victorian.tokens.manifest import MANIFEST, Manifest, read_manifest, verify
from victorian.tokens.shards import from_npy, read_header, to_npy
from victorian.tokens.stream import open_split


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the report, which tells how long things took."""
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file() and p.name != "report.html"}


@pytest.fixture
def copy(toy_data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_data, tmp_path / "copy"))


def rewrite(folder: Path, change: Callable[[dict], None]) -> Manifest:  # type: ignore[type-arg]  # plain JSON
    """The data set with a manifest that says something else."""
    storage = open_storage(folder)
    said = read_manifest(storage).model_dump(mode="json")
    change(said)
    changed = Manifest.model_validate(said)
    storage.write(MANIFEST, changed.model_dump_json().encode())
    return changed


def test_the_format_is_that_of_numpy(tmp_path: Path) -> None:
    tokens = np.arange(70_000 % 65_536, dtype=np.uint16)
    np.save(tmp_path / "theirs.npy", tokens)
    assert to_npy(tokens) == (tmp_path / "theirs.npy").read_bytes()
    assert np.array_equal(from_npy(to_npy(tokens)), tokens)


def test_the_tokens_are_those_of_the_books_in_order(toy_data: Path) -> None:
    storage = open_storage(toy_data)
    manifest = read_manifest(storage)
    encoding = get_encoding(512)
    stream = open_split(storage, manifest, "train")
    books = [book for book in find_books("sample").books if book.split == "train"]
    assert [entry.id for entry in manifest.splits["train"].books] == [book.id for book in books]
    for entry, book in zip(manifest.splits["train"].books, books, strict=True):
        tokens = stream.read(entry.offset, entry.offset + entry.tokens)
        original = read_bytes(book).decode()
        text = clean(original, TOY.cleaning)
        assert tokens[0] == encoding.end_of_text
        assert encoding.decode([int(t) for t in tokens[1:]]) == text
        assert (entry.bytes, entry.words) == (len(text.encode()), len(text.split()))
        assert (entry.original_bytes, entry.original_words) == (len(original.encode()), len(original.split()))
    assert sum(entry.tokens for entry in manifest.splits["train"].books) == stream.length


def test_shards_are_full_but_the_last(toy_data: Path) -> None:
    for split in read_manifest(open_storage(toy_data)).splits.values():
        assert all(shard.tokens == 20_000 for shard in split.shards[:-1])
        assert 0 < split.shards[-1].tokens <= 20_000


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


def test_a_flipped_byte_is_found_and_named(copy: Path) -> None:
    shard = copy / "train-00001.npy"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    storage = open_storage(copy)
    with pytest.raises(DataError, match=r"train-00001\.npy is damaged"):
        verify(storage, read_manifest(storage))
    shard.unlink()
    with pytest.raises(DataError, match=r"train-00001\.npy is missing"):
        verify(storage, read_manifest(storage))


def test_what_the_hash_does_not_tell_the_counts_do(copy: Path) -> None:
    storage = open_storage(copy)

    def move_a_book(said: dict) -> None:  # type: ignore[type-arg]
        first, second = said["splits"]["train"]["books"][:2]
        first["tokens"] += 1
        second["offset"] += 1
        second["tokens"] -= 1

    def miscount(said: dict) -> None:  # type: ignore[type-arg]
        said["splits"]["test"]["books"][0]["tokens"] += 1

    def shorten(said: dict) -> None:  # type: ignore[type-arg]
        tokens = from_npy((copy / "test-00000.npy").read_bytes())[:-1]
        (copy / "test-00000.npy").write_bytes(to_npy(tokens))
        said["splits"]["test"]["shards"][0]["sha256"] = sha256(to_npy(tokens))

    before = (copy / MANIFEST).read_bytes()
    for change, told in [
        (move_a_book, r"train-0000\d\.npy: a book does not begin where manifest\.json says"),
        (miscount, r"manifest\.json contradicts itself about the tokens of test"),
        (shorten, r"test-00000\.npy holds \d+ tokens, the manifest says \d+"),
    ]:
        (copy / MANIFEST).write_bytes(before)
        changed = rewrite(copy, change)
        with pytest.raises(DataError, match=told):
            verify(storage, changed)


def test_a_folder_without_a_whole_manifest_is_not_a_data_set(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    with pytest.raises(DataError, match="is not a token data set"):
        read_manifest(storage)
    storage.write(MANIFEST, b'{"encoding": ')
    with pytest.raises(DataError, match=r"manifest\.json is damaged"):
        read_manifest(storage)


@pytest.fixture
def busy_collector() -> Iterator[None]:
    """Lets other threads in wherever memory is collected, as libraries do that watch the collector."""
    before = gc.get_threshold()

    def yield_to_others(phase: str, info: dict[str, int]) -> None:
        time.sleep(0)

    gc.callbacks.append(yield_to_others)
    gc.set_threshold(20)
    yield
    gc.set_threshold(*before)
    gc.callbacks.remove(yield_to_others)


@pytest.mark.usefixtures("busy_collector")
def test_headers_are_read_by_many_threads_at_once() -> None:
    """As a split's shards are: numpy parses headers as Python, and 3.11's parser fails if another thread gets in."""
    file = to_npy(np.arange(5, dtype=np.uint16))
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: read_header(io.BytesIO(file))[0], range(12_000)))
    assert found == {(5,)}
