"""Object stores do what local folders do, and everything that goes wrong there is told in one line."""

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from botocore.client import Config

from tests.object_store import PUBLIC, ObjectStore
from victorian.errors import StorageError, TakenError
from victorian.s3 import PART_BYTES, BucketStorage, client_for, open_bucket
from victorian.storage import Storage, open_storage, read_verified, sha256

pytestmark = pytest.mark.s3


@pytest.fixture(scope="module")
def bucket(object_store: ObjectStore) -> str:
    return object_store.bucket("contract")


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, bucket: str) -> Storage:
    """An empty place of either kind."""
    return open_storage(tmp_path if request.param == "local" else f"{bucket}/{tmp_path.name}")


def test_what_was_written_is_read_and_listed(storage: Storage, tmp_path: Path) -> None:
    for key in ("b.txt", "a/c d.txt", "a/deeper/é.txt", "ab/x.txt"):
        storage.write(key, key.encode())
    assert storage.read("a/deeper/é.txt") == "a/deeper/é.txt".encode()
    assert storage.names() == ["a/c d.txt", "a/deeper/é.txt", "ab/x.txt", "b.txt"]
    assert storage.names("a/") == ["a/c d.txt", "a/deeper/é.txt"]
    assert [(entry.key, entry.size) for entry in storage.entries()] == [("b.txt", 5)]
    assert [entry.key for entry in storage.entries("a")] == ["a/c d.txt"]
    assert storage.entries("nowhere") == []
    assert storage.folders() == ["a", "ab"]
    assert storage.folders("a") == ["deeper"]
    storage.write("b.txt", b"again")
    assert storage.read("b.txt") == b"again"
    storage.download("b.txt", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"again"
    storage.delete("b.txt")
    storage.delete("b.txt")
    assert not storage.exists("b.txt")
    assert storage.exists("ab/x.txt")
    with pytest.raises(StorageError, match=r"cannot read .*b\.txt"):
        storage.read("b.txt")


def test_a_root_reopened_by_its_uri_is_the_same_place(storage: Storage) -> None:
    storage.write("x", b"1")
    assert open_storage(storage.uri).read("x") == b"1"


@pytest.mark.parametrize("key", ["../x", "/etc/passwd", "a/../../x", ""])
def test_keys_stay_below_the_root(storage: Storage, key: str) -> None:
    with pytest.raises(StorageError, match="expected a key below"):
        storage.write(key, b"")


def test_of_writers_that_race_for_a_new_key_one_wins(storage: Storage) -> None:
    start = threading.Barrier(8)
    won: list[bytes] = []

    def write(letter: bytes) -> None:
        start.wait()
        try:
            storage.write("manifest", letter * 200_000, only_new=True)
            won.append(letter)
        except TakenError:
            pass

    threads = [
        threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b", b"c", b"d", b"e", b"f", b"g", b"h")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert storage.read("manifest") == won[0] * 200_000


@pytest.mark.parametrize("size", [0, 10, PART_BYTES, 2 * PART_BYTES + 17])
def test_pieces_become_one_blob(storage: Storage, size: int) -> None:
    data = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    digest = storage.write_pieces("x.npy", (data[start : start + 3_000_000] for start in range(0, size, 3_000_000)))
    assert digest == sha256(data)
    assert read_verified(storage, "x.npy", digest) == data
    assert b"".join(storage.read_pieces("x.npy")) == data


def test_a_failing_piece_leaves_what_was_there(storage: Storage) -> None:
    storage.write("x.npy", b"old")

    def pieces() -> Iterator[bytes]:
        yield b"n" * (PART_BYTES + 1)
        yield b"n" * PART_BYTES
        raise StorageError("a part is damaged")

    with pytest.raises(StorageError, match="a part is damaged"):
        storage.write_pieces("x.npy", pieces())
    assert storage.names() == ["x.npy"]
    assert storage.read("x.npy") == b"old"
    if isinstance(storage, BucketStorage):
        assert not client_for(None).list_multipart_uploads(Bucket="contract").get("Uploads")


def test_a_reader_never_sees_part_of_a_write(storage: Storage) -> None:
    letters, size = (b"a", b"b"), 2 * PART_BYTES
    storage.write("x", letters[0] * size)
    stop = threading.Event()
    seen: set[tuple[bytes, bytes, int]] = set()

    def read() -> None:
        while not stop.is_set():
            data = storage.read("x")
            seen.add((data[:1], data[-1:], len(data)))

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(1, 5):
        storage.write_pieces("x", [letters[turn % 2] * PART_BYTES] * 2)
    stop.set()
    reader.join()
    assert seen
    assert seen <= {(letter, letter, size) for letter in letters}


def test_listings_go_on_past_a_page(bucket: str) -> None:
    storage = open_storage(f"{bucket}/many")
    names = [f"{number:04d}" for number in range(1_005)]
    for name in names:
        storage.write(name, b"")
    assert storage.names() == names
    assert len(storage.entries()) == len(names)


def test_versions_change_with_the_content(bucket: str) -> None:
    storage = open_storage(f"{bucket}/versions")
    versions = []
    for data in (b"one", b"two", b"one"):
        storage.write("x", data)
        versions.append(storage.entries()[0].version)
    assert versions[0] == versions[2] != versions[1]


def other_client(store: ObjectStore, **changed: str) -> BucketStorage:
    settings = {"key": store.key, "secret": store.secret, "endpoint": store.endpoint} | changed
    client = boto3.client(
        "s3",
        endpoint_url=settings["endpoint"],
        aws_access_key_id=settings["key"],
        aws_secret_access_key=settings["secret"],
        region_name="us-east-1",
        config=Config(retries={"total_max_attempts": 1}),
    )
    return BucketStorage(client, "s3", "contract", "x")


def test_wrong_credentials_are_told_without_naming_secrets(object_store: ObjectStore, bucket: str) -> None:
    for changed, told in [
        ({"key": "AKIDUNKNOWN"}, "the access key is not known there"),
        ({"secret": "0" * 32}, "the secret key is wrong"),
    ]:
        storage = other_client(object_store, **changed)
        for act in (lambda s=storage: s.read("x"), lambda s=storage: s.write("x", b""), lambda s=storage: s.names()):  # type: ignore[misc]
            with pytest.raises(StorageError, match=told) as caught:
                act()
            assert object_store.secret not in str(caught.value)
            assert "0" * 32 not in str(caught.value)


def test_a_bucket_that_is_not_there_is_told(object_store: ObjectStore) -> None:
    storage = open_storage(
        "s3://no-such-bucket/x"
    )  # (a write would be let in: this server makes buckets for its owner)
    for act in (
        lambda: storage.read("x"),
        lambda: storage.names(),
        lambda: storage.exists("x"),
        lambda: storage.entries(),
    ):
        with pytest.raises(StorageError, match=r"s3://no-such-bucket/x.*there is no such bucket"):
            act()


def test_a_store_that_does_not_answer_is_told_soon(object_store: ObjectStore, free_port) -> None:  # type: ignore[no-untyped-def]
    began = time.monotonic()
    with pytest.raises(StorageError, match=r"nothing answers at http://127\.0\.0\.1:\d+; check AWS_ENDPOINT_URL"):
        other_client(object_store, endpoint=f"http://127.0.0.1:{free_port()}").read("x")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("uri", ["s3://", "s3:///x", "gs://", "s3://b/../c"])
def test_a_uri_without_a_bucket_is_refused(uri: str) -> None:
    with pytest.raises(StorageError, match=r"expected \w+://BUCKET/PREFIX"):
        open_storage(uri)


def test_google_buckets_are_read_without_an_account_and_never_written(object_store: ObjectStore) -> None:
    own = open_storage(object_store.bucket(PUBLIC) + "/pg19")
    own.write("train/1.txt", b"A book.")
    google = open_bucket(f"gs://{PUBLIC}/pg19", google=object_store.endpoint)
    assert google.read("train/1.txt") == b"A book."
    assert google.folders() == ["train"]
    assert [entry.key for entry in google.entries("train")] == ["train/1.txt"]
    assert re.fullmatch(r"gs://\S+/pg19", google.uri)
    for act in (lambda: google.write("x", b""), lambda: google.write_pieces("x", [b""]), lambda: google.delete("x")):
        with pytest.raises(StorageError, match="gs:// is for reading alone"):
            act()
    with pytest.raises(StorageError, match="access is denied"):
        open_bucket("gs://contract", google=object_store.endpoint).names()
