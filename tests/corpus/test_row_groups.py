"""Row groups that are decoded once and kept for other processes."""

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.corpus.parquet_books import LONG, table_of, text_of, write
from victorian.corpus.row_groups import WRITING, kept_texts
from victorian.corpus.sources import find_books, read_many
from victorian.errors import CorpusError, StorageError

pytestmark = pytest.mark.usefixtures("cache")


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
