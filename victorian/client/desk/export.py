"""A manuscript as a file for readers: plain text, Markdown, EPUB. Nothing in it is read as markup."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from markupsafe import Markup, escape

from victorian.client.desk.manuscript import clean

UNTITLED = "Untitled"
HEADING_CHARACTERS = 90

_NUMERAL = r"c{0,3}(?:xc|xl|l?x{0,3})(?:ix|iv|v?i{0,3})(?<=[clxvi])\b"
_WORD = (
    r"(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen(?:th)?"
    r"|first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|twelfth|twent(?:y|ieth)"
    r"|(?:thir|for|fif)t(?:y|ieth)|last)\b"
)
_NUMBER = rf"(?:\d+\b|{_NUMERAL}|{_WORD}(?:[ -]{_WORD})?)"
# After a number a title may follow, but no sentence that goes on: "Part of me died." and "Part I kept." are prose.
_TITLE = r"(?:[^\w\s,'’][^\n]*|,?[ \t]+[^a-z\n][^\n]*)"
_HEADING = re.compile(
    rf"(?i:(?:chapter|book|part|volume|letter)[ \t]+(?:the[ \t]+)?{_NUMBER}){_TITLE}?"
    rf"|(?i:(?:chapter|book|part|volume|letter)[.:]?|{_NUMERAL}\.?)"
)
_MARKUP = re.compile(r"([\\`*_\[\]<>#~|&])|^(\s*)([-+=]|\d+[.)])", re.MULTILINE)


@dataclass(frozen=True)
class Chapter:
    title: str
    """Empty where a text begins without a heading."""
    paragraphs: tuple[str, ...]


def chapters(text: str) -> list[Chapter]:
    """A text cut at its headings: paragraphs that say chapter, book, part, volume or letter and which, or a numeral."""
    found: list[tuple[str, list[str]]] = [("", [])]
    for paragraph in re.split(r"\n\s*\n", text):
        paragraph = paragraph.strip("\n")
        if len(line := paragraph.strip()) <= HEADING_CHARACTERS and _HEADING.fullmatch(line):
            found.append((line, []))
        elif paragraph.strip():
            found[-1][1].append(paragraph)
    return [Chapter(title, tuple(paragraphs)) for title, paragraphs in found if title or paragraphs]


def as_text(title: str, text: str) -> bytes:
    heading = f"{title}\n\n\n" if title else ""
    return f"{heading}{text.strip()}\n".encode()


def as_markdown(title: str, text: str) -> bytes:
    """With headings; every other character that Markdown would read is escaped."""
    blocks = [f"# {_plain(title)}"] if title else []
    for chapter in chapters(text):
        blocks += [f"## {_plain(chapter.title)}"] if chapter.title else []
        blocks += [_plain(paragraph) for paragraph in chapter.paragraphs]
    return ("\n\n".join(blocks) + "\n").encode()


def as_epub(title: str, text: str) -> bytes:
    """An EPUB 3 book, a page for each chapter."""
    import mkepub  # ten milliseconds that only a writer who exports should wait

    title, text = clean(title), clean(text)  # XML has no control characters, not even escaped
    book = mkepub.Book(escape(title or UNTITLED))  # as Markup, which its templates escape no second time
    book.set_stylesheet("p { margin: 0; text-indent: 1.4em; } h2 { margin: 2em 0 1em; } h2 + p { text-indent: 0; }")
    for number, chapter in enumerate(chapters(text) or [Chapter("", ("",))], start=1):
        heading = Markup("<h2>{}</h2>\n").format(chapter.title) if chapter.title else Markup()
        body = Markup("\n").join(
            Markup('<p dir="auto">{}</p>').format(_lines(paragraph)) for paragraph in chapter.paragraphs
        )
        book.add_page(escape(chapter.title or title or f"Part {number}"), heading + body)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "book.epub"
        book.save(str(file))
        return file.read_bytes()


EXPORTS: dict[str, tuple[str, str, Callable[[str, str], bytes]]] = {
    "Text": ("txt", "text/plain", as_text),
    "Markdown": ("md", "text/markdown", as_markdown),
    "EPUB": ("epub", "application/epub+zip", as_epub),
}
"""Ending, media type and writer of each."""


def file_name(title: str, ending: str) -> str:
    """A name that every system takes."""
    name = re.sub(r"[^\w]+", "-", title.lower(), flags=re.ASCII).strip("-")[:60]
    return f"{name or 'untitled'}.{ending}"


def _plain(text: str) -> str:
    escaped = _MARKUP.sub(lambda found: f"\\{found[1]}" if found[1] else _listless(found[2], found[3]), text.strip())
    return re.sub(r"[ \t]*\n", r"\\\n", escaped)  # a line ends where the writer ended it: verse, letters


def _listless(indent: str, mark: str) -> str:
    """The beginning of a line that would be a list, or an underline of the line before."""
    return f"{indent}{mark[:-1]}\\{mark[-1]}"


def _lines(paragraph: str) -> Markup:
    return Markup("<br/>\n").join(paragraph.split("\n"))
