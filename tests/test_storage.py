"""Local storage: whole writes, conditional writes, verified reads."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from victorian.errors import StorageError
from victorian.storage import open_storage, read_verified, sha256


def test_a_blob_is_read_back_as_written(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    storage.write("a/b.bin", b"\x00\xff")
    assert storage.read("a/b.bin") == b"\x00\xff"
    assert storage.names() == ["a/b.bin"]
    assert storage.names("c") == []
    storage.delete("a/b.bin")
    assert not storage.exists("a/b.bin")
    storage.delete("a/b.bin")


def test_no_empty_folder_stays(tmp_path: Path) -> None:
    storage = open_storage(tmp_path / "root")
    for key in ("a/b/1", "a/b/2", "a/3"):
        storage.write(key, b"")
    storage.delete("a/b/1")
    assert storage.folders("a") == ["b"]
    storage.delete("a/b/2")
    assert storage.folders("a") == []
    storage.delete("a/3")
    storage.delete("a/3")
    assert storage.folders() == []
    assert (tmp_path / "root").is_dir()


def test_writers_and_listings_live_beside_deletes(tmp_path: Path) -> None:
    """What is emptied by one is written into by another at the same moment."""
    failed: list[BaseException] = []

    def work(name: str) -> None:
        storage = open_storage(tmp_path)
        try:
            for _ in range(300):
                storage.write(f"parts/deep/{name}", b"x")
                storage.names()
                storage.entries("parts/deep")
                storage.delete(f"parts/deep/{name}")
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    storage.write("taken", b"first")
    with pytest.raises(StorageError, match="exists already"):
        storage.write("taken", b"second", only_new=True)
    assert storage.read("taken") == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_of_two_writers_of_a_new_key_one_wins(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    outcomes: list[str] = []
    start = threading.Barrier(8)

    def write(text: str) -> None:
        start.wait()
        try:
            storage.write("manifest", text.encode() * 100_000, only_new=True)
            outcomes.append(text)
        except StorageError:
            outcomes.append("")

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "abcdefgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [text for text in outcomes if text]
    assert storage.read("manifest") == winner.encode() * 100_000


def test_a_reader_never_sees_part_of_a_write(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    storage.write("x", b"a" * 1_000_000)
    stop = threading.Event()
    seen: set[bytes] = set()

    def read() -> None:
        while not stop.is_set():
            data = storage.read("x")
            seen.add(data[:1] + data[-1:] + str(len(data)).encode())

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(20):
        storage.write("x", b"b" * 1_000_000)
        storage.write("x", b"a" * 1_000_000)
    stop.set()
    reader.join()
    assert seen <= {b"aa1000000", b"bb1000000"}


@pytest.mark.parametrize("key", ["../x", "/etc/passwd", "a/../../x", ""])
def test_keys_stay_below_the_root(tmp_path: Path, key: str) -> None:
    with pytest.raises(StorageError, match="expected a key below"):
        open_storage(tmp_path).read(key)


def test_a_changed_blob_is_named(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    storage.write("x", b"data")
    assert read_verified(storage, "x", sha256(b"data")) == b"data"
    with pytest.raises(StorageError, match="x is damaged"):
        read_verified(storage, "x", sha256(b"other"))


def test_other_schemes_are_refused_in_words() -> None:
    with pytest.raises(StorageError, match="expected a local folder, s3:// or gs://, got 'ftp://host'"):
        open_storage("ftp://host")


def test_a_folder_that_cannot_be_read_does_not_look_empty(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    storage = open_storage(tmp_path / "file")
    with pytest.raises(StorageError, match="cannot read"):
        storage.entries()
    assert open_storage(tmp_path / "absent").entries() == []


def test_a_full_disk_is_told_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: the system refuses the write in the same way."""
    code = f"""
import resource, signal
from victorian.errors import StorageError
from victorian.storage import open_storage
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
storage = open_storage({str(tmp_path)!r})
piece = b"x" * 60_000
for write in (lambda: storage.write("whole", piece * 3), lambda: storage.write_pieces("pieces", [piece] * 3)):
    try:
        write()
    except StorageError as error:
        print(error)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.partition(":")[0] for line in told] == [
        f"cannot write {tmp_path / 'whole'}",
        f"cannot write {tmp_path / 'pieces'}",
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        open_storage(tmp_path / "file").write("x", b"")
