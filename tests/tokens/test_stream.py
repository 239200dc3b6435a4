"""Splits: read across the borders of shards, and refused where a shard is not what the manifest says."""

import io
from pathlib import Path

import numpy as np
import pytest

from tests.tokens.elsewhere import Elsewhere, make_split
from victorian.errors import ConfigError, DataError
from victorian.storage import open_storage, sha256
from victorian.tokens.manifest import Manifest, ShardEntry
from victorian.tokens.shard_cache import ShardCache
from victorian.tokens.shards import to_npy
from victorian.tokens.stream import TokenStream, open_split

SHARDS = (5_000, 5_000, 700)


@pytest.fixture
def data(tmp_path: Path) -> tuple[Path, Manifest]:
    return tmp_path / "data", make_split(tmp_path / "data", *SHARDS)


def with_first_shard(manifest: Manifest, **changes: object) -> Manifest:
    """A manifest that says something else about the first shard."""
    entry = manifest.splits["train"]
    first = ShardEntry.model_validate({**entry.shards[0].model_dump(), **changes})
    shards = (first, *entry.shards[1:])
    tokens = sum(shard.tokens for shard in shards)
    return manifest.model_copy(
        update={"splits": {"train": entry.model_copy(update={"shards": shards, "tokens": tokens})}}
    )


def test_every_range_is_that_of_the_whole() -> None:
    whole = np.arange(20, dtype=np.uint16)
    stream = TokenStream((whole[:7], whole[7:8], whole[8:]), (0, 7, 8), 20)
    for start in range(21):
        for stop in range(start, 21):
            assert np.array_equal(stream.read(start, stop), whole[start:stop]), (start, stop)


def test_a_local_data_set_is_mapped_where_it_lies(data: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, manifest = data
    monkeypatch.setenv("VICTORIAN_CACHE", "no folder, and none is needed")
    stream = open_split(open_storage(folder), manifest, "train")
    assert [len(shard) for shard in stream.shards] == list(SHARDS)
    assert (stream.starts, stream.length) == ((0, 5_000, 10_000), 10_700)
    for number, shard in enumerate(stream.shards):
        assert np.array_equal(shard, np.load(folder / f"train-0000{number}.npy"))
        assert not shard.flags.writeable
        assert not shard.flags.owndata


def test_elsewhere_it_is_the_same_by_way_of_the_cache(
    data: tuple[Path, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, manifest = data
    store = Elsewhere(open_storage(folder), tmp_path / "downloads")
    monkeypatch.setenv("VICTORIAN_CACHE", str(tmp_path / "cache"))
    local = open_split(open_storage(folder), manifest, "train")
    for _ in range(2):
        fetched = open_split(store, manifest, "train")
        assert np.array_equal(fetched.read(0, 10_700), local.read(0, 10_700))
        assert (fetched.starts, fetched.length) == (local.starts, local.length)
    assert sorted(store.downloads) == ["train-00000.npy", "train-00001.npy", "train-00002.npy"]
    assert len(list((tmp_path / "cache" / "shards").glob("*.npy"))) == 3


def test_a_split_that_the_cache_cannot_hold_is_refused_before_anything_is_fetched(
    data: tuple[Path, Manifest], tmp_path: Path
) -> None:
    folder, manifest = data
    store = Elsewhere(open_storage(folder), tmp_path / "downloads")
    with pytest.raises(ConfigError, match=r"need 21784 bytes .* VICTORIAN_CACHE_BYTES to at least 21784"):
        open_split(store, manifest, "train", ShardCache(tmp_path / "cache", 21_783))
    assert store.downloads == []


def test_a_split_keeps_its_shards_in_the_cache_as_long_as_it_lives(data: tuple[Path, Manifest], tmp_path: Path) -> None:
    folder, manifest = data
    other = make_split(tmp_path / "other", 5_000, seed=1)
    store = Elsewhere(open_storage(folder), tmp_path / "downloads")
    another = Elsewhere(open_storage(tmp_path / "other"), tmp_path / "downloads")
    cache = ShardCache(tmp_path / "cache", 22_000)
    stream = open_split(store, manifest, "train", cache)
    piece = stream.read(0, 10)
    with pytest.raises(ConfigError, match="to at least 31912"):
        open_split(another, other, "train", cache)
    del stream  # the piece alone is in use now, and with it the first shard
    open_split(another, other, "train", cache)
    assert (cache.folder / f"{manifest.splits['train'].shards[0].sha256}.npy").exists()
    assert piece.tolist() == np.load(folder / "train-00000.npy")[:10].tolist()


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_shard_that_is_damaged_or_missing_is_named(
    data: tuple[Path, Manifest], tmp_path: Path, elsewhere: bool
) -> None:
    folder, manifest = data
    local = open_storage(folder)
    storage = Elsewhere(local, tmp_path / "downloads") if elsewhere else local
    path = folder / "train-00001.npy"
    flipped = bytearray(path.read_bytes())
    flipped[-1] ^= 1
    for damage in (bytes(flipped), path.read_bytes()[:-2], b""):
        path.write_bytes(damage)
        with pytest.raises(DataError, match=r"data/train-00001\.npy is damaged.*prepare the data set again"):
            open_split(storage, manifest, "train", ShardCache(tmp_path / "cache", 10**6))
    path.unlink()
    with pytest.raises(DataError, match=r"data/train-00001\.npy is missing; prepare the data set again"):
        open_split(storage, manifest, "train", ShardCache(tmp_path / "cache", 10**6))


def npy(array: np.ndarray) -> bytes:  # type: ignore[type-arg]
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (npy(np.zeros(5_000, np.int32)), r"holds int32 \(5000,\), expected uint16 \(5000,\)"),
        (npy(np.zeros((50, 100), np.uint16)), r"holds uint16 \(50, 100\), expected uint16 \(5000,\)"),
        (to_npy(np.zeros(4_999, np.uint16)), r"holds uint16 \(4999,\), expected uint16 \(5000,\)"),
        (to_npy(np.zeros(5_000, np.uint16))[:-2], "is no shard of tokens"),
        (b"no numbers at all", "is no shard of tokens"),
    ],
)
def test_a_hash_that_fits_does_not_make_a_shard(data: tuple[Path, Manifest], content: bytes, told: str) -> None:
    folder, manifest = data
    (folder / "train-00000.npy").write_bytes(content)
    changed = with_first_shard(manifest, sha256=sha256(content))
    with pytest.raises(DataError, match=rf"train-00000\.npy {told}"):
        open_split(open_storage(folder), changed, "train")


def test_a_split_that_is_not_there_is_refused(data: tuple[Path, Manifest]) -> None:
    folder, manifest = data
    with pytest.raises(DataError, match="holds no test tokens"):
        open_split(open_storage(folder), manifest, "test")
    entry = manifest.splits["train"].model_copy(update={"tokens": 10_701})
    with pytest.raises(DataError, match="contradicts itself about the tokens of train"):
        open_split(open_storage(folder), manifest.model_copy(update={"splits": {"train": entry}}), "train")
