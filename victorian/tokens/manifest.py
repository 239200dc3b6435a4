"""The manifest of a token data set: written last, it says what every shard holds and how it was made.

A folder without a manifest is not a data set. The manifest depends on the books and the settings alone, as the shards
do: the same books give the same bytes, whoever prepared them.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor

from pydantic import ValidationError

from victorian.config import DataConfig, Section, first_problem
from victorian.cores import cores
from victorian.corpus.book import Split
from victorian.corpus.cleaning import CLEANING_VERSION
from victorian.errors import DataError, StorageError
from victorian.storage import Storage
from victorian.tokens.bpe import get_encoding
from victorian.tokens.shards import read_tokens

MANIFEST = "manifest.json"
FORMAT = 2


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
    """Of the file, before cleaning."""
    original_words: int
    read_as: str | None = None
    """The encoding that a file which is not UTF-8 was read in."""


class DroppedEntry(Section):
    """A book that was left out, and why."""

    id: str
    split: Split | None
    """None of a book that has no text, where only the text's place would say it."""
    title: str
    year: int | None
    reason: str
    """One of a few words, as in `corpus.selection`."""
    detail: str
    """What came of looking at it: a year, a language, the book it equals."""
    bytes: int
    tokens: int
    """0 where it was left out before it was tokenized."""


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
    data: DataConfig
    """The settings it was made with."""
    cleaning_version: int
    """Version of the code of cleaning and selection."""
    corpus_sha256: str
    """Fingerprint of the books it was made from."""
    splits: dict[Split, SplitEntry]
    dropped: tuple[DroppedEntry, ...] = ()

    def as_found(self, split: Split) -> bool:
        """Whether a split holds every one of its books as it was found: figures then compare with others'."""
        cleaned = split == "train" or self.data.cleaning.held_out
        repaired = any(book.read_as is not None for book in self.splits[split].books)
        return not (cleaned or repaired or any(entry.split in (split, None) for entry in self.dropped))

    def made_with(self, data: DataConfig) -> bool:
        """Whether the data set is what these settings would make."""
        same_tokens = self.encoding.sha256 == get_encoding(data.tokens.ranks).sha256
        return same_tokens and self.data == data and self.cleaning_version == CLEANING_VERSION


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
    """Declare the data set whole. Nothing of it may change afterwards.

    Raises:
        TakenError: if another writer has declared one first.
    """
    storage.write(MANIFEST, manifest.model_dump_json(indent=1).encode(), only_new=True)


def verify(storage: Storage, manifest: Manifest) -> None:
    """Read every shard back and compare it with the manifest, as many at once as there are cores.

    Raises:
        DataError: naming the first file that differs: another hash, another number of tokens, a shard that is not
            full, a book that does not begin where the manifest says.
    """
    for split, entry in manifest.splits.items():
        _verify_counts(f"{storage.uri}/{MANIFEST}", split, entry, manifest.data.tokens.tokens_per_shard)
    work = [(entry, index) for entry in manifest.splits.values() for index in range(len(entry.shards))]
    with ThreadPoolExecutor(min(cores(), len(work) or 1)) as pool:
        for _ in pool.map(lambda item: _verify_shard(storage, manifest, *item), work):
            pass  # draws the results, and with them the first error


def _verify_counts(place: str, split: Split, entry: SplitEntry, tokens_per_shard: int) -> None:
    ends = [book.offset + book.tokens for book in entry.books]
    starts = [book.offset for book in entry.books]
    full = [shard.tokens for shard in entry.shards[:-1]]
    consistent = (
        sum(shard.tokens for shard in entry.shards) == entry.tokens
        and starts == [0, *ends[:-1]]
        and ends[-1:] == [entry.tokens]
        and all(tokens == tokens_per_shard for tokens in full)
        and 0 < entry.shards[-1].tokens <= tokens_per_shard
    )
    if not consistent:
        raise DataError(f"{place} contradicts itself about the tokens of {split}; prepare it again")


def _verify_shard(storage: Storage, manifest: Manifest, entry: SplitEntry, index: int) -> None:
    shard = entry.shards[index]
    if not storage.exists(shard.name):
        raise DataError(f"{storage.uri}/{shard.name} is missing; prepare the data set again")
    first = index * manifest.data.tokens.tokens_per_shard
    begins = [book.offset - first for book in entry.books if first <= book.offset < first + shard.tokens]
    digest, count, misplaced = hashlib.sha256(), 0, False
    try:
        for tokens in read_tokens(storage.read_pieces(shard.name), digest.update):
            here = [begin - count for begin in begins if count <= begin < count + len(tokens)]
            misplaced = misplaced or bool((tokens[here] != manifest.encoding.ranks).any())
            count += len(tokens)
    except (StorageError, ValueError) as error:
        raise DataError(f"{storage.uri}/{shard.name} is damaged: {error}; prepare the data set again") from error
    if digest.hexdigest() != shard.sha256:
        raise DataError(
            f"{storage.uri}/{shard.name} is damaged: its SHA-256 begins with {digest.hexdigest()[:12]}, "
            f"expected {shard.sha256[:12]}; prepare the data set again"
        )
    if count != shard.tokens:
        raise DataError(f"{storage.uri}/{shard.name} holds {count} tokens, the manifest says {shard.tokens}")
    if misplaced:
        raise DataError(f"{storage.uri}/{shard.name}: a book does not begin where {MANIFEST} says; prepare it again")
