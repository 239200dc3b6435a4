"""A desk as a file: JSON with a version, bounded and validated, because it may come from anywhere."""

from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from victorian.client.desk.manuscript import MAX_CHARACTERS, Manuscript, Piece, clean
from victorian.client.desk.passage import Passage, Token, offered, text_of
from victorian.config import SamplingParameters, Section, first_problem
from victorian.errors import RequestError
from victorian.service.protocol import Alternative

VERSION = 2
MAX_BYTES = 24 * 2**20
"""Of a file: the largest manuscript, each of its characters as long in JSON as prose may be."""
MAX_NOTE = 20_000
"""Characters of memory, and of the note."""
MAX_TOKENS = 1_200
"""Of the last passage, as many of whose tokens are kept as the page shows with their marks: about 200 bytes each."""
DIGITS = 5
"""Of a probability."""

Text = Annotated[str, AfterValidator(clean)]
MAX_WORD = 1_000
"""Characters of a token: the beginning of a passage that was saved before comes back as one that may be longer."""
Word = Annotated[Text, Field(max_length=MAX_WORD)]
Share = Annotated[float, Field(ge=0, le=1)]
MAX_ALTERNATIVES = 20
Alternatives = Annotated[tuple[tuple[int, Word, Share], ...], Field(max_length=MAX_ALTERNATIVES)]


class SavedPiece(Section):
    text: Annotated[Text, Field(max_length=MAX_CHARACTERS)]
    author: Literal["writer", "model"]


class SavedPassage(Section):
    """The newest passage whose tokens are known."""

    start: Annotated[int, Field(ge=0, le=MAX_CHARACTERS)]
    """Where it begins in the text."""
    before: Annotated[Text, Field(max_length=MAX_CHARACTERS)] = ""
    """Its beginning, where it has more tokens than are kept."""
    tokens: Annotated[
        tuple[tuple[Word, Share | None, Alternatives], ...],
        Field(min_length=1, max_length=MAX_TOKENS),
    ]
    """Text, probability, and what else might have stood there: id, text and probability of each."""

    @classmethod
    def of(cls, passage: Passage) -> "SavedPassage | None":
        """None where none of its tokens can be kept."""
        longest = max((n for n, token in enumerate(passage.tokens, 1) if len(token.text) > MAX_WORD), default=0)
        first = max(longest, len(passage.tokens) - MAX_TOKENS)
        if first == len(passage.tokens):
            return None
        return cls(
            start=passage.start,
            before=text_of(passage.tokens[:first]),
            tokens=tuple(
                (
                    token.text,
                    None if token.probability is None else round(token.probability, DIGITS),
                    tuple(
                        (one.token, clean(one.text), round(one.probability, DIGITS))
                        for one in token.alternatives[:MAX_ALTERNATIVES]
                        if len(one.text) <= MAX_WORD
                    ),
                )
                for token in passage.tokens[first:]
            ),
        )

    @property
    def passage(self) -> Passage:
        tokens = tuple(
            Token(text, share, offered(Alternative(token=i, text=t, probability=p) for i, t, p in others))
            for text, share, others in self.tokens
        )
        return Passage(self.start, (Token(self.before), *tokens) if self.before else tokens)


class Session(Section):
    """What is kept of a desk: the text and by whom each part is, the last passage's tokens, memory, note and settings.

    No key, no address.
    """

    format: Literal["victorian-desk"] = "victorian-desk"
    version: Literal[1, 2] = 2
    """The first kept no tokens."""
    title: Annotated[Text, Field(max_length=200)] = ""
    pieces: Annotated[tuple[SavedPiece, ...], Field(max_length=500_000)] = ()
    memory: Annotated[Text, Field(max_length=MAX_NOTE)] = ""
    note: Annotated[Text, Field(max_length=MAX_NOTE)] = ""
    note_lines: int = Field(3, ge=1, le=20)
    """Lines before the end of the text, where the note stands."""
    sampling: SamplingParameters = SamplingParameters()
    last: SavedPassage | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        characters = sum(len(piece.text) for piece in self.pieces)
        if characters > MAX_CHARACTERS:
            raise ValueError(f"expected at most {MAX_CHARACTERS:,} characters of text, got {characters:,}")
        if self.last:
            passage = self.last.passage
            if self.manuscript.text[passage.start : passage.end] != passage.text:
                raise ValueError("expected the last passage to stand in the text where it says")
        return self

    @classmethod
    def of(cls, manuscript: Manuscript, passage: Passage | None = None, **other: Any) -> "Session":
        """A session to save; the rest by the names of the fields."""
        pieces = tuple(SavedPiece(text=piece.text, author=piece.author) for piece in manuscript.pieces)
        last = SavedPassage.of(passage) if passage else None
        return cls(pieces=pieces, last=last, **other)

    @cached_property
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
