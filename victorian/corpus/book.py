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
    path: str
    """Absolute path of the text."""
    size: int
    """Bytes of the file."""
    sha256: str
    """Of the file: the same book at another place is the same book, a changed one at the same place is not."""

    def identity(self) -> str:
        """Everything but the place."""
        return self.model_dump_json(exclude={"path"})


class Book(Section):
    """A book and its text."""

    reference: BookReference
    text: str
    """The whole text as it was read; cleaning comes after."""
