"""What is done to a book's text before it becomes tokens: a list of named steps, each a function of text alone.

Joining lines has a module of its own, `wrapping.py`.
"""

import re

from victorian.config import CleaningConfig
from victorian.corpus.wrapping import join_lines

CLEANING_VERSION = 4
"""Raised when a step or the selection changes: data sets of another version are not reused."""

FRONT_CHARACTERS = 30_000
"""Where the headers of Project Gutenberg may end: the longest of its licences stood in front."""
BACK_CHARACTERS = 30_000
"""Where the licence may begin that stands behind a book, from the end; a short story may be shorter than it."""
BEFORE_LICENCE = 10_000
"""Between the end of a book and the heading of such a licence: who made the file, and what else there is."""
CREDIT_CHARACTERS = 3_000
"""Where its credits stand."""
NOTE_CHARACTERS = 4_000
"""The longest note of a transcriber that is taken out."""

_START = re.compile(
    r"^ *\*\*\* ?START OF (?:THE|THIS) PROJECT GUTENBERG [^\n]*(?:\n[^\n]+){0,3}?\*\*\* *$", re.I | re.M
)
_SMALL_PRINT = re.compile(r"^ *\*?END\*? ?THE SMALL PRINT![^\n]*(?:\n[^\n]+){0,2}$", re.I | re.M)
_END = re.compile(
    r"^ *(?:\*\*\* ?END OF (?:THE|THIS) PROJECT GUTENBERG|End of (?:the |this )?Project Gutenberg)[^\n]*$", re.I | re.M
)
_LICENCE = re.compile(
    r"^[ *]*(?:START: ?)?(?:THE )?FULL (?:PROJECT GUTENBERG(?:-tm|™)? )?LICEN[CS]E\b"
    r"|^ *\*+ ?START ?\** ?THE SMALL PRINT!",
    re.I | re.M,
)
_CREDIT = re.compile(
    r"^ *(?:Produced|Prepared|Scanned|Transcribed|(?:This )?E-?(?:text|book) (?:was )?(?:prepared|produced|scanned))"
    r"\b[^\n]* by\b[^\n]*(?:\n[^\n]+){0,6}\n*",
    re.I | re.M,
)
_NOTE_IN_BRACKETS = re.compile(rf"\[ *Transcriber['’]?s?['’]? notes?\b[^\[\]]{{0,{NOTE_CHARACTERS}}}\]\n?", re.I)
_NOTE_HEADING = re.compile(r"^[ *=_]*Transcriber['’]?s?['’]? notes?\b[^\n]*$", re.I | re.M)
_SAYS_MORE = re.compile(r":.*\w")

# UTF-8 that was read as Windows-1252: a lead byte and its followers, as the characters that they then became.
_FOLLOWERS = "".join(bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in range(0x80, 0xC0))
_DAMAGED = re.compile(
    f"[\u00c2\u00c3\u00c5\u00c6\u00cb][{_FOLLOWERS}]|\u00e2[{_FOLLOWERS}]{{2}}|\u00f0[{_FOLLOWERS}]{{3}}"
)
_DAMAGED_ENOUGH = 2
"""Fewer such sequences may be somebody's French capitals before a quotation mark."""
_UNSEEN = dict.fromkeys([*range(9), *range(11, 32), *range(0x7F, 0xA0), 0xAD, 0x200B, 0x2060, 0xFEFF])
_HAS_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u200b\u2060\ufeff]")

_PLAIN = {
    "'": "‘’‚‛ʼ",
    '"': "“”„‟",
    " ": "\xa0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000",
    "—": "―",
    "-": "‐‑",
    "...": "…",
    "ff": "ﬀ",
    "fi": "ﬁ",
    "fl": "ﬂ",
    "ffi": "ﬃ",
    "ffl": "ﬄ",
    "st": "ﬅﬆ",
}
"""What is written instead of which characters."""
_DASHES = re.compile(r"(?<!-)-{2,3}(?!-)")
_EMPHASIS = re.compile(r"(?<!_)_(?!_)")


def clean(text: str, config: CleaningConfig) -> str:
    """The text after every step that is switched on, in order."""
    text = with_line_feeds(text)
    if config.damage:
        text = mend_damage(text)
    if config.boilerplate:
        text = without_boilerplate(text)
    if config.transcriber_notes:
        text = without_transcriber_notes(text)
    if config.join_lines:
        text = join_lines(without_trailing_spaces(text))
    if config.typography:
        text = in_plain_typography(text)
    return without_trailing_spaces(text)


