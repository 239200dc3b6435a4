"""Folders behind one small interface: whole writes, conditional writes, verified reads.

A `Storage` holds named blobs under one root. A blob is there whole or not at all: a reader never sees half of one,
and of two writers with `only_new` one wins. Rooms above this one use nothing but the interface; local folders are
here, object stores in `s3.py`.
"""

import contextlib
import errno
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from victorian.errors import StorageError, TakenError

PIECE_BYTES = 4 * 1024 * 1024
"""What is read at once where a blob is not needed whole."""


@dataclass(frozen=True)
class Entry:
    """A blob, as a listing tells of it."""

    key: str
    size: int
    """Bytes."""
    version: str | None
    """An object store's checksum of the content; None where the store keeps none."""


class Storage(Protocol):
    """Named blobs under one root. Keys are relative paths with forward slashes."""

    @property
    def uri(self) -> str:
        """The root, in the form that `open_storage` takes."""
        ...

    def read(self, key: str) -> bytes:
        """The whole blob; StorageError if it is not there."""
        ...

    def read_pieces(self, key: str) -> Iterator[bytes]:
        """The blob a few MiB at a time; StorageError if it is not there, or cannot be read to its end."""
        ...

    def write(self, key: str, data: bytes, *, only_new: bool = False) -> None:
        """Put the whole blob in place at once; with `only_new`, TakenError if the key is taken."""
        ...

    def write_pieces(self, key: str, pieces: Iterable[bytes]) -> str:
        """Put a blob in place at once when its last piece is there; nothing of it if a piece fails.

        Returns:
            The SHA-256 of the whole.
        """
        ...

    def exists(self, key: str) -> bool: ...

    def names(self, prefix: str = "") -> list[str]:
        """Sorted keys that start with `prefix`, at any depth."""
        ...

    def entries(self, folder: str = "") -> list[Entry]:
        """Blobs directly in a folder, sorted by key; none if it is not there."""
        ...

    def folders(self, folder: str = "") -> list[str]:
        """Sorted names of the folders directly in a folder."""
        ...

    def delete(self, key: str) -> None:
        """Remove a blob; nothing happens if it is not there."""
        ...

    def local_path(self, key: str) -> Path | None:
        """The local file that holds the blob, for memory mapping; None where there is none."""
        ...

    def download(self, key: str, target: Path) -> None:
        """Copy the blob into a local file, a piece at a time."""
        ...


