"""The records of a corpus: where a book lies, and the book itself."""

from typing import Literal

from victorian.config import Section

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class BookReference(Section):
    """A book that has been found but not read: everything needed to plan the work and to read it anywhere."""

    id: str
    """Unique within a corpus: the file's name without its ending."""
    split: Split
    title: str
    author: str
    year: int | None
    """Year of first publication, if known."""
    root: str
    """Where the corpus lies: a folder or a URI, as `open_storage` takes it."""
    key: str
    """The text's file below the root."""
    row: int | None = None
    """Row of the file, where one file holds many books."""
    size: int
    """Bytes of the text; about, where one file holds many books."""
    version: str
    """Changes when the text does: the SHA-256 of a local file, or the checksum that an object store keeps of it."""

    def identity(self) -> str:
        """Everything but the root: the same book at another place is the same book."""
        return self.model_dump_json(exclude={"root"})

    @property
    def place(self) -> str:
        """The text's file, for people."""
        return f"{self.root.rstrip('/')}/{self.key}" + ("" if self.row is None else f", row {self.row}")
