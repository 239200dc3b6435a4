"""What callers hand to the engine and what they get back. Knows no torch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from victorian.config import SamplingParameters
from victorian.errors import RequestError

MAX_LOGPROBS = 20
"""Alternatives that can be asked for with a token."""

FinishReason = Literal["stop", "length", "cancelled"]
FailureCode = Literal["internal_error", "slow_reader", "deadline_exceeded", "shutting_down"]


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
    logprobs: int | None = None
    """With each generated token its log-probability, and those of so many of the likeliest; None for neither."""
    prompt_logprobs: int | None = None
    """The same for the tokens of the prompt, which is read from its beginning then, whatever the cache holds."""
    deadline_seconds: float | None = None
    """From submission; a request that has not ended by then fails within a step."""

    def check(self, tokens: int, context: int) -> None:
        """RequestError where this asks for more than there is.

        Args:
            tokens: of the encoding.
            context: of the network.
        """
        if len(self.prompt) > context:
            message = f"the prompt has {len(self.prompt)} tokens, the model sees {context}: shorten it"
            raise RequestError(message, "prompt", code="context_length_exceeded")
        for name, ids in (("prompt", self.prompt), ("logit_bias", self.sampling.logit_bias)):
            if not all(0 <= i < tokens for i in ids):
                raise RequestError(f"token ids must be from 0 to {tokens - 1}", name)
        for name, count in (("logprobs", self.logprobs), ("prompt_logprobs", self.prompt_logprobs)):
            if count is not None and not 0 <= count <= MAX_LOGPROBS:
                raise RequestError(f"expected 0 to {MAX_LOGPROBS} alternatives, got {count}", name)
        if self.sampling.keep_tokens > context // 2:
            most = f"at most half the context, {context // 2} tokens, can be kept"
            raise RequestError(f"{most}, got {self.sampling.keep_tokens}", "keep_tokens")


class Scored(NamedTuple):
    """A token and how likely the network found it, before temperature, penalties and everything else."""

    token: int
    logprob: float | None = None
    """Natural logarithm of its probability; None where nobody asked, or where nothing stands before the token."""
    likeliest: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens in its place with theirs, as many as were asked for, from the likeliest down."""


@dataclass(frozen=True)
class PromptEvent:
    """How likely the prompt was, where that was asked for; comes once, before the first token."""

    scores: tuple[Scored, ...]


@dataclass(slots=True)  # frozen, it would take four times as long to make
class TokenEvent:
    """One generated token. Its text may be empty: a character is not whole yet, or a stop string may be beginning.

    The end of the text is none, and comes only where text was held back or log-probabilities were asked for.
    """

    index: int
    """Position in the output, from 0."""
    token: int
    text: str
    logprob: float | None = None
    likeliest: tuple[tuple[int, float], ...] = ()
    """Both as in `Scored`."""


@dataclass(frozen=True)
class Completed:
    """The end of a generation that did not fail; nothing follows."""

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    reused_tokens: int
    """Of the prompt, which the cache held already."""
    queued_seconds: float
    """From submission until the cache had room for it."""
    first_token_seconds: float
    """From submission to the first token; 0 if there was none."""
    seconds: float
    """From submission to the end."""
    preemptions: int = 0
    """Times that it gave its room in the cache to one before it, and read its window again later."""


@dataclass(frozen=True)
class Failed:
    """The end of a generation that could not go on, or whose reader did not; nothing follows."""

    message: str
    code: FailureCode = "internal_error"


@dataclass(frozen=True)
class Load:
    """How busy an engine is."""

    running: int
    """Requests that have room in the cache."""
    waiting: int
    """Requests that have none yet."""
    cache_usage: float
    """Share of the cache that requests use, 0 to 1."""
    last_token: float
    """When the network last gave a token, on the clock of `time.perf_counter`; minus infinity before the first."""


Event = PromptEvent | TokenEvent | Completed | Failed
Deliver = Callable[[Event], None]
"""Called on the engine's thread; must return at once."""
