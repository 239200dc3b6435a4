"""Ray Data gives the bytes that one process gives, and every way it can go wrong is told."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import TOY
from tests.tokens.test_shards import contents
from victorian.cluster.prepare import UNIT_BYTES, PrepareProgress, prepare
from victorian.config import TokensConfig
from victorian.corpus.sources import find_books
from victorian.errors import CorpusError, DataError
from victorian.storage import open_storage
from victorian.tokens.packing import pack
from victorian.tokens.units import tokenize_unit

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_session")]


def test_the_shards_are_byte_for_byte_those_of_one_process(toy_data: Path, tmp_path: Path) -> None:
    seen: list[PrepareProgress] = []
    prepared = prepare("sample", str(tmp_path / "out"), TOY.tokens, progress=seen.append)
    assert not prepared.reused
    assert contents(tmp_path / "out") == contents(toy_data)
    assert seen[-1].books == seen[-1].books_total == 14
    assert seen[-1].tokens == sum(split.tokens for split in prepared.manifest.splits.values())


def test_a_second_run_reuses_what_is_whole(tmp_path: Path) -> None:
    first = prepare("sample", str(tmp_path), TOY.tokens)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    second = prepare("sample", str(tmp_path), TOY.tokens)
    assert second.reused
    assert second.manifest == first.manifest
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")} == before


def test_another_data_set_is_never_mixed_and_only_replaced_when_asked(tmp_path: Path) -> None:
    prepare("sample", str(tmp_path), TOY.tokens)
    other = TokensConfig(ranks=300, tokens_per_shard=50_000)
    with pytest.raises(DataError, match="or give --overwrite to replace it"):
        prepare("sample", str(tmp_path), other)
    replaced = prepare("sample", str(tmp_path), other, overwrite=True)
    assert replaced.manifest.encoding.ranks == 300
    names = {shard.name for split in replaced.manifest.splits.values() for shard in split.shards}
    assert set(contents(tmp_path)) == names | {"manifest.json"}


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("mine")
    with pytest.raises(DataError, match=r"holds other files \(letters\.txt\)"):
        prepare("sample", str(tmp_path), TOY.tokens, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["letters.txt"]


def test_a_damaged_data_set_is_told_and_not_reused(tmp_path: Path) -> None:
    prepare("sample", str(tmp_path), TOY.tokens)
    (tmp_path / "test-00000.npy").write_bytes(b"short")
    with pytest.raises(DataError, match=r"test-00000\.npy is damaged"):
        prepare("sample", str(tmp_path), TOY.tokens)


def test_a_bad_book_comes_back_from_the_worker_as_our_error(books: Callable[..., Path], tmp_path: Path) -> None:
    root = books(train={"1": "fine", "2": b"\xff\xfe"})
    with pytest.raises(CorpusError, match=r"2\.txt is not UTF-8"):
        prepare(str(root), str(tmp_path / "out"), TOY.tokens)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_finished_units_are_not_done_twice(toy_data: Path, tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    part = tokenize_unit(pack(find_books("sample"), UNIT_BYTES)[0], storage, TOY.tokens)
    marked = part.books[0].model_copy(update={"title": "done before"})
    record = part.model_copy(update={"books": (marked, *part.books[1:])})
    storage.write(f"parts/{part.name}.json", record.model_dump_json().encode())
    prepared = prepare("sample", str(tmp_path), TOY.tokens)
    assert prepared.manifest.splits["train"].books[0].title == "done before"
    assert (tmp_path / "train-00000.npy").read_bytes() == (toy_data / "train-00000.npy").read_bytes()
    assert storage.names("parts/") == []


def test_a_damaged_part_is_made_again(toy_data: Path, tmp_path: Path) -> None:
    part = tokenize_unit(pack(find_books("sample"), UNIT_BYTES)[0], open_storage(tmp_path), TOY.tokens)
    (tmp_path / "parts" / f"{part.name}.npy").write_bytes(b"cut")
    prepare("sample", str(tmp_path), TOY.tokens)
    assert contents(tmp_path) == contents(toy_data)


def test_debris_of_an_interrupted_run_is_cleared(toy_data: Path, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "train-00000-0000000000000000.npy").write_bytes(b"old")
    (tmp_path / "train-00099.npy").write_bytes(b"old")
    prepare("sample", str(tmp_path), TOY.tokens)
    assert contents(tmp_path) == contents(toy_data)


def test_books_that_are_all_empty_are_told(books: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no training book is left"):
        prepare(str(books(train={"1": " "})), str(tmp_path / "out"), TOY.tokens)


def test_no_trace_of_ray_in_the_rooms_below() -> None:
    source = Path(__file__).parents[2] / "victorian"
    strangers = [
        path
        for path in source.rglob("*.py")
        if "cluster" not in path.parts and re.search(r"^\s*(import|from) ray\b", path.read_text(), re.MULTILINE)
    ]
    assert strangers == []
