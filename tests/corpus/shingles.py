"""Texts of words in an order of their own, and what they have in common by plain sets of words in a row."""

import random
import re
from collections.abc import Sequence

from victorian.corpus.sketch import SHINGLE_WORDS

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
