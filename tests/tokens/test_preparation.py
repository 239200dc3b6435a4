"""From books to a data set: the same bytes whatever the order, and nothing that is there is mixed or lost."""

import json
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from tests.conftest import TOY, PlainWorkers, prepare_plainly
from tests.tokens.test_shards import contents
from victorian.config import CleaningConfig, DataConfig, SelectionConfig, TokensConfig
from victorian.corpus.book import BookReference
from victorian.errors import CorpusError, DataError, StorageError
from victorian.storage import open_storage
from victorian.tokens.manifest import MANIFEST, DroppedEntry
from victorian.tokens.packing import Unit
from victorian.tokens.preparation import (
    CLAIM,
    LARGEST_UNIT,
    SMALLEST_UNIT,
    PrepareRun,
    prepare_with,
    suitable_unit,
    verify_data,
)
from victorian.tokens.progress import PrepareProgress
from victorian.tokens.units import Part, ShardPlan, cut_shard

SMALL_BOOKS = DataConfig(tokens=TOY.tokens, selection=SelectionConfig(language=None, least_words=1))
"""For books of a few words."""


def test_the_same_books_give_the_same_bytes_in_any_order_of_arrival(toy_data: Path, tmp_path: Path) -> None:
    for seed in range(3):
        dice = random.Random(seed)
        workers = PlainWorkers(lambda indexes, dice=dice: dice.sample(indexes, len(indexes)))  # type: ignore[misc]
        prepare_with(workers, "sample", str(tmp_path / str(seed)), TOY.data, unit_bytes=50_000)
        assert contents(tmp_path / str(seed)) == contents(toy_data)


@pytest.mark.parametrize(
    ("corpus_bytes", "unit"), [(1_000, SMALLEST_UNIT), (64 * 5_000_000, 5_000_000), (11_000_000_000, LARGEST_UNIT)]
)
def test_units_grow_with_the_corpus(corpus_bytes: int, unit: int) -> None:
    book = BookReference(
        id="1", split="train", title="", author="", year=None, root="", key="1", size=corpus_bytes, version=""
    )
    assert suitable_unit([book]) == unit


@pytest.mark.parametrize("unit_bytes", [1, 30_000, 10_000_000])
def test_the_same_books_give_the_same_bytes_however_the_work_is_cut(
    toy_data: Path, tmp_path: Path, unit_bytes: int
) -> None:
    prepare_plainly("sample", tmp_path, TOY.data, unit_bytes)
    assert contents(tmp_path) == contents(toy_data)


class Dying(PlainWorkers):
    """Stops as a killed process would, before a piece of work; what it was writing stays half-written."""

    def __init__(self, before: int) -> None:
        super().__init__()
        self._left = before

    def tokenize(self, units: Sequence[Unit], output: str, data: DataConfig) -> Iterator[tuple[int, Part]]:
        for made in super().tokenize(units, output, data):
            self._live(output)
            yield made

    def cut(self, plans: Sequence[ShardPlan], output: str) -> Iterator[object]:  # type: ignore[override]
        for plan in plans:
            self._live(output)
            yield cut_shard(plan, open_storage(output))

    def _live(self, output: str) -> None:
        self._left -= 1
        if self._left < 0:
            (Path(output) / ".writing-abc").write_bytes(b"half")
            raise KeyboardInterrupt


def test_a_run_that_dies_anywhere_goes_on_to_the_same_bytes_and_does_nothing_twice(
    toy_data: Path, tmp_path: Path
) -> None:
    for moment in (0, 3, 8, 16, 21):
        folder = tmp_path / str(moment)
        dying = Dying(moment)
        with pytest.raises(KeyboardInterrupt):
            prepare_with(dying, "sample", str(folder), TOY.data, unit_bytes=50_000)
        assert not (folder / MANIFEST).exists()
        again = PlainWorkers()
        prepare_with(again, "sample", str(folder), TOY.data, unit_bytes=50_000)
        assert not set(again.tokenized) & set(dying.tokenized)
        assert contents(folder) == {**contents(toy_data), ".writing-abc": b"half"}


def test_what_a_run_leaves_that_dies_after_its_manifest_is_cleared_by_the_next(tmp_path: Path) -> None:
    out, left = tmp_path / "out", tmp_path / "left"
    with pytest.raises(KeyboardInterrupt):
        prepare_with(Dying(16), "sample", str(out), TOY.data, unit_bytes=50_000)
    shutil.copytree(out, left, ignore=shutil.ignore_patterns(".writing-*"))
    prepare_plainly("sample", out, TOY.data)
    whole = open_storage(out).names()
    shutil.copytree(left, out, dirs_exist_ok=True)
    assert {"parts", CLAIM} < {path.name for path in out.iterdir()}
    again = PlainWorkers()
    assert prepare_with(again, "sample", str(out), TOY.data).reused
    assert not again.tokenized
    assert open_storage(out).names() == whole
    assert not (out / "parts").exists()


