"""Books that hold the same text: what is estimated from sketches against what plain sets of shingles say."""

import json
import os
import random
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from victorian.corpus.duplicates import Duplicate, Editions, HeldOut, similarity
from victorian.corpus.sketch import (
    LEAST_HASHES,
    SAMPLE,
    SHINGLE_WORDS,
    Sketch,
    complete_up_to,
    pack_sketch,
    sketch,
    unpack_sketch,
)
from victorian.errors import DataError

BOOKS_OF_PG19 = 28_602
STANDARD_ERROR = 0.5 / LEAST_HASHES**0.5
"""Of a share that is estimated from `LEAST_HASHES` hashes, at its largest."""

PASSAGE = """It was the Dover road that lay, on a Friday night late in November, before the first of the persons with
whom this history has business. The Dover road lay, as to him, beyond the Dover mail, as it lumbered up Shooter’s
Hill."""


def words(count: int, seed: int) -> list[str]:
    """Words in an order that no two seeds share."""
    source = random.Random(seed)
    return [f"word{source.randrange(3000)}" for _ in range(count)]


def text(*parts: Sequence[str]) -> str:
    return " ".join(word for part in parts for word in part)


def shingles(of: str) -> set[tuple[str, ...]]:
    """The plain way: every run of words, as a set."""
    found = re.findall(r"[^\W_]+", of.casefold())
    return {tuple(found[at : at + SHINGLE_WORDS]) for at in range(len(found) - SHINGLE_WORDS + 1)}


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


def test_a_short_text_keeps_every_shingle_and_a_long_one_a_known_share() -> None:
    short, long = text(words(200, 1), ["déjà", "vu"], words(40, 2)), text(words(100_000, 3))
    assert len(sketch(short)) == len(shingles(short)) == 237
    expected = len(shingles(long)) / SAMPLE
    assert abs(len(sketch(long)) - expected) < 4 * expected**0.5


@pytest.mark.parametrize(("count", "kept"), [(0, 0), (5, 0), (6, 1), (100, 95), (261, 256), (3000, 256), (16_000, 256)])
def test_a_sketch_has_the_lowest_hashes_of_a_text_too_short_to_be_sampled(count: int, kept: int) -> None:
    found = sketch(text(words(count, 4)))
    assert len(found) == kept
    assert np.all(found[:-1] < found[1:])


def test_what_two_texts_share_is_in_both_sketches_or_in_neither() -> None:
    common = words(30_000, 5)
    inside, alone = sketch(text(words(9000, 6), common, words(9000, 7))), sketch(text(common))
    assert set(alone.tolist()) <= set(inside.tolist())


def test_a_sketch_holds_every_hash_up_to_where_it_says_that_it_is_complete() -> None:
    everything = sketch(text(words(200, 8)))
    assert complete_up_to(everything) == 2**64 - 1
    lowest = sketch(text(words(3000, 8)))
    assert complete_up_to(lowest) == int(lowest[-1])
    sampled = sketch(text(words(60_000, 8)))
    assert complete_up_to(sampled) == 2**64 // SAMPLE - 1 >= int(sampled[-1])


@pytest.mark.parametrize(
    "change",
    [
        str.upper,
        lambda of: of.replace(" ", "\n"),
        lambda of: of.replace("’", "'"),
        lambda of: f"  “{of}” -- ",
        lambda of: of.replace(",", " --_ * "),
        lambda of: of.replace("e", "e\u0301"),
        lambda of: of.replace("e", "ë"),
        lambda of: of.replace("s", "ſ"),
    ],
)
def test_case_lines_punctuation_and_accents_do_not_matter(change: Callable[[str], str]) -> None:
    assert change(PASSAGE) != PASSAGE
    assert np.array_equal(sketch(change(PASSAGE)), sketch(PASSAGE))


@given(st.text("abzEé09 '’“-_.,\n\t", min_size=20, max_size=200), st.sampled_from("\n\t.-’—\u2003"))
def test_case_and_what_parts_words_never_matter(of: str, gap: str) -> None:
    assert np.array_equal(sketch(of.swapcase().replace(" ", gap)), sketch(of))


@pytest.mark.parametrize(
    "change", [lambda of: of.replace("Friday", "Fryday"), lambda of: of.replace("Dover", "Do ver"), str.split]
)
def test_other_words_and_another_order_do_matter(change: Callable[[str], str | list[str]]) -> None:
    changed = change(PASSAGE)
    other = " ".join(reversed(changed)) if isinstance(changed, list) else changed
    assert not np.array_equal(sketch(other), sketch(PASSAGE))


@given(st.text(st.characters(exclude_categories=()), max_size=300))
def test_any_text_has_a_sketch_that_can_be_packed(of: str) -> None:
    assert np.array_equal(unpack_sketch(pack_sketch(sketch(of))), sketch(of))


def test_texts_without_spaces_and_in_other_scripts_have_sketches() -> None:
    assert len(sketch("a" * 300_000)) == 0
    assert len(sketch("道可道,非常道。名可名,非常名。無名天地之始;有名萬物之母。")) == 1
    assert len(sketch("Ἐν ἀρχῇ ἦν ὁ λόγος, καὶ ὁ λόγος ἦν πρὸς τὸν θεόν")) == 7


def test_words_are_the_same_wherever_they_stand_in_a_long_text() -> None:
    long_words = text([letter * 1500 for letter in "abcdefghijklmnopqrstuvwxyz"] * 7)
    expected = sketch(long_words)
    assert len(long_words) > 4 * 2**16
    assert len(expected) == 26
    for shift in (1, 40, 1499, 1500, 1501, 65_535, 65_536):
        assert np.array_equal(sketch("," * shift + long_words), expected)


FIRST_HASHES = [794517225682132702, 1072154911751534472, 1199903922676635947]


def test_a_sketch_is_the_same_in_every_process_and_on_every_machine() -> None:
    program = "import json, sys; from victorian.corpus.sketch import sketch; print(sketch(sys.stdin.read()).tolist())"
    for seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            input=PASSAGE,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONUTF8": "1"},
        )
        assert json.loads(done.stdout)[:3] == FIRST_HASHES


@given(arrays.arrays(np.uint64, st.integers(0, 50), unique=True))
def test_a_packed_sketch_is_unpacked_as_it_was(numbers: Sketch) -> None:
    assert np.array_equal(unpack_sketch(pack_sketch(np.sort(numbers))), np.sort(numbers))


@pytest.mark.parametrize(
    ("packed", "problem"),
    [
        ("?", "as base64, got '?'"),
        ("é", "as base64"),
        ("AAAA", "whole 64-bit numbers, got 3 bytes"),
        (pack_sketch(np.array([2, 1], np.uint64)), "ascending order"),
        (pack_sketch(np.array([1, 1], np.uint64)), "distinct"),
    ],
)
def test_text_that_is_no_packed_sketch_is_refused(packed: str, problem: str) -> None:
    with pytest.raises(DataError, match=re.escape(problem)):
        unpack_sketch(packed)


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
