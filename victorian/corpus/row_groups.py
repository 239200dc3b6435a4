"""Row groups that were decoded, kept for all processes of a machine: their texts side by side, a file for each.

To read one book of PG19's parquet files, a process fetches and decodes the row group around it, hundreds of megabytes.
Units of work take it ten books at a time, in any process: the first to need a row group decodes it for all.
"""

import os
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import time
from typing import BinaryIO

from filelock import FileLock

from victorian.config import cache_settings, make_private
from victorian.errors import CorpusError, StorageError, VictorianError
from victorian.storage import sha256

FOLDER = "row-groups"
MOST_BYTES = 4 * 2**30
"""Kept at most, or less in a smaller cache: the work goes through a corpus in order and does not come back."""
WRITING = ".writing-"
LOCK = ".lock-"
LEFT_OVER_SECONDS = 3600
"""Age at which a half-written file is one that a killed process left."""

NO_TEXT = -1
"""Stands for the length of a null."""

Decode = Callable[[], Iterator[bytes | None]]


def kept_texts(name: str, count: int, decode: Decode, rows: Sequence[int]) -> Iterator[bytes | None]:
    """Some texts of a row group, which is decoded if no process here has done so lately.

    Args:
        name: which row group of which version of a file.
        count: rows that it has.
        decode: gives all its texts, in order.
        rows: which of them to give, in any order.
    """
    with _open(name, count, decode) as file:
        index = _index(file, count)
        assert index is not None
        for row in rows:
            start, length, checksum = index[3 * row : 3 * row + 3]
            if length == NO_TEXT:
                yield None
                continue
            file.seek(start)
            text = file.read(length)
            if zlib.crc32(text) != checksum:
                Path(file.name).unlink(missing_ok=True)
                raise CorpusError(f"{file.name}, a copy of texts of {name}, was damaged and is removed: run again")
            yield text


def _open(name: str, count: int, decode: Decode) -> BinaryIO:
    """The file of a row group. It may be cleared away at any moment; who has it open can go on reading."""
    settings = cache_settings()
    folder = settings.folder / FOLDER
    path = folder / sha256(name.encode())
    try:
        make_private(folder)
        # The names share some locks, so that there are none to clear away.
        with FileLock(folder / f"{LOCK}{path.name[:2]}"):
            file = _open_whole(path, count)
            if file is None:
                _make_room(folder, min(settings.max_bytes, MOST_BYTES))
                file = _write(path, decode)
        return file
    except VictorianError:
        raise
    except OSError as error:
        raise StorageError(
            f"cannot keep texts in {folder}: {error.strerror or error}; "
            "make room there, or set VICTORIAN_CACHE to another folder"
        ) from error


def _open_whole(path: Path, count: int) -> BinaryIO | None:
    """The file if it is there and as long as its index says; it then counts as just used."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    if _index(file, count) is None:
        file.close()
        return None
    os.utime(file.fileno())
    return file


def _index(file: BinaryIO, count: int) -> "array[int] | None":
    """Start, length and checksum of every text, from the end of the file; None if they do not fit the file."""
    index = array("q")
    texts = os.fstat(file.fileno()).st_size - 3 * count * index.itemsize
    if texts < 0:
        return None
    file.seek(texts)
    index.frombytes(file.read())
    return index if sum(length for length in index[1::3] if length != NO_TEXT) == texts else None


def _write(path: Path, decode: Decode) -> BinaryIO:
    temporary = path.with_name(WRITING + path.name)
    file = temporary.open("w+b")
    try:
        index = array("q")
        for text in decode():
            index.extend((file.tell(), NO_TEXT if text is None else len(text), zlib.crc32(text or b"")))
            file.write(text or b"")
        file.write(index.tobytes())
        file.flush()
        os.replace(temporary, path)
    except BaseException:
        file.close()
        temporary.unlink(missing_ok=True)
        raise
    return file


def _make_room(folder: Path, most_bytes: int) -> None:
    """Remove what killed processes left, and row groups that were not used for longest, until few enough are left."""
    kept: list[tuple[float, int, Path]] = []
    for path in folder.iterdir():
        if path.name.startswith(LOCK):
            continue
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        if not path.name.startswith(WRITING):
            kept.append((status.st_mtime, status.st_size, path))
        elif time() - status.st_mtime > LEFT_OVER_SECONDS:
            path.unlink(missing_ok=True)
    total = sum(size for _, size, _ in kept)
    for _, size, path in sorted(kept):
        if total <= most_bytes:
            break
        path.unlink(missing_ok=True)
        total -= size
