"""Folders behind one small interface: whole writes, conditional writes, verified reads.

A `Storage` holds named blobs under one root. A blob is there whole or not at all: a reader never sees half of one,
and of two writers with `only_new` one wins. Local folders are the one kind there is so far; rooms above this one
use nothing but the interface.
"""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Protocol

from victorian.errors import StorageError


class Storage(Protocol):
    """Named blobs under one root. Keys are relative paths with forward slashes."""

    @property
    def uri(self) -> str:
        """The root, in the form that `open_storage` takes."""
        ...

    def read(self, key: str) -> bytes:
        """The whole blob; StorageError if it is not there."""
        ...

    def write(self, key: str, data: bytes, *, only_new: bool = False) -> None:
        """Put the whole blob in place at once; with `only_new`, StorageError if the key is taken."""
        ...

    def exists(self, key: str) -> bool: ...

    def names(self, prefix: str = "") -> list[str]:
        """Sorted keys that start with `prefix`."""
        ...

    def delete(self, key: str) -> None:
        """Remove a blob; nothing happens if it is not there."""
        ...

    def path(self, key: str) -> Path:
        """A local file that holds the blob, for memory mapping."""
        ...


class LocalStorage:
    """A folder of this machine, or one that is mounted on it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def uri(self) -> str:
        return str(self.root)

    def path(self, key: str) -> Path:
        parts = Path(key).parts
        if not parts or Path(key).is_absolute() or ".." in parts:
            raise StorageError(f"expected a key below {self.root}, got {key!r}")
        return self.root / key

    def read(self, key: str) -> bytes:
        try:
            return self.path(key).read_bytes()
        except OSError as error:
            raise StorageError(f"cannot read {self.path(key)}: {error.strerror or error}") from error

    def write(self, key: str, data: bytes, *, only_new: bool = False) -> None:
        target = self.path(key)
        temporary: str | None = None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(prefix=".writing-", dir=target.parent)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                os.fchmod(file.fileno(), 0o644)
            if only_new:
                os.link(temporary, target)  # fails where the name is taken, which a rename would not
            else:
                os.replace(temporary, target)
                temporary = None
        except OSError as error:
            if only_new and target.is_file():
                raise StorageError(f"{target} exists already") from error
            raise StorageError(f"cannot write {target}: {error.strerror or error}") from error
        finally:
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)

    def exists(self, key: str) -> bool:
        return self.path(key).is_file()

    def names(self, prefix: str = "") -> list[str]:
        files = (path for path in self.root.rglob("*") if path.is_file() and not path.name.startswith(".writing-"))
        return sorted(key for path in files if (key := path.relative_to(self.root).as_posix()).startswith(prefix))

    def delete(self, key: str) -> None:
        self.path(key).unlink(missing_ok=True)


def open_storage(uri: str | Path) -> Storage:
    """The storage at `uri`, a local folder that need not exist yet."""
    text = str(uri)
    if "://" in text:
        raise StorageError(f"expected a local folder, got {text!r}; other storage is not supported yet")
    if not text:
        raise StorageError("expected a folder, got an empty name")
    return LocalStorage(Path(text).expanduser().absolute())


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
