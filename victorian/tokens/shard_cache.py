"""Shards of an object store, kept on this machine: each is fetched once, verified, and shared by all processes.

A file is named by its content, `SHA256.npy`, so equal shards of two data sets are one file. It has that name only once
it is whole and verified; until then it lies in a folder `SHA256.BYTES.fetching`, which reserves its bytes. Files and
reservations together never exceed the bound.

Three kinds of locks, all of which the system drops when a process dies:

- `SHA256.lock`, held while a shard is fetched, so that processes that ask for one at once fetch it once;
- `room.lock`, held while bytes are counted, reserved or given back;
- a shared lock on the shard itself, held by every open file and mapping of it: what is in use is never evicted.
"""

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from filelock import FileLock, Timeout

from victorian.config import make_private
from victorian.errors import ConfigError, DataError, StorageError, VictorianError
from victorian.storage import Storage, save_pieces
from victorian.tokens.manifest import ShardEntry
from victorian.tokens.shards import npy_pieces

FETCHING = re.compile(r"([0-9a-f]{64})\.([0-9]{1,18})\.fetching")
KEPT = re.compile(r"[0-9a-f]{64}\.npy")


@dataclass(frozen=True)
class _Kept:
    """A shard in the cache."""

    path: Path
    bytes: int
    used_ns: int
    """When it was last opened."""


