"""A data set that is not on this machine: a storage whose files cannot be mapped, and that writes down each time."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from victorian.config import DataConfig, TokensConfig
from victorian.storage import Storage, open_storage, sha256
from victorian.tokens.manifest import EncodingEntry, Manifest, ShardEntry, SplitEntry, read_manifest
from victorian.tokens.shard_cache import ShardCache
from victorian.tokens.shards import shard_name, to_npy
from victorian.tokens.stream import open_split


class Elsewhere:
    """Another storage, seen from a machine that it does not lie on. Every download adds a line to a file."""

    def __init__(self, storage: Storage, log: Path, seconds: float = 0.0) -> None:
        self._storage = storage
        self._log = log
        self._seconds = seconds
        """What a download takes at least."""

    def __getattr__(self, name: str) -> object:
        return getattr(self._storage, name)

    def local_path(self, key: str) -> Path | None:
        return None

    def read_pieces(self, key: str) -> Iterator[bytes]:
        with self._log.open("a") as log:
            log.write(f"{key}\n")
        time.sleep(self._seconds)
        yield from self._storage.read_pieces(key)

    @property
    def downloads(self) -> list[str]:
        """Keys that were downloaded by any process, in order."""
        return self._log.read_text().splitlines() if self._log.exists() else []


class Dying(Elsewhere):
    """The connection, or this process, ends in the middle of a download."""

    def read_pieces(self, key: str) -> Iterator[bytes]:
        yield self._storage.read(key)[:9000]
        print("half", flush=True)
        time.sleep(self._seconds)  # until somebody kills it
        raise KeyboardInterrupt


def make_split(place: Path | str, *shards: int, seed: int = 0, split: str = "train") -> Manifest:
    """A data set of random tokens, a number of them a shard, and its manifest, which is not written."""
    random = np.random.default_rng(seed)
    entries = []
    for number, tokens in enumerate(shards):
        name = shard_name(split, number)  # type: ignore[arg-type]
        data = to_npy(random.integers(0, 65_536, tokens, dtype=np.uint16))
        open_storage(place).write(name, data)
        entries.append(ShardEntry(name=name, tokens=tokens, sha256=sha256(data)))
    return Manifest(
        encoding=EncodingEntry(ranks=512, sha256="0" * 64),
        data=DataConfig(tokens=TokensConfig(ranks=512, tokens_per_shard=max(1024, *shards))),
        cleaning_version=1,
        corpus_sha256="0" * 64,
        splits={split: SplitEntry(tokens=sum(shards), shards=tuple(entries), books=())},  # type: ignore[dict-item]
    )


def open_train(uri: str, cache: str, log: str, seconds: float, ready: str, others: int) -> str:
    """Open a data set's training split once so many other processes are about to; the SHA-256 of its tokens."""
    storage = Elsewhere(open_storage(uri), Path(log), seconds)
    manifest = read_manifest(storage)  # type: ignore[arg-type]
    (Path(ready) / str(os.getpid())).touch()
    while len(list(Path(ready).iterdir())) <= others:
        time.sleep(0.01)
    stream = open_split(storage, manifest, "train", ShardCache(Path(cache), 10**9))  # type: ignore[arg-type]
    return sha256(stream.read(0, stream.length).tobytes())
