"""The cache of shards: fetched once, verified, never larger than it may be, and nothing half-written is left."""

import multiprocessing
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

from tests.tokens.elsewhere import Dying, Elsewhere, make_split, open_train
from victorian.config import cache_settings
from victorian.errors import ConfigError, DataError, StorageError
from victorian.storage import open_storage, sha256, sha256_file
from victorian.tokens.manifest import ShardEntry, write_manifest
from victorian.tokens.shard_cache import ShardCache, shard_bytes
from victorian.tokens.stream import open_split

ROOT = Path(__file__).parents[2]
SIZE = 128 + 2 * 5_000
"""Bytes of a shard of 5,000 tokens."""


@pytest.fixture
def store(tmp_path: Path) -> Elsewhere:
    return Elsewhere(open_storage(tmp_path / "store"), tmp_path / "downloads")


def shards_in(store: Elsewhere, *tokens: int, seed: int = 0) -> tuple[ShardEntry, ...]:
    return make_split(store.uri, *tokens, seed=seed).splits["train"].shards


def kept(cache: ShardCache) -> set[str]:
    """What is in the cache beside its locks."""
    return {path.name for path in cache.folder.iterdir() if path.suffix != ".lock"} if cache.folder.exists() else set()


def named(*shards: ShardEntry) -> set[str]:
    return {f"{shard.sha256}.npy" for shard in shards}


def use(cache: ShardCache, store: Elsewhere, *shards: ShardEntry) -> None:
    for shard in shards:
        with cache.fetch(store, shard) as file:
            file.seek(0)
            assert file.read() == store.read(shard.name)


