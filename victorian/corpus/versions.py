"""What tells one state of a file from another: its SHA-256 where it is cheap to read, else its store's checksum."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from victorian.errors import CorpusError
from victorian.storage import Entry, Storage, sha256, sha256_file


def versions(storage: Storage, entries: Sequence[Entry]) -> list[str]:
    """The version of every file. Local files are read whole, several at once: hashing lets go of the interpreter."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda entry: _version(storage, entry), entries))


def _version(storage: Storage, entry: Entry) -> str:
    path = storage.local_path(entry.key)
    if path is None:
        return entry.version or sha256(storage.read(entry.key))
    try:
        return sha256_file(path)
    except OSError as error:
        raise CorpusError(f"cannot read {path}: {error.strerror or error}") from error