class ShardCache:
    """A folder of shards that holds at most `max_bytes`; the least recently used make room for new ones."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes

    def require(self, shards: Sequence[ShardEntry]) -> None:
        """Make sure that all of `shards` can be held at once, beside those that are in use by anybody.

        Raises:
            ConfigError: with the bytes that are needed, if they cannot.
        """
        with _own_errors(f"use the cache {self.folder}"):
            wanted = {self._path(shard): shard_bytes(shard) for shard in shards}
            with self._room():
                kept, coming = self._kept(), self._coming()
                for file in kept:
                    if file.path in wanted:
                        os.utime(file.path)  # so that these are the last to be evicted for the others
                held = sum(file.bytes for file in kept if file.path not in wanted and _in_use(file.path))
                held += sum(size for path, size in coming.items() if path not in wanted)
        self._check(held + sum(wanted.values()))

    def fetch(self, storage: Storage, shard: ShardEntry) -> BufferedReader:
        """The shard as an open, verified file: from the cache, or from `storage` by way of it.

        It is not evicted while this file, or a mapping of it, is open.

        Raises:
            DataError: if the shard is missing in the store or is not what the manifest says.
            ConfigError: if it does not fit beside what is in use.
            StorageError: if the store cannot be read or the cache cannot be written.
        """
        with _own_errors(f"keep {storage.uri}/{shard.name} in the cache {self.folder}"):
            self._prepare_folder()
            kept = self._path(shard)
            file = _open(kept, shard)
            if file is None:
                with FileLock(kept.with_suffix(".lock")):
                    file = _open(kept, shard) or self._download(storage, shard)
            return file

    def _download(self, storage: Storage, shard: ShardEntry) -> BufferedReader:
        """Fetch a shard that is missing or damaged here. The caller holds its lock."""
        place = f"{storage.uri}/{shard.name}"
        if not storage.exists(shard.name):
            raise DataError(f"{place} is missing; prepare the data set again")
        kept, size = self._path(shard), shard_bytes(shard)
        arriving = self.folder / f"{shard.sha256}.{size}.fetching"
        with self._room():
            for left in self.folder.glob(f"{shard.sha256}.*.fetching"):
                shutil.rmtree(left)  # of a process that died
            kept.unlink(missing_ok=True)
            self._make_room(size)
            arriving.mkdir()
        try:
            with ExitStack() as stack:
                save_pieces(_at_most(size, storage.read_pieces(shard.name), place), arriving / kept.name)
                file = stack.enter_context((arriving / kept.name).open("rb"))
                fcntl.flock(file, fcntl.LOCK_SH)  # before it has its name, so that nobody evicts it first
                check_digest(file, shard, place)
                with self._room():
                    os.replace(arriving / kept.name, kept)
                    arriving.rmdir()
                stack.pop_all()
                return file
        finally:
            shutil.rmtree(arriving, ignore_errors=True)

    def _make_room(self, size: int) -> None:
        """Evict what was not used for longest until `size` more bytes fit. The caller holds the room."""
        kept = self._kept()
        needed = sum(file.bytes for file in kept) + sum(self._coming().values()) + size
        for file in kept:
            if needed <= self.max_bytes:
                break
            if _evict(file.path):
                needed -= file.bytes
        self._check(needed)

    def _check(self, needed: int) -> None:
        if needed > self.max_bytes:
            raise ConfigError(
                f"the shards in use need {needed} bytes and the cache {self.folder} may hold {self.max_bytes}: "
                f"set VICTORIAN_CACHE_BYTES to at least {needed}"
            )

    def _kept(self) -> list[_Kept]:
        """The shards that are here, the least recently used first. The caller holds the room."""
        files = [
            _Kept(Path(entry.path), entry.stat().st_size, entry.stat().st_mtime_ns)
            for entry in os.scandir(self.folder)
            if KEPT.fullmatch(entry.name)
        ]
        return sorted(files, key=lambda file: file.used_ns)

    def _coming(self) -> dict[Path, int]:
        """Bytes of the shards that are being fetched; removes what dead processes left. The caller holds the room."""
        coming = {}
        for entry in list(os.scandir(self.folder)):
            if found := FETCHING.fullmatch(entry.name):
                digest, size = found.groups()
                try:
                    with FileLock(self.folder / f"{digest}.lock", blocking=False):
                        if os.path.isdir(entry.path):  # it may have failed and been cleared a moment ago
                            shutil.rmtree(entry.path)
                except Timeout:
                    coming[self.folder / f"{digest}.npy"] = int(size)
        return coming

    def _path(self, shard: ShardEntry) -> Path:
        name = f"{shard.sha256}.npy"
        if not KEPT.fullmatch(name):  # it comes from a manifest, and becomes a path
            raise DataError(f"{shard.name} has no SHA-256 in its manifest, but {shard.sha256[:80]!r}; prepare it again")
        return self.folder / name

    @contextmanager
    def _room(self) -> Iterator[None]:
        self._prepare_folder()
        with FileLock(self.folder / "room.lock"):
            yield

    def _prepare_folder(self) -> None:
        make_private(self.folder)
        status = self.folder.stat()
        if status.st_uid != os.getuid():
            raise StorageError(f"{self.folder} belongs to another user: set VICTORIAN_CACHE to a folder of your own")
        if status.st_mode & 0o077:
            self.folder.chmod(0o700)


def shard_bytes(shard: ShardEntry) -> int:
    """Size of the file that a shard of so many tokens is."""
    return len(next(npy_pieces(shard.tokens, ()))) + 2 * shard.tokens


def check_digest(file: BufferedReader, shard: ShardEntry, place: str) -> None:
    """DataError naming `place` if the file does not hold what the manifest says of the shard."""
    file.seek(0)
    found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != shard.sha256:
        raise DataError(
            f"{place} is damaged: its SHA-256 begins with {found[:12]}, expected {shard.sha256[:12]}; "
            "prepare the data set again"
        )


def _at_most(size: int, pieces: Iterable[bytes], place: str) -> Iterator[bytes]:
    """The pieces of a file, so long as there are no more bytes of it than were reserved."""
    for piece in pieces:
        size -= len(piece)
        if size < 0:
            raise DataError(f"{place} is damaged: it is longer than its manifest says; prepare the data set again")
        yield piece


def _open(path: Path, shard: ShardEntry) -> BufferedReader | None:
    """A shard of the cache; None if it is not there, is being evicted, or is damaged."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb"))
            fcntl.flock(file, fcntl.LOCK_SH)
            if not os.fstat(file.fileno()).st_nlink:
                return None  # evicted between its opening and its locking
            check_digest(file, shard, str(path))
        except (FileNotFoundError, DataError):
            return None
        os.utime(file.fileno())
        stack.pop_all()
        return file


def _in_use(path: Path) -> bool:
    """Whether any process has a shard of the cache open."""
    with path.open("rb") as file:
        return not _is_free(file)


def _evict(path: Path) -> bool:
    """Remove a shard from the cache, unless it is in use."""
    with path.open("rb") as file:
        free = _is_free(file)
        if free:
            path.unlink()
        return free


def _is_free(file: BufferedReader) -> bool:
    """Whether nobody else holds a lock on an open file; nobody gets one then until it is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _own_errors(action: str) -> Iterator[None]:
    try:
        yield
    except VictorianError:
        raise
    except OSError as error:
        raise StorageError(f"cannot {action}: {error.strerror or error}") from error
