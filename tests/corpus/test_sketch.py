"""A sketch is the same however a text is printed, and holds what it says it holds."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests.corpus.shingles import PASSAGE, shingles, text, words
from victorian.corpus.sketch import SAMPLE, Sketch, complete_up_to, pack_sketch, sketch, unpack_sketch
from victorian.errors import DataError


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


def test_accents_without_end_take_no_longer_and_part_words_as_a_few_do() -> None:
    began = time.monotonic()
    found = sketch(PASSAGE.replace("Dover", "Do" + "\u0301" * 100_000 + "\u0316" * 100_000 + "ver", 1))
    assert time.monotonic() - began < 20
    assert np.array_equal(found, sketch(PASSAGE.replace("Dover", "Do\u0301\u0316\u0316ver", 1)))


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
