"""Ray Data gives the bytes that one process gives, and every way it can go wrong is told."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import TOY
from tests.tokens.test_preparation import SMALL_BOOKS
from tests.tokens.test_shards import contents
from victorian.cluster.prepare import RayWorkers, prepare
from victorian.corpus.sources import find_books
from victorian.errors import CorpusError, DataError
from victorian.storage import open_storage
from victorian.tokens.packing import pack
from victorian.tokens.preparation import SMALLEST_UNIT
from victorian.tokens.progress import PrepareProgress
from victorian.tokens.units import tokenize_unit

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_session")]


def test_the_shards_are_byte_for_byte_those_of_one_process(toy_data: Path, tmp_path: Path) -> None:
    seen: list[PrepareProgress] = []
    prepared = prepare("sample", str(tmp_path), TOY.data, progress=seen.append)
    assert not prepared.reused
    assert contents(tmp_path) == contents(toy_data)
    assert seen[-1].books == seen[-1].books_total == 14
    assert "The Sluice and the Seal" in (tmp_path / "report.html").read_text()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    second = prepare("sample", str(tmp_path), TOY.data)
    assert second.reused
    assert second.manifest == prepared.manifest
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")} == before
    (tmp_path / "test-00000.npy").write_bytes(b"short")
    with pytest.raises(DataError, match=r"test-00000\.npy is damaged"):
        prepare("sample", str(tmp_path), TOY.data)


def test_a_book_that_cannot_be_read_comes_back_from_the_worker_as_our_error(
    books: Callable[..., Path], tmp_path: Path
) -> None:
    root = books(train={"1": "fine", "2": "gone before it is read"})
    found = find_books(str(root)).books
    (root / "train" / "2.txt").write_text("changed after it was found")
    unit = pack(found, SMALLEST_UNIT)[0]
    with pytest.raises(CorpusError, match=r"2\.txt"):
        tokenize_unit(unit, open_storage(tmp_path / "out"), SMALL_BOOKS)
    with pytest.raises(CorpusError, match=r"2\.txt"):
        list(RayWorkers(lambda: None).tokenize([unit], str(tmp_path / "out"), SMALL_BOOKS))


def test_finished_units_are_not_done_twice(toy_data: Path, tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    part = tokenize_unit(pack(find_books("sample").books, SMALLEST_UNIT)[0], storage, TOY.data)
    marked = part.books[0].model_copy(update={"title": "done before"})
    record = part.model_copy(update={"books": (marked, *part.books[1:])})
    storage.write(f"parts/{part.name}.json", record.model_dump_json().encode())
    prepared = prepare("sample", str(tmp_path), TOY.data)
    assert prepared.manifest.splits["train"].books[0].title == "done before"
    assert (tmp_path / "train-00000.npy").read_bytes() == (toy_data / "train-00000.npy").read_bytes()
    assert storage.names("parts/") == []


def test_no_trace_of_ray_in_the_rooms_below() -> None:
    source = Path(__file__).parents[2] / "victorian"
    strangers = [
        path
        for path in source.rglob("*.py")
        if "cluster" not in path.parts and re.search(r"^\s*(import|from) ray\b", path.read_text(), re.MULTILINE)
    ]
    assert strangers == []


def test_a_task_starts_without_torch_and_a_model_without_its_compiler() -> None:
    """Every worker process of every cluster would take seconds for them."""
    script = """
import sys
import victorian.cluster.prepare
assert not {"torch", "matplotlib"} & sys.modules.keys()
import victorian.artifact
assert "torch._dynamo" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
