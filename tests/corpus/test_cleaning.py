"""Every cleaning step does what its name says and no more, and leaves alone what it has cleaned."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from victorian.config import CleaningConfig
from victorian.corpus.cleaning import (
    clean,
    in_plain_typography,
    mend_damage,
    with_line_feeds,
    without_boilerplate,
    without_trailing_spaces,
    without_transcriber_notes,
)

ON = CleaningConfig()
OFF = CleaningConfig(boilerplate=False, transcriber_notes=False, damage=False, typography=False, join_lines=False)


def test_lines_end_with_one_line_feed_and_nothing_before_it() -> None:
    assert with_line_feeds("\ufeffone\r\ntwo\rthree\n") == "one\ntwo\nthree\n"
    assert without_trailing_spaces("one  \ntwo\t\n three ") == "one\ntwo\n three"


BOOK = "CHAPTER I\n\nIt was a dark night.\n\nThe end of Project work, said Gutenberg the printer.\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Header.\n*** START OF THIS PROJECT GUTENBERG EBOOK MY BOOK ***\n\n\n", ""),
        (
            "*** START OF THE PROJECT GUTENBERG EBOOK\nA VERY LONG TITLE ***\n\n",
            "\n*** END OF THE PROJECT GUTENBERG EBOOK\n",
        ),
        (
            "**The Project Gutenberg Etext of My Book**\n\n"
            "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n\n",
            "\nEnd of the Project Gutenberg Etext of My Book\n\nA licence.\n",
        ),
        (
            "Produced by Anne Body and the\nDistributed Proofreaders\n\n\n",
            "\nEnd of Project Gutenberg's My Book, by Nobody\n",
        ),
        ("This eBook was produced by Anne Body and the\nDistributed Proofreaders\n\n\n", ""),
        ("E-text prepared by Anne Body\n\n\n", ""),
        ("This etext was scanned by Anne Body.\n\n", ""),
        ("", ""),
    ],
)
def test_what_project_gutenberg_put_around_a_book_is_taken_off(before: str, after: str) -> None:
    assert without_boilerplate(before + BOOK + after) == BOOK


LICENCE = (
    "Section 1. General Terms of Use\n\nBy reading this work you agree to all the terms.\n\n" * 230
)  # 19,000 characters
SMALL_PRINT = "You may distribute copies of this etext under the terms below, and no others.\n\n" * 130


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "*** START OF THE PROJECT GUTENBERG EBOOK MY STORY ***\n\n",
            "\n*** END OF THE PROJECT GUTENBERG EBOOK MY STORY ***\n\nUpdated editions will replace this one.\n\n"
            f"START: FULL LICENSE\n\nTHE FULL PROJECT GUTENBERG LICENSE\n\n{LICENCE}",
        ),
        (
            "*** START OF THIS PROJECT GUTENBERG EBOOK MY STORY ***\n\n",
            "\nEnd of Project Gutenberg's My Story, by Nobody\n\n"
            "*** END OF THIS PROJECT GUTENBERG EBOOK MY STORY ***\n\n"
            f"*** START: FULL LICENSE ***\n\nTHE FULL PROJECT GUTENBERG LICENSE\n\n{LICENCE}",
        ),
        (
            "",
            "\nEnd of the Project Gutenberg Etext of My Story\n\n"
            f"***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN EBOOKS**START***\n\n{SMALL_PRINT}"
            "*END THE SMALL PRINT! FOR PUBLIC DOMAIN EBOOKS*Ver.02/11/02*END*\n",
        ),
    ],
)
@pytest.mark.parametrize("paragraphs", [1, 100, 2_000])
def test_a_story_that_is_shorter_than_its_licence_stays_without_it(before: str, after: str, paragraphs: int) -> None:
    story = "CHAPTER I\n" + "\nIt was a dark night, and rain fell.\n" * paragraphs
    assert without_boilerplate(before + story + after) == story


def test_a_marker_in_the_middle_of_a_book_takes_nothing_off() -> None:
    text = BOOK * 3_000 + "*** START OF THIS PROJECT GUTENBERG EBOOK ***\n" + BOOK * 3_000
    assert without_boilerplate(text) == text


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("[Transcriber's Note: Spelling\nwas kept.]\n\nChapter I", "\nChapter I"),
        ("Transcriber's Note: Spelling was kept.\nAll of it.\n\nChapter I", "Chapter I"),
        ("TRANSCRIBER’S NOTES\n\nSpelling was kept.\n\nChapter I", "Chapter I"),
        ("It ended.\n\nTranscriber's Notes\n\nPage 1: kept.\n\nPage 2: not.\n", "It ended.\n"),
        ("He was the transcriber's friend, and left a note: burn it.", None),
        ("A note lay there: [it was the transcriber’s own hand].", None),
    ],
)
def test_transcribers_notes_are_taken_out_and_characters_notes_are_not(text: str, cleaned: str | None) -> None:
    middle = "\n\nA paragraph of the book, of some length.\n\n" * 300
    if cleaned is None:
        assert without_transcriber_notes(middle + text + middle) == middle + text + middle
    elif text.startswith("It ended"):
        assert without_transcriber_notes(middle + text) == middle + cleaned
    else:
        assert without_transcriber_notes(text + middle) == cleaned + middle


@pytest.mark.parametrize(
    "heading", ["Transcriber's Note: Spelling was kept.\n", "TRANSCRIBER'S NOTES\n\nSpelling was kept.\n"]
)
def test_a_note_before_a_short_text_does_not_take_the_text_with_it(heading: str) -> None:
    story = "Chapter I\n\n" + "It was a dark night.\n\n" * 50
    assert without_transcriber_notes(f"{heading}\n{story}") == story
    assert without_transcriber_notes(f"{heading}\n{story}\n{heading}").strip() == story.strip()


def test_mojibake_is_mended_and_accents_are_not_touched() -> None:
    assert mend_damage("â€œDonâ€™t,â€\x9d said RenÃ©e") == "“Don’t,” said Renée"
    assert mend_damage("Ã¢â‚¬Å“OhÃ¢â‚¬Â\x9d Ã¢â‚¬â€œ") == "“Oh” –"
    for text in ("À la carte, déjà vu, Ætat. 50, £5, naïve façade", "CAFÉ», dit-il. Â", "Ã la"):
        assert mend_damage(text) == text


def test_what_nobody_can_see_is_dropped() -> None:
    assert mend_damage("a\x00b\x1ac\x85d\xade\u200bf\ufeffg\n\th") == "abcdefg\n\th"


def test_typography_is_plain() -> None:
    assert in_plain_typography("“‘Tis,” he—no…") == '"\'Tis," he—no...'
    assert in_plain_typography("so--and---so, Mr. ---- and -1") == "so—and—so, Mr. ---- and -1"
    assert in_plain_typography("_very_ ill, ____ left; ﬁre and ﬂood\xa0!") == "very ill, ____ left; fire and flood !"


def test_a_step_that_is_off_does_nothing() -> None:
    text = "[Transcriber's Note: x]\n“_Oh_”--â€™â€™\n" + BOOK
    assert clean(text, OFF) == text
    assert clean(text, OFF.model_copy(update={"typography": True})) == in_plain_typography(text)


PLAIN_PIECES = [*"ab_-—“’\n\r \t[]*", "\n\n", "--", "Gutenberg", "a word or two ", "é", "\x00", "\ufeff"]
TROUBLE = [*"Ââ", "â€™", "Ã©", "Transcriber's Note: ", "Produced by ", "*** START OF THE PROJECT GUTENBERG "]


def texts(pieces: list[str]) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(pieces), max_size=60).map("".join)


@settings(max_examples=300)
@given(texts(PLAIN_PIECES))
def test_what_was_cleaned_is_clean(text: str) -> None:
    once = clean(text, ON)
    assert clean(once, ON).split() == once.split()


@settings(max_examples=300)
@given(texts(PLAIN_PIECES + TROUBLE))
def test_cleaning_never_fails_and_leaves_nothing_unseen(text: str) -> None:
    once = clean(text, ON)
    assert not set(once) & set("\x00\ufeff\r“’")
    assert not [line for line in once.split("\n") if line != line.rstrip(" \t")]


@pytest.mark.parametrize(
    "piece", ["_", "-", "[Transcriber's Note: ", "â€", "\n", " ", "*** START OF THE PROJECT GUTENBERG ", "End of "]
)
@pytest.mark.parametrize("end", ["", "x \n"])
def test_hostile_text_takes_no_longer_than_any_other(piece: str, end: str) -> None:
    text = piece * (2_000_000 // len(piece)) + end
    began = time.monotonic()
    clean(text, ON)
    assert time.monotonic() - began < 20
