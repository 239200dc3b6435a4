"""Where a copy of a model may be written without spoiling what is there."""

from victorian.artifact import RECIPE, RECORD, read_record
from victorian.errors import ConfigError
from victorian.storage import open_storage

CARD = "README.md"


def check_place(uri: str, origin: str) -> None:
    """For a copy of the artifact at `origin`: where nothing is, or an earlier copy, with a card or hidden files.

    Raises:
        ConfigError: if `uri` is something else.
    """
    storage, ours = open_storage(uri), open_storage(origin)
    paths = [path.resolve() for one in (storage, ours) if (path := one.local_path(RECORD))]
    if storage.uri == ours.uri or (len(paths) == 2 and paths[0] == paths[1]):
        raise ConfigError(f"{uri} is the model that is to be copied: choose another --output")
    for above in _above(storage.uri):
        if open_storage(above).exists(RECIPE):  # it would be taken for the run's own
            raise ConfigError(f"{uri} lies in the run or the model {above}: choose another --output")
    there = {*storage.folders(), *(entry.key for entry in storage.entries())}
    others = sorted(name for name in there - {*read_record(origin).files, CARD} if not name.startswith("."))
    if RECORD not in there and others:
        raise ConfigError(f"{uri} holds other files ({others[0]}): choose an empty --output")


def _above(uri: str) -> list[str]:
    """The folder that holds this one, and the one that holds that."""
    scheme, mark, path = uri.rpartition("://")
    parts = path.split("/")
    return [f"{scheme}{mark}{'/'.join(parts[:-levels])}" for levels in (1, 2) if any(parts[:-levels])]