class LocalStorage:
    """A folder of this machine, or one that is mounted on it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def uri(self) -> str:
        return str(self.root)

    def local_path(self, key: str) -> Path:
        check_key(key, self.uri)
        return self.root / key

    def read(self, key: str) -> bytes:
        try:
            return self.local_path(key).read_bytes()
        except OSError as error:
            raise _cannot("read", self.local_path(key), error) from error

    def read_pieces(self, key: str) -> Iterator[bytes]:
        path = self.local_path(key)
        try:
            with path.open("rb") as file:
                while piece := file.read(PIECE_BYTES):
                    yield piece
        except OSError as error:
            raise _cannot("read", path, error) from error

    def write(self, key: str, data: bytes, *, only_new: bool = False) -> None:
        self._write(key, [data], only_new)

    def write_pieces(self, key: str, pieces: Iterable[bytes]) -> str:
        return self._write(key, pieces, only_new=False)

    def _write(self, key: str, pieces: Iterable[bytes], only_new: bool) -> str:
        target = self.local_path(key)
        temporary: str | None = None
        digest = hashlib.sha256()
        try:
            descriptor, temporary = _new_file_beside(target)
            with os.fdopen(descriptor, "wb") as file:
                for piece in pieces:
                    file.write(piece)
                    digest.update(piece)
                file.flush()
                os.fsync(file.fileno())
                os.fchmod(file.fileno(), 0o644)
            if only_new:
                os.link(temporary, target)  # fails where the name is taken, which a rename would not
            else:
                os.replace(temporary, target)
                temporary = None
        except StorageError:
            raise  # of a piece that could not be read
        except OSError as error:
            if only_new and isinstance(error, FileExistsError) and target.is_file():
                raise TakenError(f"{target} exists already") from error
            raise _cannot("write", target, error) from error
        finally:
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)
        return digest.hexdigest()

    def exists(self, key: str) -> bool:
        return self.local_path(key).is_file()

    def names(self, prefix: str = "") -> list[str]:
        found = []

        def refuse(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):  # a folder that went while the others were read
                raise _cannot("read", Path(error.filename), error) from error

        if self.root.is_dir():
            for folder, _, files in os.walk(self.root, onerror=refuse):
                below = Path(folder).relative_to(self.root)
                found += [(below / name).as_posix() for name in files if not _is_unfinished(name)]
        return sorted(key for key in found if key.startswith(prefix))

    def entries(self, folder: str = "") -> list[Entry]:
        found = []
        for item in self._scan(folder):
            if item.is_file() and not _is_unfinished(item.name):
                with contextlib.suppress(FileNotFoundError):  # it went while the folder was read
                    found.append(Entry(f"{folder}/{item.name}" if folder else item.name, item.stat().st_size, None))
        return sorted(found, key=lambda entry: entry.key)

    def folders(self, folder: str = "") -> list[str]:
        return sorted(item.name for item in self._scan(folder) if item.is_dir())

    def _scan(self, folder: str) -> list[os.DirEntry[str]]:
        path = self.local_path(folder) if folder else self.root
        try:
            with os.scandir(path) as items:
                return list(items)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _cannot("read", path, error) from error

    def delete(self, key: str) -> None:
        try:
            path = self.local_path(key)
            path.unlink(missing_ok=True)
            for folder in path.parents:  # an object store has no empty folders either
                if folder == self.root or not folder.is_relative_to(self.root):
                    break
                folder.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return
            raise _cannot("delete", self.local_path(key), error) from error

    def download(self, key: str, target: Path) -> None:
        save_pieces(self.read_pieces(key), target)


def open_storage(uri: str | Path) -> Storage:
    """The storage at `uri`: a local folder, which need not exist yet, `s3://bucket/prefix`, or `gs://bucket/prefix`.

    Raises:
        StorageError: if it is none of these.
    """
    text = str(uri)
    scheme, separator, _ = text.partition("://")
    if separator and scheme in ("s3", "gs"):
        from victorian.s3 import open_bucket  # boto3 takes a second to import

        return open_bucket(text)
    if separator:
        raise StorageError(f"expected a local folder, s3:// or gs://, got {text!r}")
    if not text:
        raise StorageError("expected a folder, got an empty name")
    return LocalStorage(Path(text).expanduser().absolute())


def check_key(key: str, uri: str) -> None:
    """StorageError for a key that is not a plain relative path."""
    if not key or key.startswith("/") or ".." in key.split("/"):
        raise StorageError(f"expected a key below {uri}, got {key!r}")


def save_pieces(pieces: Iterator[bytes], target: Path) -> None:
    """Write pieces into a local file; StorageError naming it if they do not fit, and then nothing is left of it."""
    try:
        with target.open("wb") as file:
            for piece in pieces:
                file.write(piece)
    except BaseException as error:
        target.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, StorageError):
            raise _cannot("write", target, error) from error
        raise


def sha256(data: bytes | memoryview) -> str:
    """The hexadecimal SHA-256 of some bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """The hexadecimal SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_verified(storage: Storage, key: str, digest: str) -> bytes:
    """The blob, after its SHA-256 was found equal to `digest`; StorageError naming the file if it is not."""
    data = storage.read(key)
    if (found := sha256(data)) != digest:
        raise StorageError(
            f"{storage.uri}/{key} is damaged: its SHA-256 begins with {found[:12]}, expected {digest[:12]}; "
            "make it again from its source"
        )
    return data


def _new_file_beside(target: Path) -> tuple[int, str]:
    """An open file in the folder of `target`, which is made; again where another's `delete` has just emptied it."""
    for attempt in range(100):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            return tempfile.mkstemp(prefix=".writing-", dir=target.parent)
        except (FileNotFoundError, FileExistsError):  # mkdir says the latter of a folder that went as it looked
            if attempt == 99 or target.parent.is_file():
                raise
    raise AssertionError("the last attempt returns or raises")


def _is_unfinished(name: str) -> bool:
    return name.startswith(".writing-")


def _cannot(action: str, path: Path, error: OSError) -> StorageError:
    return StorageError(f"cannot {action} {path}: {error.strerror or error}")
