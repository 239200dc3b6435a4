"""Counts words: runs of characters between white space, as `str.split()` has them, several times as fast."""

import numpy as np

_IS_SPACE = np.zeros(256, np.bool_)
_IS_SPACE[list(b" \t\n\r\v\f\x1c\x1d\x1e\x1f")] = True
_RARE = "\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
"""White space beyond ASCII's."""


def count_words(text: str) -> int:
    """`len(text.split())`: ASCII's white space is found in all bytes at once; only rarer kinds take the slow way."""
    if not text.isascii() and any(space in text for space in _RARE):
        return len(text.split())
    space = _IS_SPACE[np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)]
    begins = np.count_nonzero(space[:-1] & ~space[1:])
    return int(begins) + int(len(space) > 0 and not space[0])
