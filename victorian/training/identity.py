"""What a run is of: a recipe, a data set that fits it, and a folder that is this run's, and one process's at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from filelock import FileLock, Timeout

from victorian.artifact import RECIPE, RECORD
from victorian.config import Recipe, differences, read_recipe
from victorian.errors import DataError, TrainingError
from victorian.storage import Storage
from victorian.tokens.manifest import MANIFEST, Manifest, verify
from victorian.training.checkpoint import STATE
from victorian.training.divergence import LEFT_OUT
from victorian.training.monitors import METRICS

DATA = "data.sha256"
BEGINNING = "begun-from.sha256"
LOCK = ".lock"
"""File that the process which trains has locked. It stays: to remove it would let two in at once."""


@dataclass(frozen=True)
class Identity:
    """What a run is of, and what cannot change once a step was taken."""

    recipe: Recipe
    data: str
    """Hash of the data set's manifest."""
    beginning: str
    """What identifies the weights that it begins with."""

    def write(self, run: Storage) -> None:
        """Declare a folder this run's."""
        run.write(RECIPE, self.recipe.model_dump_json(indent=1).encode())
        run.write(DATA, self.data.encode())
        run.write(BEGINNING, self.beginning.encode())

    def check(self, run: Storage, name: str) -> None:
        """TrainingError if a folder holds anything else; a run that did not come to its first step is nothing yet.

        Args:
            name: of the folder, as the user has it.
        """
        if run.exists(MANIFEST):
            raise TrainingError(f"{name} holds a token data set: give the run a folder of its own")
        if not _has_begun(run):
            return
        others = {DATA: (self.data, "on other data"), BEGINNING: (self.beginning, "that began with other weights")}
        for key, (ours, what) in others.items():
            if run.exists(key) and run.read(key).decode() != ours:
                raise TrainingError(f"{name} holds a run {what}: give this one another name")
        if not run.exists(RECIPE):
            return
        before = read_recipe(run.read(RECIPE), f"{name}/{RECIPE}")
        if changed := differences(self.recipe, before):
            raise TrainingError(
                f"{name} holds a run of another recipe ({'; '.join(changed)}): give this one another name"
            )


@contextmanager
def taken(run: Storage, name: str) -> Iterator[None]:
    """Have a local folder for this process alone: of two, each would overwrite what the other has learnt.

    A process that dies lets go of it. An object store, and a disk that knows no locks, cannot tell.

    Raises:
        TrainingError: if another process has it.
    """
    path = run.local_path(LOCK)
    if path is None:
        yield
        return
    lock = FileLock(path, fallback_to_soft=False)  # a file alone would outlive a process that died
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise TrainingError(
            f"{name} is being trained by another process: wait for it, or give this one another name"
        ) from error
    except (OSError, NotImplementedError):
        pass  # a disk without locks keeps nobody out; one that cannot be written is told of by the first who must
    try:
        yield
    finally:
        lock.release()


def check_data(recipe: Recipe, storage: Storage, manifest: Manifest) -> None:
    """Whether a recipe can be trained on a data set.

    Raises:
        TrainingError: if the data set is of another encoding.
        DataError: if a split is shorter than one window, or a local shard is damaged.
    """
    if manifest.encoding.ranks != recipe.tokens.ranks:
        raise TrainingError(
            f"{storage.uri} holds tokens of the first {manifest.encoding.ranks} ranks, the recipe {recipe.name} wants "
            f"{recipe.tokens.ranks}: prepare the corpus for this recipe, or give --tokens.ranks"
        )
    for split in ("train", "validation"):
        entry = manifest.splits.get(split)
        if entry and entry.tokens <= recipe.model.context:
            raise DataError(
                f"{storage.uri} holds {entry.tokens} {split} tokens, fewer than one window of "
                f"{recipe.model.context + 1}: use more text, or a shorter --model.context"
            )
    if storage.local_path(MANIFEST):  # shards of a bucket are verified by each node, when it has fetched them
        verify(storage, manifest)


def _has_begun(run: Storage) -> bool:
    """Whether a step was taken, or a batch left out: its record, a checkpoint or a model is there."""
    if run.exists(LEFT_OUT) or any(entry.key == METRICS and entry.size for entry in run.entries()):
        return True
    return any(key.rpartition("/")[2] in (STATE, RECORD) for key in run.names())
