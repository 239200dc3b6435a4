"""The tokens of a split as one long array over its shards, each verified before the first token of it is read.

The shards of a local data set are memory-mapped where they lie. Those of an object store are fetched into the cache
of this machine and mapped there.
"""

from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from io import BufferedReader
from itertools import accumulate
from pathlib import Path

import numpy as np

from victorian.config import cache_settings
from victorian.cores import cores
from victorian.corpus.book import Split
from victorian.errors import DataError, StorageError
from victorian.storage import Storage
from victorian.tokens.bpe import Tokens
from victorian.tokens.manifest import Manifest, ShardEntry
from victorian.tokens.shard_cache import ShardCache, check_digest
from victorian.tokens.shards import read_header

LEAST_AT_ONCE = 4
"""Shards that are fetched and verified at once, on however few cores: one stream rarely fills a network."""


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
        pieces = []
        for index in range(bisect_right(self.starts, start) - 1, len(self.shards)):
            first = self.starts[index]
            if first >= stop:
                break
            pieces.append(self.shards[index][max(0, start - first) : stop - first])
        return pieces[0] if len(pieces) == 1 else np.concatenate([*pieces, np.empty(0, np.uint16)])


def open_split(storage: Storage, manifest: Manifest, split: Split, cache: ShardCache | None = None) -> TokenStream:
    """The tokens of a split, its shards verified.

    Args:
        storage: where the data set lies.
        manifest: what it holds.
        split: which part of it.
        cache: keeps the shards of an object store; by default the one that the environment names.

    Raises:
        DataError: if the split is missing or empty, or a shard of it is missing or damaged.
        ConfigError: if the cache is too small for the split.
        StorageError: if a shard cannot be read, or the cache cannot be written.
    """
    entry = manifest.splits.get(split)
    if entry is None or not entry.tokens:
        raise DataError(f"{storage.uri} holds no {split} tokens")
    if entry.tokens != sum(shard.tokens for shard in entry.shards):
        raise DataError(f"{storage.uri} contradicts itself about the tokens of {split}; prepare it again")
    cache = _cache_for(storage, entry.shards, cache)
    with ThreadPoolExecutor(min(max(cores(), LEAST_AT_ONCE), len(entry.shards))) as pool:
        shards = tuple(pool.map(lambda shard: _map(storage, shard, cache), entry.shards))
    starts = accumulate((len(shard) for shard in shards[:-1]), initial=0)
    return TokenStream(shards, tuple(starts), entry.tokens)


def _cache_for(storage: Storage, shards: Sequence[ShardEntry], cache: ShardCache | None) -> ShardCache | None:
    """The cache if the data set needs one, with room for `shards`."""
    if storage.local_path(shards[0].name):
        return None
    if cache is None:
        settings = cache_settings()
        cache = ShardCache(settings.folder / "shards", settings.max_bytes)
    cache.require(shards)
    return cache


def _map(storage: Storage, shard: ShardEntry, cache: ShardCache | None) -> Tokens:
    """The tokens of one shard, verified and mapped; the mapping keeps the file in the cache."""
    place = f"{storage.uri}/{shard.name}"
    with cache.fetch(storage, shard) if cache else _open_local(storage, shard) as file:
        file.seek(0)
        try:
            shape, dtype = read_header(file)
            if dtype != np.uint16 or shape != (shard.tokens,):
                raise DataError(
                    f"{place} holds {dtype} {shape}, expected uint16 ({shard.tokens},); prepare the data set again"
                )
            # A plain array of it: every slice of a memmap would cost several times as much.
            return np.asarray(np.memmap(file, np.uint16, "r", offset=file.tell(), shape=shape))
        except DataError:
            raise
        except ValueError as error:
            raise DataError(f"{place} is no shard of tokens: {error}; prepare the data set again") from error


def _open_local(storage: Storage, shard: ShardEntry) -> BufferedReader:
    path, place = storage.local_path(shard.name), f"{storage.uri}/{shard.name}"
    assert isinstance(path, Path)
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise DataError(f"{place} is missing; prepare the data set again") from error
    except OSError as error:
        raise StorageError(f"cannot read {place}: {error.strerror or error}") from error
    with ExitStack() as stack:
        stack.enter_context(file)
        check_digest(file, shard, place)
        stack.pop_all()
    return file
