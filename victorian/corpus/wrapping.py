"""Joins the lines that a printer or typist broke because the page was full.

A break is theirs if the next line's first word would not have fitted any more. Verse, headings, tables and lists break
before the page is full, and keep their lines; so does whatever is indented. The width of the page is read off the book.

Works on all characters at once, as an array: a book has some ten thousand lines, and one look at each takes five times
as long.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

NARROWEST, WIDEST = 50, 100
"""Characters: pages of books that were typed line by line are no narrower, and none is wider."""
SLACK = 4
"""Characters by which a line may fall short of the page although its break is the printer's."""
LEAST_BREAKS = 20
"""Broken lines without which a text shows no width."""
FULL_SHARE = 0.6
"""Share of a block's breaks, and of a book's, that must be the printer's: of verse it is a third or less."""


Codes = npt.NDArray[np.unsignedinteger[Any]]
Places = npt.NDArray[np.int64]

NEW_LINE, SPACE, TAB, HYPHEN, DASH = (ord(character) for character in "\n \t-—")


def join_lines(text: str) -> str:
    """The text with every paragraph on a line of its own, verse and headings as they were."""
    codes, encoding = _codes(text)
    breaks = _find_breaks(codes)
    if (width := _page_width(breaks)) is None:
        return text
    full = _are_full(codes, breaks, width)
    if full.sum() < FULL_SHARE * len(full):
        return text
    of_block, of_block_full = np.bincount(breaks.blocks), np.bincount(breaks.blocks, weights=full)
    joins = breaks.places[full & (of_block_full >= FULL_SHARE * of_block)[breaks.blocks]]
    return _without(codes, joins).tobytes().decode(encoding, "surrogatepass")


@dataclass(frozen=True)
class _Breaks:
    """Where lines are broken within blocks, which empty lines part."""

    places: Places
    """Of the line feeds."""
    above: Places
    """Length of the line above each."""
    ends: Places
    """Where the line below each ends."""
    blocks: Places
    """Number of the block that each is in."""
    characters: int
    """Of the text, line feeds left out."""
    in_long_lines: int
    """Of these, in lines that no page could hold."""


def _codes(text: str) -> tuple[Codes, str]:
    """A number a character, in the least type that holds them all, and the encoding that turns them into text again."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), np.uint8), "ascii"
    pairs = text.encode("utf-16-le", "surrogatepass")
    if len(pairs) == 2 * len(text):
        return np.frombuffer(pairs, np.uint16), "utf-16-le"
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32), "utf-32-le"


def _find_breaks(codes: Codes) -> _Breaks:
    feeds = np.flatnonzero(codes == NEW_LINE)
    numbers = np.arange(len(feeds))
    begins_run = np.diff(feeds, prepend=-2) > 1
    run = np.cumsum(begins_run) - 1
    in_run = numbers - numbers[begins_run][run]
    # Of line feeds in a row every two part blocks; an odd one out at the end breaks a line of no length.
    parts = in_run < np.bincount(run)[run] // 2 * 2 if len(feeds) else np.zeros(0, np.bool_)
    begins = np.concatenate([[0], feeds + 1])  # of all lines
    sizes = np.append(feeds, len(codes)) - begins
    breaks = np.flatnonzero(~parts)
    return _Breaks(
        places=feeds[breaks],
        above=sizes[breaks],
        ends=np.append(feeds, len(codes))[breaks + 1],
        blocks=(np.cumsum(parts) // 2)[breaks],
        characters=len(codes) - len(feeds),
        in_long_lines=int(sizes[sizes > WIDEST].sum()),
    )


def _page_width(breaks: _Breaks) -> int | None:
    """The width that all lines but one in twenty keep to; None where they were not broken at one."""
    count = len(breaks.places)
    if count < LEAST_BREAKS or breaks.in_long_lines > breaks.characters / 10:
        return None
    width = int(np.sort(breaks.above)[::-1][count // 20])
    return width if NARROWEST <= width <= WIDEST else None


def _are_full(codes: Codes, breaks: _Breaks, width: int) -> npt.NDArray[np.bool_]:
    """For every break, whether it is the printer's: the next line's first word would not have fitted."""
    begins = breaks.places + 1
    spaces = np.append(np.flatnonzero(codes == SPACE), len(codes))
    words = np.minimum(spaces[np.searchsorted(spaces, begins)], breaks.ends) - begins
    # A line that begins with a space has a first word of no length, and is indented on purpose, as with a tab.
    indented = np.append(codes, 0)[begins] == TAB
    full: npt.NDArray[np.bool_] = (words > 0) & ~indented & (breaks.above > 0)
    full &= breaks.above + words > width - SLACK - 1
    return full


def _without(codes: Codes, joins: Places) -> Codes:
    """The characters with a space for every one of these line feeds, and nothing where a word or a dash goes on."""
    before, after, next_after = codes[joins - 1], codes[joins + 1], np.append(codes, [0, 0])[joins + 2]
    goes_on = (before == HYPHEN) | (before == DASH) | (after == DASH) | ((after == HYPHEN) & (next_after == HYPHEN))
    changed = codes.copy()
    changed[joins[~goes_on]] = SPACE
    return np.delete(changed, joins[goes_on])
