"""Which books are kept. A book that is not gets a reason and a few words, which the manifest records."""

import functools
from typing import TYPE_CHECKING, Literal

from victorian.config import SelectionConfig
from victorian.corpus.words import count_words

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

Reason = Literal[
    "binary",
    "not UTF-8",
    "empty",
    "too short",
    "year",
    "language",
    "duplicate",
    "overlaps held-out",
    "no text",
]

SAMPLES, SAMPLE_CHARACTERS = 3, 400
"""What is looked at to tell a book's language: passages spread over it, so that a quotation does not decide."""


def reason_to_drop(text: str, year: int | None, config: SelectionConfig) -> tuple[Reason, str] | None:
    """Why a cleaned text is not kept, and what was seen; None for one that is."""
    words = count_words(text)
    if not words:
        return "empty", ""
    if words < config.least_words:
        return "too short", f"{words} words, at least {config.least_words}"
    if year is not None and config.first_year is not None and year < config.first_year:
        return "year", f"{year}, before {config.first_year}"
    if year is not None and config.last_year is not None and year > config.last_year:
        return "year", f"{year}, after {config.last_year}"
    if config.language is not None and (found := language(text)) != config.language:
        return "language", f"{found}, not {config.language}"
    return None


def language(text: str) -> str:
    """The ISO 639-1 code of the language that most of a text is probably in."""
    span = max(0, len(text) - SAMPLE_CHARACTERS)
    starts = sorted({span * (2 * number + 1) // (2 * SAMPLES) for number in range(SAMPLES)})
    passages = [text[start : start + SAMPLE_CHARACTERS] for start in starts]
    votes = [str(_identifier().classify(passage)[0]) for passage in passages]
    return max(sorted(set(votes)), key=votes.count)


@functools.cache
def _identifier() -> "LanguageIdentifier":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # reads a model of 3 MB that comes with the package

    return LanguageIdentifier.from_model_file(MODEL_FILE)
