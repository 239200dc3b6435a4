"""The sample is prose and not a template: few runs of eight words come twice."""

import re
from collections import Counter

from victorian.corpus.sources import find_books, read_bytes


def test_eight_word_shingles_hardly_repeat() -> None:
    words = [re.findall(r"[a-z']+", read_bytes(book).decode().lower()) for book in find_books("sample").books]
    shingles = Counter(tuple(text[i : i + 8]) for text in words for i in range(len(text) - 7))
    repeated = sum(count - 1 for count in shingles.values() if count > 1)
    assert sum(shingles.values()) > 14_000
    assert repeated < 0.002 * sum(shingles.values())
