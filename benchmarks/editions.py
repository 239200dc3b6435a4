"""Made-up editions and planted texts: what one book may have in common with another, each by one change.

The changes are those that printers, editors and scanners make. Knows nothing of how they are found.
"""

import random
import re
import textwrap
from collections.abc import Sequence

SPELLINGS = {
    r"(?i)\b(col|fav|hon|hum|lab|neighb|harb|behavi|rum|splend|vap|ard)our": r"\1or",
    r"(?i)\b(real|recogn|civil|organ|sympath)is(e|ing|ed)\b": r"\1iz\2",
    r"\bgrey": "gray",
    r"\b(back|for|to|after)wards\b": r"\1ward",
    r"\b(cent|theat)re\b": r"\1er",
    r"\bconnexion": "connection",
    r"\bdefence": "defense",
    r"\bplough": "plow",
    r"\bwaggon": "wagon",
    r"\b([Ss])hew": r"\1how",
    r"\b([Tt])o-(day|night|morrow)": r"\1o\2",
    r"\b([Aa]n|[Ee]ver)y one\b": r"\1yone",
}
"""How one printer's spelling becomes another's."""


Pair = tuple[str, str]
"""Two texts that are compared."""


def rewrapped(book: str) -> str:
    return "\n\n".join(textwrap.fill(" ".join(paragraph.split()), 58) for paragraph in paragraphs(book))


def respelled(book: str) -> str:
    for pattern, replacement in SPELLINGS.items():
        book = re.sub(pattern, replacement, book)
    return book


def annotated(book: str, notes: str, source: random.Random) -> str:
    """With 2,000 words in front, and a note of 30 words, with its mark in the text, to every eighth paragraph."""
    strange = notes.split()
    parts = [" ".join(strange[:2000])]
    for number, paragraph in enumerate(paragraphs(book)):
        parts.append(paragraph)
        if number % 8 == 3:
            words, start = paragraph.split(), source.randrange(len(strange) - 30)
            words.insert(source.randrange(len(words) + 1), f"[{number}]")
            parts[-1:] = [" ".join(words), f"[Footnote {number}: {' '.join(strange[start : start + 30])}]"]
    return "\n\n".join(parts)


def scanned(book: str, share: float, source: random.Random) -> str:
    """With one wrong letter in a share of its words."""

    def misread(match: re.Match[str]) -> str:
        word = match.group()
        if source.random() >= share:
            return word
        place = source.randrange(len(word))
        others = [letter for letter in "abcdefghijklmnopqrstuvwxyz" if letter != word[place].lower()]
        return word[:place] + source.choice(others) + word[place + 1 :]

    return re.sub(r"[A-Za-z]+", misread, book)


def abridged(book: str, source: random.Random) -> str:
    """Without 30% of its paragraphs, here and there."""
    return "\n\n".join(paragraph for paragraph in paragraphs(book) if source.random() >= 0.3)


def volume(book: str, parts: int) -> str:
    """The first of so many volumes."""
    found = paragraphs(book)
    return "\n\n".join(found[: len(found) // parts])


def passage(book: str, words: int) -> str:
    """So many words from the middle of a book."""
    found = book.split()
    start = (len(found) - words) // 2
    return " ".join(found[start : start + words])


def collection(books: Sequence[str]) -> str:
    """Passages of 8,000 words, one after another."""
    return "\n\n".join(passage(book, 8000) for book in books)


def within(book: str, planted: str) -> str:
    """A text in the middle of a book."""
    found = book.split()
    return " ".join([*found[: len(found) // 2], planted, *found[len(found) // 2 :]])


def paragraphs(book: str) -> list[str]:
    return re.split(r"\n\s*\n", book)


def editions_of(book: str, others: Sequence[str], source: random.Random) -> dict[str, Pair]:
    """One book and what else it might have been, by what was changed."""
    story = passage(book, 3000)
    return {
        "other line width": (book, rewrapped(book)),
        "American spelling": (book, respelled(book)),
        "front matter and footnotes": (book, annotated(book, others[0], source)),
        "scanned: 5% of words wrong": (book, scanned(book, 0.05, source)),
        "both scanned: 2% wrong in each": (scanned(book, 0.02, source), scanned(book, 0.02, source)),
        "both scanned: 5% wrong in each": (scanned(book, 0.05, source), scanned(book, 0.05, source)),
        "abridged: 30% of paragraphs out": (book, abridged(book, source)),
        "first of two volumes, and the whole": (book, volume(book, 2)),
        "first of three volumes, and the whole": (book, volume(book, 3)),
        "collections: 3 of 4 stories the same": (collection(others[:4]), collection([*others[:3], book])),
        "collections: 2 of 4 stories the same": (collection(others[:4]), collection([*others[:2], book, others[4]])),
        "a story of 3,000 words, and the first 70% of it": (story, story[: int(0.7 * len(story))]),
    }


def planted(book: str, theirs: str, source: random.Random) -> dict[str, Pair]:
    """A held-out text and a training text, by what they have in common."""
    story = passage(theirs, 3000)
    return {
        "the whole held-out book": (theirs, within(book, theirs)),
        "the whole, scanned: 5% of words wrong": (theirs, within(book, scanned(theirs, 0.05, source))),
        "a tenth of it, in one piece": (theirs, within(book, passage(theirs, len(theirs.split()) // 10))),
        "a held-out story of 3,000 words": (story, within(book, story)),
        "that story, scanned: 5% of words wrong": (story, within(book, scanned(story, 0.05, source))),
        "a page of 300 words of a book": (theirs, within(book, passage(theirs, 300))),
        "a page of 300 words of that story": (story, within(book, passage(theirs, 300))),
    }
