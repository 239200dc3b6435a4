"""What joining lines is, line by line: the definition that `corpus/wrapping.py` must equal."""

import itertools
from collections import Counter

from victorian.corpus.wrapping import FULL_SHARE, LEAST_BREAKS, NARROWEST, SLACK, WIDEST


def join_lines(text: str) -> str:
    blocks = [block.split("\n") for block in text.split("\n\n")]
    width = page_width(blocks)
    if width is None:
        return text
    breaks = [[is_full(above, below, width) for above, below in itertools.pairwise(b)] for b in blocks]
    if sum(map(sum, breaks)) < FULL_SHARE * sum(map(len, breaks)):
        return text
    return "\n\n".join(map(joined, blocks, breaks))


def page_width(blocks: list[list[str]]) -> int | None:
    lines = [line for block in blocks for line in block]
    lengths = Counter(len(line) for block in blocks for line in block[:-1])
    breaks = sum(lengths.values())
    if breaks < LEAST_BREAKS or sum(len(x) for x in lines if len(x) > WIDEST) > sum(map(len, lines)) / 10:
        return None
    left = breaks / 20  # one line in twenty may stick out
    for length in sorted(lengths, reverse=True):
        left -= lengths[length]
        if left < 0:
            return length if NARROWEST <= length <= WIDEST else None
    raise AssertionError("the lengths are those of the lines")


def is_full(above: str, below: str, width: int) -> bool:
    first_word = len(below.split(" ", 1)[0])
    return bool(above and first_word and below[0] != "\t" and len(above) + 1 + first_word > width - SLACK)


def joined(lines: list[str], full: list[bool]) -> str:
    if not full or sum(full) < FULL_SHARE * len(full):
        return "\n".join(lines)
    text = lines[0]
    for printers, above, below in zip(full, lines, lines[1:], strict=False):
        goes_on = above.endswith(("-", "—")) or below.startswith(("--", "—"))
        text += ("\n" if not printers else "" if goes_on else " ") + below
    return text
