"""Joins the lines that a printer or typist broke because the page was full.

A break is theirs if the next line's first word would not have fitted any more. Verse, headings, tables and lists break
before the page is full, and keep their lines; so does whatever is indented. The width of the page is read off the book.
"""

from collections import Counter

NARROWEST, WIDEST = 50, 100
"""Characters: pages of books that were typed line by line are no narrower, and none is wider."""
SLACK = 4
"""Characters by which a line may fall short of the page although its break is the printer's."""
LEAST_BREAKS = 20
"""Broken lines without which a text shows no width."""
FULL_SHARE = 0.6
"""Share of a block's breaks, and of a book's, that must be the printer's: of verse it is a third or less."""


def join_lines(text: str) -> str:
    """The text with every paragraph on a line of its own, verse and headings as they were."""
    blocks = [block.split("\n") for block in text.split("\n\n")]
    width = page_width(blocks)
    if width is None:
        return text
    breaks = [_full(lines, width) if len(lines) > 1 else [] for lines in blocks]
    if sum(map(sum, breaks)) < FULL_SHARE * sum(map(len, breaks)):
        return text
    return "\n\n".join(map(_joined, blocks, breaks))


def page_width(blocks: list[list[str]]) -> int | None:
    """The width at which the lines of blocks were broken; None where they were not broken at one."""
    lengths: Counter[int] = Counter()
    long = total = 0
    for lines in blocks:
        sizes = list(map(len, lines))
        total += sum(sizes)
        if max(sizes) > WIDEST:
            long += sum(size for size in sizes if size > WIDEST)
        lengths.update(sizes[:-1])
    breaks = sum(lengths.values())
    if breaks < LEAST_BREAKS or long > total / 10:
        return None
    left = breaks / 20  # one line in twenty may stick out
    for length in sorted(lengths, reverse=True):
        left -= lengths[length]
        if left < 0:
            return length if NARROWEST <= length <= WIDEST else None
    raise AssertionError("the lengths are those of the lines")


def _full(lines: list[str], width: int) -> list[bool]:
    """For every break of a block, whether it is the printer's."""
    limit = width - SLACK - 1
    full = []
    above = len(lines[0])
    for line in lines[1:]:
        end = line.find(" ")
        size = len(line)
        first_word = end if end >= 0 else size
        # A line that begins with a space has a first word of no length, and is indented on purpose.
        full.append(first_word > 0 and line[0] != "\t" and above > 0 and above + first_word > limit)
        above = size
    return full


def _joined(lines: list[str], full: list[bool]) -> str:
    """A block as it should stand."""
    if not full or sum(full) < FULL_SHARE * len(full):
        return "\n".join(lines)
    pieces = [lines[0]]
    above = lines[0]
    for is_full, line in zip(full, lines[1:], strict=True):
        if not is_full:
            pieces.append("\n")
        elif above[-1] not in "-—" and not line.startswith(("--", "—")):
            pieces.append(" ")
        pieces.append(line)
        above = line
    return "".join(pieces)
