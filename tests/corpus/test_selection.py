"""Books are kept, or dropped with the reason."""

import pytest

from victorian.config import SelectionConfig
from victorian.corpus.selection import language, reason_to_drop
from victorian.corpus.sources import find_books, read_bytes

ENGLISH = "The old house stood upon the hill, and nobody had lived in it for many years. " * 20
FRENCH = "La vieille maison se dressait sur la colline, et personne n'y avait vécu depuis des années. " * 20
GERMAN = "Das alte Haus stand auf dem Hügel, und seit vielen Jahren hatte niemand darin gewohnt. " * 20


@pytest.mark.parametrize(
    ("text", "year", "changed", "reason"),
    [
        (ENGLISH, 1860, {}, None),
        (ENGLISH, None, {"first_year": 1837}, None),
        (" \n ", 1860, {}, ("empty", "")),
        ("Only four words here.", 1860, {}, ("too short", "4 words, at least 100")),
        ("Only four words here.", 1860, {"least_words": 4}, None),
        (ENGLISH, 1923, {}, ("year", "1923, after 1918")),
        (ENGLISH, 1923, {"last_year": None}, None),
        (ENGLISH, 1811, {"first_year": 1837}, ("year", "1811, before 1837")),
        (FRENCH, 1860, {}, ("language", "fr, not en")),
        (GERMAN, 1860, {}, ("language", "de, not en")),
        (FRENCH, 1860, {"language": "fr"}, None),
        (FRENCH, 1860, {"language": None}, None),
        (ENGLISH * 3 + FRENCH + ENGLISH * 3, 1860, {}, None),
    ],
)
def test_every_reason(text: str, year: int | None, changed: dict[str, object], reason: tuple[str, str] | None) -> None:
    assert reason_to_drop(text, year, SelectionConfig().model_copy(update=changed)) == reason


def test_the_sample_is_english_and_kept() -> None:
    for book in find_books("sample").books:
        text = read_bytes(book).decode()
        assert language(text) == "en"
        assert reason_to_drop(text, book.year, SelectionConfig()) is None