def test_a_damaged_part_is_made_again(toy_data: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        prepare_with(Dying(6), "sample", str(tmp_path), TOY.data, unit_bytes=50_000)
    first, second = sorted((tmp_path / "parts").glob("*.npy"))[:2]
    first.write_bytes(first.read_bytes()[:-7])
    second.with_suffix(".json").write_text('{"name": ')
    (tmp_path / ".writing-abc").unlink()
    prepare_plainly("sample", tmp_path, TOY.data)
    assert contents(tmp_path) == contents(toy_data)


def test_unfinished_work_of_another_corpus_is_refused_and_only_replaced_when_asked(
    toy_data: Path, books: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        prepare_with(Dying(2), "sample", str(out), TOY.data, unit_bytes=50_000)
    before = open_storage(out).names()
    other = str(books(train={"1": "A few words."}))
    with pytest.raises(DataError, match="unfinished work of another corpus"):
        prepare_plainly(other, out, SMALL_BOOKS)
    assert open_storage(out).names() == before
    prepare_with(PlainWorkers(), other, str(out), SMALL_BOOKS, overwrite=True)
    assert [book.id for book in verify_data(str(out)).splits["train"].books] == ["1"]
    assert not (out / CLAIM).exists()


class Late(PlainWorkers):
    """While it works, another process prepares the same data set to its end."""

    def cut(self, plans: Sequence[ShardPlan], output: str) -> Iterator[object]:  # type: ignore[override]
        prepare_plainly("sample", output, TOY.data)
        return super().cut(plans, output)


def test_of_two_runs_of_one_corpus_one_wins_and_the_other_finds_it_done(toy_data: Path, tmp_path: Path) -> None:
    prepared = prepare_with(Late(), "sample", str(tmp_path), TOY.data, unit_bytes=50_000)
    assert prepared.reused
    assert contents(tmp_path) == contents(toy_data)


def test_a_run_that_was_taken_over_does_not_declare_its_data_whole(books: Callable[..., Path], tmp_path: Path) -> None:
    root = str(books(train={"1": "A few words."}))

    class TakenOver(PlainWorkers):
        def cut(self, plans: Sequence[ShardPlan], output: str) -> Iterator[object]:  # type: ignore[override]
            yield from super().cut(plans, output)
            (Path(output) / CLAIM).write_text("somebody else's")

    with pytest.raises(DataError, match="taken over by another run"):
        prepare_with(TakenOver(), root, str(tmp_path / "out"), SMALL_BOOKS)
    assert not (tmp_path / "out" / MANIFEST).exists()


def dropped(entries: Sequence[DroppedEntry]) -> list[tuple[str, str, str]]:
    return [(entry.id, entry.reason, entry.detail) for entry in entries]


def test_every_book_that_is_left_out_has_its_reason(books: Callable[..., Path], tmp_path: Path) -> None:
    root = books(
        train={"1": "One book.", "2": " \n", "3": b"a\x00b" * 50, "4": "Too late. " * 20, "5": b"Fa\xe7ade, and more."}
    )
    metadata = root / "metadata.csv"
    metadata.write_text(metadata.read_text().replace('Title 4 by An Author",1860', 'Title 4 by An Author",1923'))
    strict = SMALL_BOOKS.model_copy(update={"cleaning": CleaningConfig(invalid_utf8="drop")})
    manifest = prepare_plainly(str(root), tmp_path / "strict", strict)
    reasons = {entry.id: entry.reason for entry in manifest.dropped}
    assert reasons == {"2": "empty", "3": "binary", "4": "year", "5": "not UTF-8"}
    assert [entry.id for entry in manifest.splits["train"].books] == ["1"]
    repaired = prepare_plainly(str(root), tmp_path / "repaired", SMALL_BOOKS).splits["train"].books
    assert [(book.id, book.read_as is None) for book in repaired] == [("1", True), ("5", False)]


def test_books_that_stand_in_two_places_are_left_out_and_named(tmp_path: Path, books: Callable[..., Path]) -> None:
    sample = Path(__file__).parents[2] / "victorian" / "corpus" / "sample"
    first, second = (next((sample / split).glob("*.txt")).read_text() for split in ("train", "test"))
    edition = "A new edition.\n\n" + first.replace("the old", "an ancient") + "\n\nFinis."
    corpus = books(
        train={"1": first, "2": edition, "3": "Another text altogether. " * 60, "4": first[:9000] + second},
        test={"5": second},
    )
    manifest = prepare_plainly(str(corpus), tmp_path / "out", DataConfig(tokens=TOY.tokens))
    found = {entry.id: (entry.reason, entry.detail) for entry in manifest.dropped}
    assert found.keys() == {"1", "4"}  # of two editions the longer stays
    assert found["1"][0] == "duplicate"
    assert found["1"][1].endswith("like 2 (Title 2)")
    assert found["4"][0] == "overlaps held-out"
    assert "of 5 (Title 5)" in found["4"][1]
    assert [entry.id for entry in manifest.splits["train"].books] == ["2", "3"]
    verify_data(str(tmp_path / "out"))
    off = SelectionConfig(edition_similarity=None, held_out_overlap=None)
    kept = prepare_plainly(str(corpus), tmp_path / "off", DataConfig(tokens=TOY.tokens, selection=off))
    assert not kept.dropped


def test_nothing_left_is_an_error_and_no_data_set(books: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no training book of .* is left after cleaning and selection: empty"):
        prepare_plainly(str(books(train={"1": ""})), tmp_path / "out", SMALL_BOOKS)
    assert not (tmp_path / "out" / MANIFEST).exists()


def test_who_is_left_with_nothing_may_try_other_settings_in_the_same_place(
    books: Callable[..., Path], tmp_path: Path
) -> None:
    corpus = str(books(train={"1": "A few words."}))
    strict = SMALL_BOOKS.model_copy(update={"selection": SelectionConfig(language=None)})
    with pytest.raises(DataError, match="selection: too short"):
        prepare_plainly(corpus, tmp_path / "out", strict)
    assert not open_storage(tmp_path / "out").names()
    assert prepare_plainly(corpus, tmp_path / "out", SMALL_BOOKS).splits["train"].tokens


def test_metadata_without_its_text_ends_the_run_or_is_recorded(books: Callable[..., Path], tmp_path: Path) -> None:
    root = books(train={"1": "A few words."})
    with (root / "metadata.csv").open("a") as file:
        file.write('77,"A Lost Book by Nobody",1850,http://example.org/77\n')
    with pytest.raises(CorpusError, match="77"):
        prepare_plainly(str(root), tmp_path / "out", SMALL_BOOKS)
    assert not (tmp_path / "out").exists()
    selection = SMALL_BOOKS.selection.model_copy(update={"missing_texts": "drop"})
    manifest = prepare_plainly(str(root), tmp_path / "out", SMALL_BOOKS.model_copy(update={"selection": selection}))
    assert dropped(manifest.dropped) == [("77", "no text", "")]


def test_progress_counts_to_the_end_and_the_report_is_beside_the_shards(toy_data: Path, tmp_path: Path) -> None:
    seen: list[PrepareProgress] = []
    runs: list[PrepareRun] = []
    prepared = prepare_with(
        PlainWorkers(),
        "sample",
        str(tmp_path),
        TOY.data,
        progress=seen.append,
        report=lambda manifest, run: runs.append(run) or f"{len(manifest.splits)} splits",  # type: ignore[func-returns-value]
        unit_bytes=50_000,
    )
    assert seen[-1].done == pytest.approx(1)
    assert seen[-1].books == seen[-1].books_total == 14
    assert seen[-1].tokens == sum(split.tokens for split in prepared.manifest.splits.values())
    assert all(a.done <= b.done for a, b in pairwise(seen))
    assert (tmp_path / "report.html").read_text() == "3 splits"
    assert runs[0].units_reused == 0
    assert list(runs[0].seconds) == [
        "finding books",
        "reading, cleaning and tokenizing",
        "comparing books",
        "cutting shards",
    ]
    assert contents(tmp_path) == contents(toy_data)


def test_another_data_set_is_never_mixed_and_only_replaced_when_asked(tmp_path: Path) -> None:
    prepare_plainly("sample", tmp_path, TOY.data)
    other = DataConfig(tokens=TokensConfig(ranks=300, tokens_per_shard=50_000))
    with pytest.raises(DataError, match="or give --overwrite to replace it"):
        prepare_plainly("sample", tmp_path, other)
    replaced = prepare_with(PlainWorkers(), "sample", str(tmp_path), other, overwrite=True).manifest
    assert replaced.encoding.ranks == 300
    names = {shard.name for split in replaced.splits.values() for shard in split.shards}
    assert set(contents(tmp_path)) == names | {MANIFEST}


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("mine")
    with pytest.raises(DataError, match=r"holds other files \(letters\.txt\)"):
        prepare_with(PlainWorkers(), "sample", str(tmp_path), TOY.data, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["letters.txt"]


def test_a_manifest_of_another_encoding_is_refused(tmp_path: Path) -> None:
    prepare_plainly("sample", tmp_path, TOY.data)
    said = json.loads((tmp_path / MANIFEST).read_text())
    said["encoding"]["sha256"] = "0" * 64
    (tmp_path / MANIFEST).write_text(json.dumps(said))
    with pytest.raises(DataError, match="another corpus or with other settings"):
        prepare_plainly("sample", tmp_path, TOY.data)


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match="cannot write"):
        prepare_plainly("sample", tmp_path / "file" / "out", TOY.data)
