"""Units and places: plain arithmetic, checked by example and by property."""

from hypothesis import given
from hypothesis import strategies as st

from victorian.corpus.book import BookReference, Split
from victorian.tokens.packing import Slice, pack, place


def book(name: str, size: int, split: Split = "train") -> BookReference:
    return BookReference(id=name, split=split, title="", author="", year=None, path=name, size=size, sha256="")


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


def test_part_names_change_with_books_and_settings() -> None:
    first, second = (pack([book("a", size)], 10)[0] for size in (1, 2))
    assert first.part_name("x") != second.part_name("x")
    assert first.part_name("x") != first.part_name("y")


def test_placing_by_example() -> None:
    assert place([3, 4, 2], 5) == [[Slice(0, 0, 3), Slice(1, 0, 2)], [Slice(1, 2, 4), Slice(2, 0, 2)]]
    assert place([], 5) == []
    assert place([0, 10], 5) == [[Slice(1, 0, 5)], [Slice(1, 5, 10)]]


@given(st.lists(st.integers(0, 50), max_size=20), st.integers(1, 30))
def test_shards_hold_every_token_once_in_order_and_are_full_but_the_last(counts: list[int], size: int) -> None:
    shards = place(counts, size)
    walked = [(s.unit, t) for shard in shards for s in shard for t in range(s.start, s.stop)]
    assert walked == [(unit, t) for unit, count in enumerate(counts) for t in range(count)]
    lengths = [sum(s.stop - s.start for s in shard) for shard in shards]
    assert all(length == size for length in lengths[:-1])
    assert all(0 < length <= size for length in lengths[-1:])
