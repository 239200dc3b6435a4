"""Each cleaning step, by an example."""

import pytest

from victorian.corpus.cleaning import (
    STEPS,
    clean,
    with_line_feeds,
    without_byte_order_mark,
    without_trailing_spaces,
)
from victorian.corpus.selection import reason_to_drop


@pytest.mark.parametrize(
    ("step", "before", "after"),
    [
        (without_byte_order_mark, "\ufeffTITLE", "TITLE"),
        (without_byte_order_mark, "a\ufeffb", "a\ufeffb"),
        (with_line_feeds, "a\r\nb\rc\n", "a\nb\nc\n"),
        (without_trailing_spaces, "a  \n\tb\t\n  \nc ", "a\n\tb\n\nc"),
    ],
)
def test_steps(step: object, before: str, after: str) -> None:
    assert callable(step)
    assert step(before) == after


def test_clean_runs_every_step_and_is_done_after_once() -> None:
    text = "\ufeffTITLE \r\n\r\nIt was so. \r\n"
    assert clean(text) == "TITLE\n\nIt was so.\n"
    assert clean(clean(text)) == clean(text)
    assert len(STEPS) == 3


def test_an_empty_book_is_dropped_with_the_reason() -> None:
    assert reason_to_drop(" \n\n") == "empty"
    assert reason_to_drop("a") is None
