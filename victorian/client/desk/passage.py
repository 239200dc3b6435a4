"""What one generation wrote: its tokens, how likely each was, and what else might have stood there."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from victorian.client.desk.manuscript import Splice, clean
from victorian.service.protocol import Alternative, Complete, TokenMessage


@dataclass(frozen=True)
class Token:
    """A token of a passage."""

    text: str
    """May be empty, where a character was not whole yet."""
    probability: float | None = None
    """As the network found it, 0 to 1; None where it is not known, or where the writer chose it."""
    alternatives: tuple[Alternative, ...] = ()
    """The likeliest in its place, from the likeliest down."""

    @classmethod
    def of(cls, message: TokenMessage, text: str) -> "Token":
        return cls(text, message.probability, offered(message.alternatives or ()))


@dataclass(frozen=True)
class Passage:
    """Tokens that stand in the manuscript as they came."""

    start: int
    """Where it begins in the manuscript."""
    tokens: tuple[Token, ...]
    complete: Complete | None = None
    """How it ended and what it took; None where it broke off."""
    first_seconds: float | None = None
    """From asking to the first token, the way to the service included."""
    sentence_over: bool = False
    """Whether it ended with a sentence that it was asked to finish."""

    @property
    def text(self) -> str:
        return text_of(self.tokens)

    @property
    def end(self) -> int:
        return self.start + sum(len(token.text) for token in self.tokens)

    def after(self, splice: Splice) -> "Passage | None":
        """What is left of it when the manuscript changes: the tokens before the change."""
        if splice.start >= self.end:
            return self
        if splice.end <= self.start:
            return replace(self, start=self.start + splice.growth)
        kept = shortened(self.tokens, splice.start - self.start, whole=True)
        return replace(self, tokens=kept) if kept else None


def text_of(tokens: Sequence[Token]) -> str:
    return "".join(token.text for token in tokens)


def offered(alternatives: Iterable[Alternative]) -> tuple[Alternative, ...]:
    """Those that can stand in a text by themselves: not the parts of a character."""
    return tuple(one for one in alternatives if "\ufffd" not in one.text)


def shortened(tokens: Sequence[Token], characters: int, whole: bool = False) -> tuple[Token, ...]:
    """The tokens of the first so many characters; the last of them is cut, or with `whole` left out."""
    kept = []
    for token, end in zip(tokens, accumulate(len(token.text) for token in tokens), strict=True):
        over = end - characters
        if over >= len(token.text) and (token.text or over > 0):
            break
        if over > 0:
            if not whole:
                kept.append(replace(token, text=token.text[:-over]))
            break
        kept.append(token)
    return tuple(kept)


def chosen(tokens: Sequence[Token], index: int, alternative: int) -> tuple[Token, ...]:
    """The tokens up to one of them, and in its place one of its alternatives.

    Raises:
        IndexError: if there is none such.
    """
    token = tokens[index]
    taken = token.alternatives[alternative]
    return (*tokens[:index], Token(clean(taken.text), taken.probability, token.alternatives))
