"""The format of token shards: `SPLIT-NNNNN.npy` files of uint16, one-dimensional."""

import io
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np

from victorian.corpus.book import Split
from victorian.tokens.bpe import Tokens

_parsing = threading.Lock()  # numpy parses headers as Python; several threads at once make 3.11's parser fail

HEADER_BYTES = 128
"""What numpy writes in front of an array of one dimension, padded."""


def shard_name(split: Split, number: int) -> str:
    return f"{split}-{number:05d}.npy"


def to_npy(tokens: Tokens) -> bytes:
    """The tokens as the bytes of a .npy file; no pickle is involved for plain numbers."""
    return b"".join(npy_pieces(len(tokens), [tokens]))


def npy_pieces(count: int, pieces: Iterable[Tokens]) -> Iterator[bytes]:
    """The bytes of a .npy file of `count` tokens, one piece of them at a time."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<u2", "fortran_order": False, "shape": (count,)})
    yield header.getvalue()
    written = 0
    for piece in pieces:
        written += len(piece)
        yield piece.astype("<u2", copy=False).tobytes()
    assert written == count


def from_npy(data: bytes) -> Tokens:
    """The tokens in the bytes of a .npy file."""
    tokens: Tokens = np.load(io.BytesIO(data), allow_pickle=False)
    return tokens


def read_header(file: BinaryIO) -> tuple[tuple[int, ...], "np.dtype[Any]"]:
    """Shape and type of the array in a .npy file, which is left where its numbers begin; ValueError for other files."""
    with _parsing:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return shape, dtype


def read_tokens(pieces: Iterable[bytes], watch: Callable[[bytes], object]) -> Iterator[Tokens]:
    """The tokens of a .npy file that comes in pieces; `watch` sees every piece as it comes.

    Raises:
        ValueError: if it is no such file, or is cut short.
    """
    held = b""
    expected: int | None = None
    seen = 0
    for piece in pieces:
        watch(piece)
        held += piece
        if expected is None:
            if len(held) < HEADER_BYTES:
                continue
            (expected,), dtype = read_header(io.BytesIO(held[:HEADER_BYTES]))
            if dtype != np.uint16:
                raise ValueError(f"expected uint16, got {dtype}")
            held = held[HEADER_BYTES:]
        whole = len(held) // 2 * 2
        seen += whole // 2
        yield np.frombuffer(held[:whole], "<u2")
        held = held[whole:]
    if expected != seen or held:
        raise ValueError(f"expected {expected} tokens, got {seen}")
