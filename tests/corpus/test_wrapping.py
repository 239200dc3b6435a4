"""Breaks of the printer are joined; breaks of the author stay."""

import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.corpus import plain_wrapping
from victorian.corpus.sources import SAMPLE, find_books, read_bytes
from victorian.corpus.wrapping import join_lines

SENTENCE = "The carrier set down his lantern upon the wall, and looked for some time along the road to the sea. "
PARAGRAPH = SENTENCE * 6
VERSE = """He thought he saw an Elephant
That practised on a fife:
He looked again, and found it was
A letter from his wife."""


def page(*blocks: str, width: int = 72) -> str:
    """A book as it was typed: paragraphs filled to a width, other blocks as they are."""
    return "\n\n".join(textwrap.fill(block, width) if block.startswith("The carrier") else block for block in blocks)


@pytest.mark.parametrize("width", [55, 72, 78])
def test_paragraphs_become_lines_and_verse_keeps_its_own(width: int) -> None:
    blocks = ["CHAPTER I\nIn which nothing happens", PARAGRAPH.strip(), VERSE, *[PARAGRAPH.strip()] * 8, "THE END"]
    assert join_lines(page(*blocks, width=width)) == "\n\n".join(blocks)


def test_what_is_indented_keeps_its_lines() -> None:
    letter = "\n".join("    " + line for line in textwrap.wrap(SENTENCE * 3, 60))
    text = page(*[PARAGRAPH.strip()] * 8, letter)
    assert join_lines(text).endswith("\n\n" + letter)
    indented = "   " + textwrap.fill(PARAGRAPH, 72)
    assert "\n" not in join_lines(page(*[PARAGRAPH.strip()] * 8) + "\n\n" + indented).split("\n\n")[-1]


def test_words_and_dashes_that_were_broken_are_joined_without_a_space() -> None:
    paragraph = "The carrier, who had never in his life been asked for such a thing, well-\nknown as he was, set down"
    dash = "The lantern upon the wall of the yard, and there was nothing to be seen--\nnothing at all"
    joined = join_lines("\n\n".join([page(*[PARAGRAPH.strip()] * 8), paragraph, dash]))
    assert "a thing, well-known as he was" in joined
    assert "to be seen--nothing at all" in joined


def test_a_book_of_verse_or_of_unbroken_paragraphs_is_left_alone() -> None:
    verse = "\n\n".join([VERSE] * 30)
    long_lines = "\n\n".join([f"{PARAGRAPH}\n{PARAGRAPH}"] * 30)
    hexameters = "\n".join(
        "This is the forest primeval. The murmuring pines and the hemlocks"[: 50 + (7 * n) % 16] for n in range(200)
    )
    for text in (verse, long_lines, hexameters, "", "\n\n\n", "One line.\nAnother."):
        assert join_lines(text) == text


def test_joining_twice_is_joining_once() -> None:
    once = join_lines(page(*[PARAGRAPH.strip(), VERSE] * 12))
    assert join_lines(once) == once


WORDS = st.sampled_from(["a", "the", "carrier", "well-", "--", "—", "nothing--", "“Oh”", "😀", "x" * 30, "\ud800"])


@st.composite
def pages(draw: st.DrawFn) -> str:
    """Blocks filled to about one width, some of them indented, with any number of empty lines between them."""
    width = draw(st.sampled_from([48, 55, 72, 99]))
    text = ""
    for _ in range(draw(st.integers(1, 6))):
        words = draw(st.lists(WORDS, min_size=1, max_size=12)) * draw(st.integers(1, 30))
        block = "\n".join(textwrap.wrap(" ".join(words), width + draw(st.sampled_from([-30, 0, 0, 0, 9]))))
        if draw(st.booleans()):
            block = block.replace("\n", draw(st.sampled_from(["\n", "\n  ", "\n\t", "\n\n\n"])), 3)
        text += block + "\n" * draw(st.integers(0, 5))
    return text


@settings(max_examples=300)
@given(pages())
def test_it_equals_its_definition_line_by_line(text: str) -> None:
    assert join_lines(text) == plain_wrapping.join_lines(text)


def test_it_equals_its_definition_on_the_sample() -> None:
    for book in find_books(SAMPLE).books:
        text = read_bytes(book).decode()
        assert join_lines(text) == plain_wrapping.join_lines(text)
        filled = "\n\n".join(textwrap.fill(paragraph, 70) for paragraph in text.split("\n\n"))
        assert join_lines(filled) == plain_wrapping.join_lines(filled) != filled
