"""Sketches: a sample of a text's shingles, chosen so that any two texts' samples can be compared.

A word is a run of letters and digits; case, accents, punctuation and line breaks do not matter. A shingle is
`SHINGLE_WORDS` words in a row. Every shingle has a 64-bit hash, the same on every machine, and the sketch of a text
keeps the shingles whose hash falls in the lowest `SAMPLE`-th of all values (FracMinHash): a shingle that two texts
share is in both sketches or in neither. A short text keeps at least its `LEAST_HASHES` lowest. Either way a sketch
holds every hash of its text up to some value, which `complete_up_to` tells: below the lower of two such values, counts
in sketches estimate counts in texts without bias, however much the texts differ in length.
"""

import binascii
import re
import unicodedata
from base64 import b64decode, b64encode
from functools import cache

import numpy as np
import numpy.typing as npt

from victorian.errors import DataError

SHINGLE_WORDS = 6
"""Words in a row. Unrelated novels share up to 1.5% of their shingles of 5 words, up to 0.5% of those of 6."""

SAMPLE = 64
"""One in so many shingles is kept of a long text: about 18 bytes of packed sketch for 100 words."""

LEAST_HASHES = 256
"""Hashes that a sketch keeps at least, where the text has as many shingles."""

Sketch = npt.NDArray[np.uint64]
"""Distinct hashes in ascending order."""

_Hashes = npt.NDArray[np.uint64]

_EVERYTHING = 2**64 - 1
_HIGHEST = 2**64 // SAMPLE - 1
_BLOCK = 2**16  # Characters at a time: what is computed for each then stays in the processor's cache.
_TABLED = 0x3000  # Characters below have their values in a table: all alphabets, no ideographs.
_LONG_GAP = re.compile(r"(\W{30})\W+")  # Cut to 30 characters it is a gap still: no letter takes so many accents.
_LETTER, _WORD = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93  # Multipliers: odd, so that they can be divided by.


def sketch(text: str) -> Sketch:
    """The sketch of a text; empty if it has fewer than `SHINGLE_WORDS` words."""
    hashes = _shingles(_words(text))
    lowest = np.unique(hashes[hashes <= np.uint64(_HIGHEST)])
    return lowest if len(lowest) >= LEAST_HASHES else np.unique(hashes)[:LEAST_HASHES]


def complete_up_to(sketch: Sketch) -> int:
    """The highest value up to which a sketch holds every hash of its text."""
    if len(sketch) < LEAST_HASHES:
        return _EVERYTHING
    return max(_HIGHEST, int(sketch[-1]))


def pack_sketch(sketch: Sketch) -> str:
    """A sketch as text, for a record in JSON."""
    return b64encode(sketch.astype("<u8").tobytes()).decode()


def unpack_sketch(text: str) -> Sketch:
    """What `pack_sketch` was given; DataError if it cannot have made this text."""
    try:
        data = b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"expected a sketch as base64, got {text[:20]!r}: make its part again") from error
    if len(data) % 8:
        raise DataError(f"expected a sketch of whole 64-bit numbers, got {len(data)} bytes: make its part again")
    sketch = np.frombuffer(data, "<u8").astype(np.uint64)
    if np.any(sketch[:-1] >= sketch[1:]):
        raise DataError("expected a sketch of distinct numbers in ascending order, got another: make its part again")
    return sketch


def _words(text: str) -> _Hashes:
    """A hash of every word, in order. A run that fills a whole block of characters counts as more than one word."""
    if not text.isascii() and not unicodedata.is_normalized("NFC", text):
        # An accent that is a character of its own would part a word. Of accents in a row without end a part is enough:
        # putting them in order takes the square of their number.
        text = unicodedata.normalize("NFC", _LONG_GAP.sub(r"\1", text))
    hashes = []
    start = 0
    while start < len(text):
        values = _values(text[start : start + _BLOCK])
        if start + _BLOCK < len(text) and values[-1]:
            # The last word may go on: leave it to the next block.
            gaps = np.flatnonzero(values == 0)
            values = values[: gaps[-1] + 1] if len(gaps) else values
        hashes.append(_runs(values))
        start += len(values)
    return _mix(np.concatenate(hashes)) if hashes else np.empty(0, np.uint64)


def _runs(values: _Hashes) -> _Hashes:
    """Of every run of values that are not 0: the polynomial whose coefficients they are, from differences of sums."""
    powers, inverses = _powers()
    edges = np.flatnonzero(np.diff(values != 0, prepend=False, append=False))
    starts, stops = edges[0::2], edges[1::2]
    sums = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values * powers[: len(values)], out=sums[1:])
    hashes: _Hashes = (sums[stops] - sums[starts]) * inverses[starts]
    return hashes


def _shingles(words: _Hashes) -> _Hashes:
    """A hash of every shingle, in order."""
    count = max(0, len(words) - SHINGLE_WORDS + 1)
    hashes = words[:count].copy()
    for place in range(1, SHINGLE_WORDS):
        hashes *= np.uint64(_WORD)
        hashes += words[place : place + count]
    return _mix(hashes)


def _mix(numbers: _Hashes) -> _Hashes:
    """Each number spread over all of its bits, one to one (the last step of SplitMix64)."""
    mixed = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _values(characters: str) -> _Hashes:
    """Of every character: 0 if it parts words, else a number that a letter shares with its capital and its accents."""
    codes = np.frombuffer(characters.encode("utf-32-le", "surrogatepass"), "<u4")
    values: _Hashes = _table()[np.minimum(codes, _TABLED - 1)]
    beyond = codes >= _TABLED
    if beyond.any():
        found, places = np.unique(codes[beyond], return_inverse=True)
        values[beyond] = _folded(found.tolist())[places]
    return values


@cache
def _table() -> _Hashes:
    return _folded(list(range(_TABLED)))


def _folded(codes: list[int]) -> _Hashes:
    bases = [_base(chr(code)) if chr(code).isalnum() else 0 for code in codes]
    return _mix(np.array(bases, np.uint64) * np.uint64(_LETTER))  # 0 stays 0, and nothing else becomes it


def _base(letter: str) -> int:
    return ord(unicodedata.normalize("NFKD", letter)[0].casefold()[0])


@cache
def _powers() -> tuple[_Hashes, _Hashes]:
    """Powers of the letters' multiplier, modulo 2**64, and their inverses."""

    def powers_of(base: int) -> _Hashes:
        factors = np.full(_BLOCK, base, np.uint64)
        factors[0] = 1
        return np.cumprod(factors, dtype=np.uint64)

    return powers_of(_LETTER), powers_of(pow(_LETTER, -1, 2**64))
