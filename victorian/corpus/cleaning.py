"""What is done to a book's text before it becomes tokens: a list of named steps, each a function of text alone."""

import re
from collections.abc import Callable

CLEANING_VERSION = 1
"""Raised when a step or the selection changes: data sets of another version are not reused."""

CleaningStep = Callable[[str], str]


def without_byte_order_mark(text: str) -> str:
    """Drop the mark that some editors put in front of a file."""
    return text.removeprefix("\ufeff")


def with_line_feeds(text: str) -> str:
    """End every line with a single line feed, whatever system the file came from."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def without_trailing_spaces(text: str) -> str:
    """Drop spaces and tabs that end a line: they cost tokens and cannot be seen."""
    return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)


STEPS: tuple[CleaningStep, ...] = (without_byte_order_mark, with_line_feeds, without_trailing_spaces)


def clean(text: str) -> str:
    """The text after every step, in order."""
    for step in STEPS:
        text = step(text)
    return text
