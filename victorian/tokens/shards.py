"""Token shards: `SPLIT-NNNNN.npy` files of uint16 and a manifest that is written last.

A folder without a manifest is not a data set. Every file is checked against the manifest's SHA-256 before it is used.
"""

import io
from dataclasses import dataclass

import numpy as np
from pydantic import ValidationError

from victorian.config import Section, TokensConfig, first_problem
from victorian.corpus.book import Split
from victorian.corpus.cleaning import CLEANING_VERSION
from victorian.errors import DataError
from victorian.storage import Storage, sha256_file
from victorian.tokens.bpe import Tokens, get_encoding

MANIFEST = "manifest.json"
FORMAT = 1


class EncodingEntry(Section):
    """Which ids the tokens are."""

    name: str = "gpt2"
    ranks: int
    sha256: str


class BookEntry(Section):
    """A book's place in its split. Words are runs of characters between white space; bytes are of UTF-8."""

    id: str
    title: str
    author: str
    year: int | None
    offset: int
    """First token, the `<|endoftext|>` before the text, counted from the start of the split."""
    tokens: int
    bytes: int
    words: int
    original_bytes: int
    original_words: int


class DroppedEntry(Section):
    """A book that was left out, and why."""

    id: str
    split: Split
    reason: str


class ShardEntry(Section):
    name: str
    tokens: int
    sha256: str


class SplitEntry(Section):
    tokens: int
    shards: tuple[ShardEntry, ...]
    books: tuple[BookEntry, ...]

    @property
    def bytes(self) -> int:
        """Bytes of cleaned text."""
        return sum(book.bytes for book in self.books)

    @property
    def original_words(self) -> int:
        return sum(book.original_words for book in self.books)


class Manifest(Section):
    """What a token data set holds."""

    format: int = FORMAT
    encoding: EncodingEntry
    tokens_per_shard: int
    corpus_sha256: str
    """Fingerprint of the books it was made from."""
    cleaning: int
    """Version of the cleaning and selection that the books went through."""
    splits: dict[Split, SplitEntry]
    dropped: tuple[DroppedEntry, ...] = ()

    def made_with(self, tokens: TokensConfig) -> bool:
        """Whether the data set is what these settings would make."""
        same_tokens = self.encoding.sha256 == get_encoding(tokens.ranks).sha256
        return same_tokens and self.tokens_per_shard == tokens.tokens_per_shard and self.cleaning == CLEANING_VERSION


def shard_name(split: Split, number: int) -> str:
    return f"{split}-{number:05d}.npy"


def to_npy(tokens: Tokens) -> bytes:
    """The tokens as the bytes of a .npy file; no pickle is involved for plain numbers."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(tokens, dtype=np.uint16), allow_pickle=False)
    return buffer.getvalue()


def from_npy(data: bytes) -> Tokens:
    """The tokens in the bytes of a .npy file."""
    tokens: Tokens = np.load(io.BytesIO(data), allow_pickle=False)
    return tokens


def read_manifest(storage: Storage) -> Manifest:
    """The manifest of a data set; DataError if there is none or it cannot be understood."""
    if not storage.exists(MANIFEST):
        raise DataError(
            f"{storage.uri} is not a token data set: it has no {MANIFEST}; make one with `victorian prepare`"
        )
    try:
        manifest = Manifest.model_validate_json(storage.read(MANIFEST))
    except ValidationError as error:
        raise DataError(f"{storage.uri}/{MANIFEST} is damaged: {first_problem(error)}; prepare it again") from error
    if manifest.format != FORMAT:
        raise DataError(f"{storage.uri} has format {manifest.format}, this version reads {FORMAT}; prepare it again")
    return manifest


def write_manifest(storage: Storage, manifest: Manifest) -> None:
    """Declare the data set whole. Nothing of it may change afterwards."""
    storage.write(MANIFEST, manifest.model_dump_json(indent=1).encode())


def verify(storage: Storage, manifest: Manifest) -> None:
    """Read every shard back and compare it with the manifest; DataError naming the first file that differs."""
    for split, entry in manifest.splits.items():
        if sum(shard.tokens for shard in entry.shards) != entry.tokens:
            raise DataError(
                f"{storage.uri}/{MANIFEST} contradicts itself about the tokens of {split}; prepare it again"
            )
        for shard in entry.shards:
            _verify_shard(storage, shard)


def _verify_shard(storage: Storage, shard: ShardEntry) -> None:
    if not storage.exists(shard.name):
        raise DataError(f"{storage.uri}/{shard.name} is missing; prepare the data set again")
    found = sha256_file(storage.path(shard.name))
    if found != shard.sha256:
        raise DataError(
            f"{storage.uri}/{shard.name} is damaged: its SHA-256 begins with {found[:12]}, "
            f"expected {shard.sha256[:12]}; prepare the data set again"
        )


@dataclass(frozen=True)
class TokenStream:
    """The tokens of one split as one long array over memory-mapped shards."""

    shards: tuple[Tokens, ...]
    starts: tuple[int, ...]
    """First position of every shard."""
    length: int

    def read(self, start: int, stop: int) -> Tokens:
        """Tokens `start` to `stop`, shape (stop - start,), across shard borders."""
        assert 0 <= start <= stop <= self.length
        pieces = [
            shard[max(0, start - first) : max(0, stop - first)]
            for first, shard in zip(self.starts, self.shards, strict=True)
            if first < stop and first + len(shard) > start
        ]
        return pieces[0] if len(pieces) == 1 else np.concatenate([*pieces, np.empty(0, np.uint16)])


def open_split(storage: Storage, manifest: Manifest, split: Split) -> TokenStream:
    """The tokens of a split, its shards verified; DataError if it is missing, empty or damaged."""
    entry = manifest.splits.get(split)
    if entry is None or not entry.tokens:
        raise DataError(f"{storage.uri} holds no {split} tokens")
    arrays: list[Tokens] = []
    for shard in entry.shards:
        _verify_shard(storage, shard)
        array = np.load(storage.path(shard.name), mmap_mode="r", allow_pickle=False)
        if array.dtype != np.uint16 or array.shape != (shard.tokens,):
            raise DataError(
                f"{storage.uri}/{shard.name} holds {array.dtype} {array.shape}, expected uint16 ({shard.tokens},)"
            )
        arrays.append(array)
    starts = [0]
    for array in arrays[:-1]:
        starts.append(starts[-1] + len(array))
    return TokenStream(tuple(arrays), tuple(starts), entry.tokens)
