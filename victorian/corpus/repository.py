"""Which parquet files make up which split: of a repository on the Hugging Face hub, or of a folder laid out as one.

The `datasets` library decides, by a repository's card or by the names of its files, and reads nothing else of them.
It is imported where it is needed, since that takes a second.
"""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from victorian.corpus.book import SPLITS, Split
from victorian.corpus.versions import versions
from victorian.errors import CorpusError, VictorianError
from victorian.storage import Storage

HUB = "hf:"
"""What a source on the hub begins with."""
HUB_ROOT = "hf://datasets/"
PARQUET_COPY = "hf:emozilla/pg19"
CARD = "README.md"
SCRIPTS = {"deepmind/pg19"}
"""Repositories that hold a script: known, so that it can be said without asking the hub."""

CONNECT_SECONDS = 10
"""How long the hub may take to answer at all. What follows is retried by its own library, for a minute or so."""


@dataclass(frozen=True)
class SplitFile:
    """A parquet file of some split."""

    key: str
    split: Split
    version: str


def hub_files(source: str) -> tuple[str, list[SplitFile]]:
    """The root and the files of `hf:OWNER/NAME` or `hf:OWNER/NAME:SPLIT`, at the newest revision.

    Raises:
        CorpusError: if the hub cannot be reached, or has no such repository, or it holds no parquet files.
    """
    match = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)(?::(.*))?", source)
    if match is None or match[2] not in (None, *SPLITS):
        raise CorpusError(
            f"expected {HUB}OWNER/NAME or {HUB}OWNER/NAME:SPLIT with a split of {', '.join(SPLITS)}; got {source!r}"
        )
    name = match[1]
    if name in SCRIPTS:
        raise _script(name)
    with _library(source):
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()
        revision = HfApi().dataset_info(name, timeout=CONNECT_SECONDS).sha  # fails at once, where the rest would retry
        root = f"{HUB_ROOT}{name}@{revision}"
        splits = _resolve(source, f"{HUB_ROOT}{name}", f"{root}/", revision)
        wanted = {split: keys for split, keys in splits.items() if match[2] in (None, split)}
        keys = [key for of_split in wanted.values() for key in of_split]
        listed = HfApi().get_paths_info(name, keys, revision=revision, repo_type="dataset") if keys else []
        hashes = {
            file.path: file.lfs.sha256 if file.lfs else file.blob_id for file in listed if isinstance(file, RepoFile)
        }
        return root, _split_files(source, wanted, hashes)


def folder_files(storage: Storage) -> list[SplitFile]:
    """The files of a folder that is laid out as a repository is.

    Raises:
        CorpusError: if there are none, or the library finds no splits in their names.
    """
    names = [name for name in storage.names() if name.endswith(".parquet")]
    with tempfile.TemporaryDirectory() as folder, _library(storage.uri):
        # The library looks at names alone, and cannot look into object stores: it gets the names without the files.
        for name in names:
            if str(PurePosixPath("/", name))[1:] != name or ".." in PurePosixPath(name).parts:
                raise CorpusError(f"the name of {name!r} in {storage.uri} cannot be a file's: rename it")
            empty = Path(folder, name)
            empty.parent.mkdir(parents=True, exist_ok=True)
            empty.touch()
        if storage.exists(CARD):
            Path(folder, CARD).write_bytes(storage.read(CARD))
        splits = _resolve(storage.uri, folder, f"{Path(folder).resolve()}/")
        wanted = {key for keys in splits.values() for key in keys}
        parents = sorted({str(PurePosixPath(key).parent) for key in wanted})
        listed = (entry for parent in parents for entry in storage.entries("" if parent == "." else parent))
        entries = [entry for entry in listed if entry.key in wanted]
        found = dict(zip((entry.key for entry in entries), versions(storage, entries), strict=True))
    return _split_files(storage.uri, splits, found)


def _resolve(source: str, repository: str, root: str, revision: str | None = None) -> dict[str, list[str]]:
    """The parquet files of every split of a folder or of a repository on the hub, as keys below `root`."""
    import datasets  # type: ignore[import-untyped]

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as cache:
        builder = datasets.load_dataset_builder(repository, revision=revision, cache_dir=cache)
    files: dict[str, list[str]] = builder.config.data_files or {}
    splits: dict[str, list[str]] = {}
    for split, paths in files.items():
        for path in paths:
            if not path.startswith(root):
                raise CorpusError(f"the {CARD} of {source!r} points to {path}, which is no file of its own")
        keys = sorted(path.removeprefix(root) for path in paths if path.endswith(".parquet"))
        if keys:
            splits[str(split)] = keys
    return splits


def _split_files(source: str, splits: dict[str, list[str]], found: dict[str, str]) -> list[SplitFile]:
    if not splits:
        raise CorpusError(f"{source!r} holds no parquet files: expected some named by split, train-*.parquet the least")
    if strange := sorted(set(splits) - set(SPLITS)):
        raise CorpusError(f"{source!r} has a split {strange[0]!r}: expected {', '.join(SPLITS)}, or one of them chosen")
    files = [SplitFile(key, split, found[key]) for split in SPLITS for key in splits.get(split, [])]
    if strange := [file.key for file in files if not file.key.isprintable()]:
        raise CorpusError(f"the name of {strange[0]!r} in {source!r} is not plain text: rename the file")
    return files


def _script(name: str) -> CorpusError:
    return CorpusError(
        f"{HUB}{name} is a script, which the datasets library refuses since version 4: take a copy in parquet files, "
        f"such as {PARQUET_COPY}"
    )


@contextmanager
def _library(source: str) -> Iterator[None]:
    """Tells what the hub's libraries raise as an error about the source."""
    try:
        yield
    except VictorianError:
        raise
    except Exception as error:  # they raise a dozen kinds without a common one, down to those of their HTTP client
        if "scripts are no longer supported" in str(error):
            raise _script(source.removeprefix(HUB)) from error
        hint = "; check its name and the way to the Hugging Face hub" if source.startswith(HUB) else ""
        raise CorpusError(f"cannot find the files of {source!r}: {in_one_line(error)}{hint}") from error


def in_one_line(error: BaseException) -> str:
    """What a library has to say, as a part of a line of ours."""
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