def test_a_shard_is_fetched_once_and_named_by_its_content(store: Elsewhere, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache", 10**6)
    (shard,) = shards_in(store, 5_000)
    use(cache, store, shard, shard)
    use(ShardCache(tmp_path / "cache", 10**6), store, shard)
    assert store.downloads == ["train-00000.npy"]
    assert kept(cache) == named(shard)
    assert sha256_file(cache.folder / f"{shard.sha256}.npy") == shard.sha256
    assert shard_bytes(shard) == SIZE == (cache.folder / f"{shard.sha256}.npy").stat().st_size


def test_equal_shards_of_two_data_sets_are_one_file(store: Elsewhere, tmp_path: Path) -> None:
    other = Elsewhere(open_storage(tmp_path / "other"), tmp_path / "other downloads")
    cache = ShardCache(tmp_path / "cache", SIZE)
    ours, theirs = shards_in(store, 5_000), shards_in(other, 5_000)
    cache.require([*ours, *theirs])
    use(cache, store, *ours)
    use(cache, other, *theirs)
    assert (store.downloads, other.downloads) == (["train-00000.npy"], [])


def test_nobody_else_may_read_the_cache(store: Elsewhere, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "cache"
    use(ShardCache(folder, 10**6), store, *shards_in(store, 5_000))
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    use(ShardCache(folder, 10**6), store, *shards_in(store, 5_000))
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_not_used(store: Elsewhere, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache", 10**6)
    cache.folder.mkdir()
    os.chown(cache.folder, 12_345, 12_345)
    with pytest.raises(StorageError, match="belongs to another user: set VICTORIAN_CACHE"):
        cache.fetch(store, shards_in(store, 5_000)[0])


def open_at_once(uri: str, work: Path) -> tuple[set[str], list[str]]:
    """Two processes of one machine open a data set: the SHA-256 of what they read, and the downloads of both."""
    (work / "ready").mkdir()
    arguments = (uri, str(work / "cache"), str(work / "log"), 0.5, str(work / "ready"), 1)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        digests = {run.result() for run in [pool.submit(open_train, *arguments) for _ in range(2)]}
    return digests, sorted((work / "log").read_text().split())


def test_processes_that_ask_at_once_fetch_each_shard_once(tmp_path: Path) -> None:
    storage = open_storage(tmp_path / "store")
    manifest = make_split(storage.uri, 5_000, 5_000, 700)
    write_manifest(storage, manifest)
    digests, downloads = open_at_once(storage.uri, tmp_path)
    stream = open_split(storage, manifest, "train")
    assert digests == {sha256(stream.read(0, stream.length).tobytes())}
    assert downloads == ["train-00000.npy", "train-00001.npy", "train-00002.npy"]


@pytest.mark.s3
def test_shards_in_s3_are_fetched_once_a_node_and_refused_when_altered(object_store, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    uri = f"{object_store.bucket('reading')}/data"
    local, storage = open_storage(tmp_path / "data"), open_storage(uri)
    manifest = make_split(local.uri, 500_000, 500_000, 700)
    for shard in manifest.splits["train"].shards:
        storage.write(shard.name, local.read(shard.name))
    write_manifest(storage, manifest)
    digests, downloads = open_at_once(uri, tmp_path)
    stream = open_split(local, manifest, "train")
    assert digests == {sha256(stream.read(0, stream.length).tobytes())}
    assert downloads == ["train-00000.npy", "train-00001.npy", "train-00002.npy"]

    data = storage.read("train-00001.npy")
    storage.write("train-00001.npy", data[:-1] + bytes([data[-1] ^ 1]))
    fresh = ShardCache(tmp_path / "fresh", 10**7)
    with pytest.raises(DataError, match=r"data/train-00001\.npy is damaged.*prepare the data set again"):
        open_split(storage, manifest, "train", fresh)
    assert kept(fresh) <= named(*manifest.splits["train"].shards[::2])


def test_a_download_that_breaks_off_leaves_nothing(store: Elsewhere, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache", SIZE)
    (shard,) = shards_in(store, 5_000)
    with pytest.raises(KeyboardInterrupt):
        cache.fetch(Dying(store, tmp_path / "x"), shard)
    assert kept(cache) == set()
    use(cache, store, shard)


def test_what_a_killed_process_had_fetched_is_cleared_and_never_used(store: Elsewhere, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache", SIZE)
    first, second = shards_in(store, 5_000, 5_000)
    script = f"""
from pathlib import Path
from tests.tokens.elsewhere import *
shard = ShardEntry.model_validate_json({first.model_dump_json()!r})
store = Dying(open_storage({store.uri!r}), Path("/dev/null"), 60)
ShardCache(Path({str(cache.folder)!r}), {SIZE}).fetch(store, shard)
"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "half\n"
            with pytest.raises(ConfigError):  # its bytes are reserved while it lives
                cache.require([second])
        finally:
            process.kill()
    assert kept(cache) == {f"{first.sha256}.{SIZE}.fetching"}
    use(cache, store, second)
    assert kept(cache) == named(second)
    use(cache, store, first)
    assert kept(cache) == named(first)


def test_a_file_that_was_damaged_in_the_cache_is_fetched_again(store: Elsewhere, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache", SIZE)
    (shard,) = shards_in(store, 5_000)
    use(cache, store, shard)
    path = cache.folder / f"{shard.sha256}.npy"
    for damaged in (path.read_bytes()[:-1], b"", path.read_bytes()[:-1] + b"\x00"):
        path.write_bytes(damaged)
        use(cache, store, shard)
    assert len(store.downloads) == 4


def test_a_shard_that_is_damaged_or_missing_in_the_store_is_named(store: Elsewhere, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache", 10**6)
    (shard,) = shards_in(store, 5_000)
    data = store.read(shard.name)
    store.write(shard.name, data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(DataError, match=r"store/train-00000\.npy is damaged.*prepare the data set again"):
        cache.fetch(store, shard)
    store.write(shard.name, data * 2)
    with pytest.raises(DataError, match=r"store/train-00000\.npy is damaged: it is longer than its manifest says"):
        cache.fetch(store, shard)
    store.delete(shard.name)
    with pytest.raises(DataError, match=r"store/train-00000\.npy is missing; prepare the data set again"):
        cache.fetch(store, shard)
    assert kept(cache) == set()


def test_a_manifest_cannot_choose_where_files_go(store: Elsewhere, tmp_path: Path) -> None:
    (shard,) = shards_in(store, 5_000)
    evil = shard.model_copy(update={"sha256": f"{tmp_path}/elsewhere"})
    for act in (lambda cache: cache.fetch(store, evil), lambda cache: cache.require([evil])):
        with pytest.raises(DataError, match=r"train-00000\.npy has no SHA-256"):
            act(ShardCache(tmp_path / "cache", 10**6))
    assert store.downloads == []


def test_the_least_recently_used_make_room(store: Elsewhere, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache", 3 * SIZE)
    a, b, c, d = shards_in(store, *[5_000] * 4)
    use(cache, store, a, b, c)
    for age, shard in enumerate((c, b, a)):
        os.utime(cache.folder / f"{shard.sha256}.npy", (10**9 - age,) * 2)
    (cache.folder / "of somebody else.npy").write_bytes(b"0" * SIZE)
    use(cache, store, a, d)  # a was the oldest until now
    assert kept(cache) == {*named(a, c, d), "of somebody else.npy"}


def test_shards_of_the_split_that_is_opened_go_last(store: Elsewhere, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache", 2 * SIZE)
    a, b, c = shards_in(store, *[5_000] * 3)
    use(cache, store, a, b)
    for age, shard in enumerate((b, a)):
        os.utime(cache.folder / f"{shard.sha256}.npy", (10**9 - age,) * 2)
    cache.require([c, a])
    use(cache, store, c)
    assert kept(cache) == named(a, c)


def test_what_is_in_use_is_never_evicted(store: Elsewhere, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache", 2 * SIZE)
    a, b, c, d = shards_in(store, *[5_000] * 4)
    with cache.fetch(store, a):
        use(cache, store, b, c)
        assert kept(cache) == named(a, c)
        with cache.fetch(store, c):
            with pytest.raises(ConfigError, match=rf"need {3 * SIZE} bytes and .* may hold {2 * SIZE}"):
                cache.fetch(store, d)
            assert kept(cache) == named(a, c)
    use(cache, store, d)
    assert len(kept(cache)) == 2


def test_a_split_that_does_not_fit_is_refused_with_the_number_that_would_do(store: Elsewhere, tmp_path: Path) -> None:
    shards = shards_in(store, 5_000, 5_000, 700)
    needed = sum(map(shard_bytes, shards))
    cache = ShardCache(tmp_path / "cache", needed - 1)
    with pytest.raises(ConfigError, match=f"set VICTORIAN_CACHE_BYTES to at least {needed}"):
        cache.require(shards)
    assert store.downloads == []
    enough = ShardCache(tmp_path / "cache", needed)
    enough.require(shards)
    use(enough, store, *shards)
    assert kept(enough) == named(*shards)


def test_what_others_use_counts_beside_a_split(store: Elsewhere, tmp_path: Path) -> None:
    a, b, c = shards_in(store, 5_000, 5_000, 700)
    cache = ShardCache(tmp_path / "cache", 2 * SIZE)
    use(cache, store, c)
    with cache.fetch(store, a):
        cache.require([a, b])
        with pytest.raises(ConfigError, match=f"set VICTORIAN_CACHE_BYTES to at least {2 * SIZE + shard_bytes(c)}"):
            cache.require([b, c])
    cache.require([b, c])


def test_the_bound_holds_at_every_moment_of_many_fetches(store: Elsewhere, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache", 3 * SIZE)
    shards = shards_in(store, *[5_000] * 6)
    cache.require(shards[:1])
    largest = 0
    done = threading.Event()

    def look() -> None:
        nonlocal largest
        while not done.is_set():
            with FileLock(cache.folder / "room.lock"):  # while it is held, nothing comes or goes
                largest = max(largest, sum(path.stat().st_size for path in cache.folder.rglob("*.npy")))

    watch = threading.Thread(target=look)
    watch.start()
    try:
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda shard: use(cache, store, shard), shards * 5))
    finally:
        done.set()
        watch.join()
    assert 2 * SIZE < largest <= 3 * SIZE


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Writing more to a file fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_is_named_and_nothing_is_left(store: Elsewhere, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache", 10**6)
    (shard,) = shards_in(store, 5_000)
    with files_of_at_most(4_096), pytest.raises(StorageError, match=rf"{shard.sha256}.*[Ff]ile too large"):
        cache.fetch(store, shard)
    assert kept(cache) == set()
    use(cache, store, shard)


def test_a_folder_that_cannot_be_made_is_named(store: Elsewhere, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"train-00000\.npy in the cache .*/file/cache: Not a directory"):
        ShardCache(tmp_path / "file" / "cache", 10**6).fetch(store, shards_in(store, 5_000)[0])


def test_the_environment_says_where_and_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VICTORIAN_CACHE", raising=False)
    monkeypatch.delenv("VICTORIAN_CACHE_BYTES", raising=False)
    settings = cache_settings()
    assert (settings.folder, settings.max_bytes) == (Path.home() / ".cache/victorian", 64 * 2**30)
    monkeypatch.setenv("VICTORIAN_CACHE", "/fast/disk")
    monkeypatch.setenv("VICTORIAN_CACHE_BYTES", "1000")
    settings = cache_settings()
    assert (settings.folder, settings.max_bytes) == (Path("/fast/disk"), 1000)
    monkeypatch.setenv("VICTORIAN_CACHE", "cache")
    with pytest.raises(ConfigError, match="expected an absolute folder in VICTORIAN_CACHE, got 'cache'"):
        cache_settings()
    monkeypatch.delenv("VICTORIAN_CACHE")
    for bad in ("64GB", "0", "-1", "1.5", "9" * 30):
        monkeypatch.setenv("VICTORIAN_CACHE_BYTES", bad)
        with pytest.raises(ConfigError, match=f"number of bytes in VICTORIAN_CACHE_BYTES.*'{bad}'"):
            cache_settings()
