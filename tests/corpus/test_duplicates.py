"""Books that hold the same text: what is estimated from sketches against what plain sets of shingles say."""

import random
import tracemalloc

import numpy as np
import pytest

from tests.corpus.shingles import PASSAGE, shingles, text, words
from victorian.corpus.duplicates import Duplicate, Editions, HeldOut, similarity
from victorian.corpus.sketch import LEAST_HASHES, SAMPLE, sketch

BOOKS_OF_PG19 = 28_602
STANDARD_ERROR = 0.5 / LEAST_HASHES**0.5
"""Of a share that is estimated from `LEAST_HASHES` hashes, at its largest."""


def share(part: str, whole: str) -> float:
    return len(shingles(part) & shingles(whole)) / len(shingles(part))


def jaccard(one: str, other: str) -> float:
    return len(shingles(one) & shingles(other)) / len(shingles(one) | shingles(other))


def duplicates(books: dict[str, str], least: float = 0.4) -> list[Duplicate]:
    editions = Editions(least)
    for book, of in books.items():
        editions.add(book, len(of.split()), sketch(of))
    return editions.duplicates()


def left_out(books: dict[str, str], least: float = 0.4) -> dict[str, str]:
    return {duplicate.id: duplicate.of for duplicate in duplicates(books, least)}


def held_out(**books: str) -> HeldOut:
    found = HeldOut()
    for book, of in books.items():
        found.add(book, sketch(of))
    return found


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (text(words(40_000, 1)), text(words(9000, 2), words(40_000, 1), words(30_000, 3))),  # the whole of it
        (text(words(60_000, 1)), text(words(60_000, 1)[20_000:26_000], words(60_000, 2))),  # one chapter
        (text(words(3000, 1)), text(words(20_000, 2), words(3000, 1), words(30_000, 3))),  # a story in a collection
        (text(words(50_000, 1)), text(words(50_000, 1)[7000:9500])),  # a part that is a book of its own
        (text(words(3000, 1)), text(words(3000, 1)[:1500], words(500, 2))),  # short texts, sampled more densely
        (text(words(250, 1)), text(words(250, 1)[:150], words(60, 2))),  # texts that are known whole
    ],
)
def test_overlap_is_estimated_as_shares_of_either_text(theirs: str, ours: str) -> None:
    overlap = held_out(theirs=theirs, other=text(words(20_000, 9))).overlap(sketch(ours))
    assert overlap is not None
    assert overlap.id == "theirs"
    for estimate, (part, whole) in ((overlap.of_theirs, (theirs, ours)), (overlap.of_ours, (ours, theirs))):
        exact = share(part, whole)
        # The sample is no denser than the longer text's, and what is shared is some tens of hashes of it.
        sampled = max(1.0, len(shingles(part)) / SAMPLE)
        assert abs(estimate - exact) <= 4 * (exact * (1 - exact) / sampled) ** 0.5 + 1e-9


def test_a_poem_that_both_quote_is_no_overlap_however_short_the_book() -> None:
    poem, novel = words(110, 1), words(70_000, 2)
    found = held_out(novel=text(novel[:30_000], poem, novel[30_000:]))
    assert found.overlap(sketch(text(words(700, 3), poem))) is None
    assert found.overlap(sketch(text(words(60_000, 3), poem))) is None


def test_a_page_that_both_hold_is_a_small_share_of_long_books() -> None:
    novel = words(70_000, 2)
    overlap = held_out(novel=text(novel)).overlap(sketch(text(words(60_000, 3), novel[1000:1700])))
    assert overlap is None or max(overlap.of_theirs, overlap.of_ours) < 0.03


def test_the_largest_share_of_either_decides_which_held_out_book_is_named() -> None:
    story, novel = words(4000, 1), words(40_000, 2)
    both = text(story, novel[:8000], words(20_000, 3))
    for order in (["story", "novel"], ["novel", "story"]):
        texts = {"story": text(story), "novel": text(novel)}
        overlap = held_out(**{book: texts[book] for book in order}).overlap(sketch(both))
        assert overlap is not None
        assert (overlap.id, overlap.of_theirs) == ("story", 1.0)
    same = held_out(b=text(story), a=text(story)).overlap(sketch(both))
    assert same is not None
    assert same.id == "a"


def test_where_nothing_is_held_out_or_known_nothing_overlaps() -> None:
    assert HeldOut().overlap(sketch(PASSAGE)) is None
    assert held_out(none="", one=PASSAGE).overlap(sketch("")) is None
    assert held_out(one=text(words(3000, 1))).overlap(sketch(text(words(3000, 2)))) is None


