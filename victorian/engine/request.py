"""What callers hand to the engine and what they get back. Knows no torch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from victorian.config import SamplingParameters

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Request:
    """A prompt to continue, and how."""

    id: str
    """Unique among the requests of an engine that have not ended."""
    prompt: tuple[int, ...]
    """Token ids, at least one."""
    sampling: SamplingParameters
    seed: int
    """What the random numbers are drawn from; given by the caller or drawn for it."""
    priority: int = 0
    """Those of a higher one are served before, in each the first come first."""


@dataclass(frozen=True)
class TokenEvent:
    """One generated token. Its text may be empty: a character is not whole yet, or a stop string may be beginning."""

    index: int
    """Position in the output, from 0."""
    token: int
    text: str
    logprob: float | None = None
    """Logarithm of the token's probability, where it was asked for."""
    likeliest: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens with theirs, as many as were asked for."""


@dataclass(frozen=True)
class Completed:
    """The end of a generation that did not fail; nothing follows."""

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    reused_tokens: int
    """Of the prompt, which the cache held already."""
    first_token_seconds: float
    """From submission to the first token; 0 if there was none."""
    seconds: float
    """From submission to the end."""


@dataclass(frozen=True)
class Failed:
    """The end of a generation that could not go on; nothing follows."""

    message: str


Event = TokenEvent | Completed | Failed
Deliver = Callable[[Event], None]
"""Called on the engine's thread; must return at once."""
