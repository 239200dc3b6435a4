"""A desk as a file: JSON with a version, bounded and validated, because it may come from anywhere."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from victorian.client.desk.manuscript import MAX_CHARACTERS, Manuscript, Piece, clean
from victorian.config import SamplingParameters, Section, first_problem
from victorian.errors import RequestError

VERSION = 1
MAX_BYTES = 24 * 2**20
"""Of a file: the largest manuscript, each of its characters as long in JSON as prose may be."""
MAX_NOTE = 20_000
"""Characters of memory, and of the note."""

Text = Annotated[str, AfterValidator(clean)]


class SavedPiece(Section):
    text: Annotated[Text, Field(max_length=MAX_CHARACTERS)]
    author: Literal["writer", "model"]


class Session(Section):
    """What is kept of a desk: the text and by whom each part is, memory, note and settings. No key, no address."""

    format: Literal["victorian-desk"] = "victorian-desk"
    version: Literal[1] = 1
    title: Annotated[Text, Field(max_length=200)] = ""
    pieces: Annotated[tuple[SavedPiece, ...], Field(max_length=500_000)] = ()
    memory: Annotated[Text, Field(max_length=MAX_NOTE)] = ""
    note: Annotated[Text, Field(max_length=MAX_NOTE)] = ""
    note_lines: int = Field(3, ge=1, le=20)
    """Lines before the end of the text, where the note stands."""
    sampling: SamplingParameters = SamplingParameters()

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        characters = sum(len(piece.text) for piece in self.pieces)
        if characters > MAX_CHARACTERS:
            raise ValueError(f"expected at most {MAX_CHARACTERS:,} characters of text, got {characters:,}")
        return self

    @classmethod
    def of(cls, manuscript: Manuscript, **other: Any) -> "Session":
        """A session to save; the rest by the names of the fields."""
        pieces = tuple(SavedPiece(text=piece.text, author=piece.author) for piece in manuscript.pieces)
        return cls(pieces=pieces, **other)

    @property
    def manuscript(self) -> Manuscript:
        pieces = tuple(Piece(piece.text, piece.author) for piece in self.pieces)
        empty = Manuscript()
        return empty.after(empty.splice(0, 0, pieces))


def saved(session: Session) -> str:
    """As JSON; reading it again gives an equal session."""
    return session.model_dump_json()


def loaded(data: bytes | str) -> Session:
    """A saved session.

    Raises:
        RequestError: with the reason, if it is damaged, too large, of a later version, or something else.
    """
    if len(data) > MAX_BYTES:
        raise RequestError(f"a saved session has at most {MAX_BYTES:,} bytes, this file has {len(data):,}")
    try:
        return Session.model_validate_json(data)
    except ValidationError as error:
        problem = error.errors()[0]
        if problem["loc"] == ("version",) and isinstance(problem["input"], int) and problem["input"] > VERSION:
            raise RequestError(
                f"this session was saved in version {problem['input']} of the format, this desk reads {VERSION}: "
                "open it with a newer one"
            ) from error
        raise RequestError(f"this file is no saved session of the desk: {first_problem(error)[:200]}") from error