def test_books_added_after_a_question_are_in_the_next_answer() -> None:
    found = held_out(other=text(words(3000, 1)))
    assert found.overlap(sketch(PASSAGE)) is None
    found.add("passage", sketch(PASSAGE))
    overlap = found.overlap(sketch(PASSAGE))
    assert overlap is not None
    assert (overlap.id, overlap.of_theirs, overlap.of_ours) == ("passage", 1.0, 1.0)


@pytest.mark.parametrize("count", [100, 300, 1000, 3000, 15_000, 18_000, 50_000])
@pytest.mark.parametrize("kept", [1.0, 0.7, 0.5])
def test_similarity_is_estimated_alike_for_texts_of_any_length(count: int, kept: float) -> None:
    whole = words(count, count)
    one, other = text(whole), text(whole[: int(kept * count)])
    exact = jaccard(one, other)
    assert abs(similarity(sketch(one), sketch(other)) - exact) <= 4 * STANDARD_ERROR * (2 * (1 - exact)) ** 0.5
    assert left_out({"whole": one, "part": other}, least=max(0.01, exact - 0.15)) == {"part": "whole"} or kept == 1.0


def test_of_editions_the_longest_stays_and_of_equals_the_one_with_the_lowest_id() -> None:
    novel = words(20_000, 1)
    books = {
        "7": text(novel),
        "3": text(novel[:19_000]),
        "5": text(novel, words(2000, 2)),
        "20": text(words(9000, 3)),
        "10": text(words(9000, 3)),
        "1": text(words(9000, 4)),
    }
    assert left_out(books) == {"7": "5", "3": "5", "20": "10"}
    assert [duplicate.id for duplicate in duplicates(books)] == ["7", "3", "20"]


def test_a_book_is_not_left_out_for_one_that_is_left_out_itself() -> None:
    a, b, c, d = (words(5000, seed) for seed in range(4))
    chain = {"long": text(a, b, ["end"]), "middle": text(b, c), "short": text(c, d[:-10])}
    assert left_out(chain, least=0.3) == {"middle": "long"}


def test_the_volumes_of_a_work_give_way_to_the_whole() -> None:
    work = words(60_000, 1)
    books = {"1": text(work[:30_000]), "2": text(work[30_000:]), "whole": text(work)}
    assert left_out(books) == {"1": "whole", "2": "whole"}


def test_editions_do_not_depend_on_the_order_in_which_they_come() -> None:
    books = {f"own-{number}": text(words(400, number)) for number in range(60)}
    for number in range(20):
        parts = words(400, number)
        books[f"cut-{number}"] = text(parts[: 250 + 7 * number])
        books[f"copy-{number}"] = text(parts)
    expected = duplicates(books)
    assert len(expected) > 30
    for seed in range(3):
        ids = sorted(books)
        random.Random(seed).shuffle(ids)
        assert duplicates({book: books[book] for book in ids}) == expected


def test_copies_by_the_hundred_leave_one() -> None:
    books = {f"{number:03}": text(words(3000, 1)) for number in range(300)}
    assert left_out(books) == {f"{number:03}": "000" for number in range(1, 300)}


def test_texts_without_shingles_are_like_no_other() -> None:
    assert duplicates({}) == []
    assert duplicates({"a": "too few words", "b": "too few words", "c": PASSAGE}) == []


def test_only_what_is_the_same_is_left_out_at_a_similarity_of_one() -> None:
    novel = words(5000, 1)
    assert left_out({"a": text(novel), "b": text(novel), "c": text(novel[:-1000])}, least=1.0) == {"b": "a"}


def test_the_memory_of_editions_at_the_size_of_pg19_stays_below_a_hundred_megabytes() -> None:
    sample = sketch(text(words(70_000, 1)))
    assert len(sample) > 3 * LEAST_HASHES
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        editions = Editions(0.4)
        for number in range(2000):
            editions.add(f"{number}", 70_000, sample)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown / 2000 * BOOKS_OF_PG19 < 80e6


def test_the_memory_of_held_out_books_is_a_few_bytes_a_hash() -> None:
    samples = [np.sort(np.random.default_rng(seed).integers(0, 2**58, 1100, np.uint64)) for seed in range(150)]
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        found = HeldOut()
        for number, sample in enumerate(samples):
            found.add(f"{number}", sample)
        assert found.overlap(samples[77]) is not None
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 14 * 150 * 1100  # beside the sketches themselves, 8 bytes a hash
