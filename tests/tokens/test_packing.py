"""Units and places: plain arithmetic, checked by example and by property."""

from hypothesis import given
from hypothesis import strategies as st

from victorian.config import CleaningConfig, DataConfig
from victorian.corpus.book import BookReference, Split
from victorian.tokens.packing import Slice, pack, place, without


def book(name: str, size: int, split: Split = "train") -> BookReference:
    return BookReference(
        id=name, split=split, title="", author="", year=None, root="/", key=name, size=size, version=""
    )


def test_units_are_closed_before_they_grow_too_large() -> None:
    units = pack([book(str(i), size) for i, size in enumerate([3, 3, 5, 12, 1])], unit_bytes=8)
    assert [[b.size for b in unit.books] for unit in units] == [[3, 3], [5], [12], [1]]


def test_units_do_not_mix_splits_and_count_in_each() -> None:
    units = pack([book("a", 1), book("b", 1), book("c", 1, "test"), book("d", 9, "test")], unit_bytes=5)
    assert [(unit.split, unit.number, len(unit.books)) for unit in units] == [
        ("train", 0, 2),
        ("test", 0, 1),
        ("test", 1, 1),
    ]


def test_part_names_change_with_books_and_settings_but_not_with_the_place() -> None:
    first, second = (pack([book("a", size)], 10)[0] for size in (1, 2))
    plain, other = DataConfig(), DataConfig(cleaning=CleaningConfig(join_lines=False))
    assert first.part_name(plain) != second.part_name(plain)
    assert first.part_name(plain) != first.part_name(other)
    moved = pack([book("a", 1).model_copy(update={"root": "s3://bucket"})], 10)[0]
    assert first.part_name(plain) == moved.part_name(plain)


def whole(counts: list[int]) -> list[Slice]:
    return [Slice(unit, 0, count) for unit, count in enumerate(counts)]


def test_leaving_out_by_example() -> None:
    assert without(10, [(0, 2), (5, 6)], 3) == [Slice(3, 2, 5), Slice(3, 6, 10)]
    assert without(10, [], 0) == [Slice(0, 0, 10)]
    assert without(10, [(0, 4), (4, 10)], 0) == []
    assert without(0, [], 0) == []


def test_placing_by_example() -> None:
    assert place(whole([3, 4, 2]), 5) == [[Slice(0, 0, 3), Slice(1, 0, 2)], [Slice(1, 2, 4), Slice(2, 0, 2)]]
    assert place([], 5) == []
    assert place(whole([0, 10]), 5) == [[Slice(1, 0, 5)], [Slice(1, 5, 10)]]
    assert place([Slice(0, 2, 4), Slice(0, 6, 9)], 4) == [[Slice(0, 2, 4), Slice(0, 6, 8)], [Slice(0, 8, 9)]]


@given(st.lists(st.lists(st.tuples(st.booleans(), st.integers(1, 20)), max_size=5), max_size=8), st.integers(1, 30))
def test_shards_hold_every_kept_token_once_in_order_and_are_full_but_the_last(
    units: list[list[tuple[bool, int]]], size: int
) -> None:
    pieces: list[Slice] = []
    expected = []
    for unit, books in enumerate(units):
        gone, at = [], 0
        for kept, tokens in books:
            if kept:
                expected += [(unit, token) for token in range(at, at + tokens)]
            else:
                gone.append((at, at + tokens))
            at += tokens
        pieces += without(at, gone, unit)
    shards = place(pieces, size)
    assert [(s.unit, t) for shard in shards for s in shard for t in range(s.start, s.stop)] == expected
    lengths = [sum(s.stop - s.start for s in shard) for shard in shards]
    assert all(length == size for length in lengths[:-1])
    assert all(0 < length <= size for length in lengths[-1:])