def with_line_feeds(text: str) -> str:
    """End every line with a single line feed, whatever system the file came from, and drop a mark in front of it."""
    text = text.lstrip("\ufeff")
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def without_trailing_spaces(text: str) -> str:
    """Drop spaces and tabs that end a line: they cost tokens and cannot be seen."""
    if " \n" not in text and "\t\n" not in text and not text.endswith((" ", "\t")):
        return text
    return "\n".join(line.rstrip(" \t") for line in text.split("\n"))


def mend_damage(text: str) -> str:
    """Put right what was UTF-8 and was read as Windows-1252 (`donâ€™t`), and drop characters that nobody can see."""
    for _ in range(3):  # some texts were damaged twice
        if "\u00c2" not in text and "\u00c3" not in text and "\u00e2" not in text:
            break
        if len(_DAMAGED.findall(text)) < _DAMAGED_ENOUGH:
            break
        mended = _DAMAGED.sub(_mended, text)
        if mended == text:
            break
        text = mended
    return text.translate(_UNSEEN) if _HAS_UNSEEN.search(text) else text


def _mended(match: re.Match[str]) -> str:
    data = b"".join(_byte(character) for character in match[0])
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return match[0]


def _byte(character: str) -> bytes:
    try:
        return character.encode("cp1252")
    except UnicodeEncodeError:
        return character.encode("latin-1")  # the five bytes that Windows leaves open


def without_boilerplate(text: str) -> str:
    """Take off what Project Gutenberg puts around a book: header, small print, licence, and credits."""
    front = text[:FRONT_CHARACTERS]
    if "GUTENBERG" in front or "Gutenberg" in front or "SMALL PRINT" in front:
        for marker in (_START, _SMALL_PRINT):
            end = _END.search(text, 0, FRONT_CHARACTERS)  # of a short book: such a marker may stand behind it as well
            if markers := list(marker.finditer(text, 0, end.start() if end else FRONT_CHARACTERS)):
                text = text[markers[-1].end() :].lstrip("\n")
    if "utenberg" in text or "UTENBERG" in text:
        middle = len(text) // 2
        licence = _LICENCE.search(text, max(0, len(text) - BACK_CHARACTERS))
        for found in _END.finditer(text, min(middle, max(0, licence.start() - BEFORE_LICENCE)) if licence else middle):
            text = text[: found.start()].rstrip() + "\n"
            break
    credit = _CREDIT.search(text, 0, CREDIT_CHARACTERS)
    if credit and credit.end() < len(text):
        text = text[: credit.start()] + text[credit.end() :]
    return text


def without_transcriber_notes(text: str) -> str:
    """Take out the notes of those who typed the book: in brackets anywhere, under a heading at its two ends."""
    if "ranscriber" not in text and "RANSCRIBER" not in text:
        return text
    text = _NOTE_IN_BRACKETS.sub("", text)
    for found in _NOTE_HEADING.finditer(text, max(len(text) // 2, len(text) - NOTE_CHARACTERS)):
        text = text[: found.start()].rstrip() + "\n"
        break
    found_first = _NOTE_HEADING.search(text, 0, NOTE_CHARACTERS)
    if found_first:
        end = _end_of_note(text, found_first)
        text = text[: found_first.start()] + text[end:]
    return text


def _end_of_note(text: str, heading: re.Match[str]) -> int:
    """Where a note at the beginning ends: with its paragraph, or with the one that a mere heading stands over."""
    start = heading.end()
    if text.startswith("\n\n", start) and not _SAYS_MORE.search(heading[0]):
        while text.startswith("\n", start):
            start += 1
    paragraph = text.find("\n\n", start, start + NOTE_CHARACTERS)
    return paragraph + 2 if paragraph >= 0 else heading.end()


def in_plain_typography(text: str) -> str:
    """Write quotation marks straight, dashes as —, every space as one, ligatures as letters, and drop `_emphasis_`."""
    if not text.isascii():  # a search for each is many times as fast as one look-up a character
        for plain, fancy in _PLAIN.items():
            for character in fancy:
                if character in text:
                    text = text.replace(character, plain)
    text = _EMPHASIS.sub("", text) if "__" in text else text.replace("_", "")
    if "---" in text:
        return _DASHES.sub("—", text)
    return text.replace("--", "—")
