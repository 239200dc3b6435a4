"""Every message on the wire, and nothing else: the only definition that server and clients share. Knows no torch.

Over HTTP: OpenAI's completions API (https://platform.openai.com/docs/api-reference/completions) with our own `top_k`
and `repetition_penalty`. Over the WebSocket: JSON messages told apart by `type`.
"""

from enum import IntEnum
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, TypeAdapter, model_validator

from victorian.config import SamplingParameters, Section
from victorian.engine.request import MAX_LOGPROBS

MAX_MESSAGE_BYTES = 1 << 20
MAX_PROMPT_CHARACTERS = 200_000
MAX_PROMPT_TOKENS = 65_536
PROTOCOL_VERSION = 1
"""Of the WebSocket's messages."""

Text = Annotated[str, Field(max_length=MAX_PROMPT_CHARACTERS)]
TokenIds = Annotated[list[Annotated[int, Field(strict=True)]], Field(max_length=MAX_PROMPT_TOKENS, fail_fast=True)]
Prompt = Annotated[
    Annotated[Text, Tag("text")] | Annotated[TokenIds, Tag("ids")],
    Discriminator(lambda value: "ids" if isinstance(value, list) else "text"),
]
GenerationId = Annotated[str, Field(min_length=1, max_length=100)]


# HTTP.


class StreamOptions(Section):
    include_usage: bool = False
    """Whether a last chunk without choices tells the usage."""
    include_obfuscation: bool = False
    """Accepted and without effect: there is nothing to obfuscate."""


class CompletionRequest(SamplingParameters):
    """`POST /v1/completions`. OpenAI's parameters that are not served yet are accepted at their neutral values only."""

    model: str | None = Field(None, max_length=200)
    """The model's name as `GET /v1/models` tells it; without one, the model that is served."""
    prompt: Prompt = ""
    """Text, or token ids; an empty one begins a book."""
    stop: str | list[str] | tuple[str, ...] | None = None  # type: ignore[assignment]  # OpenAI allows more forms
    """Up to 4 texts that end the generation."""
    stream: bool = False
    """Whether tokens come as server-sent events while they are generated."""
    stream_options: StreamOptions | None = None
    n: Literal[1] = 1
    best_of: Literal[1] = 1
    echo: Literal[False] = False
    logprobs: None = None
    suffix: None = None
    user: str | None = Field(None, max_length=500)

    @model_validator(mode="before")
    @classmethod
    def _drop_neutral(cls, value: Any) -> Any:
        """null is OpenAI's way to say nothing, and so are an empty bias and suffix; one prompt may come in a list."""
        if not isinstance(value, dict):
            return value
        said = {name: item for name, item in value.items() if item is not None}
        for name, nothing in (("logit_bias", {}), ("suffix", "")):
            if name in said and said[name] == nothing:
                del said[name]
        match said.get("prompt"):
            case [str() | list() as only]:
                said["prompt"] = only
        return said

    def sampling(self) -> SamplingParameters:
        """How to draw, validated as everywhere else."""
        names = SamplingParameters.model_fields.keys() - {"stop"}
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return SamplingParameters(**{name: getattr(self, name) for name in names}, stop=stop)


class Usage(Section):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Choice(Section):
    index: int = 0
    text: str
    logprobs: None = None
    finish_reason: str | None


class Completion(Section):
    """An answer, or one chunk of a streamed one."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    """Seconds since 1970."""
    model: str
    choices: list[Choice]
    usage: Usage | None = None


class ModelCard(Section):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "victorian"


class ModelList(Section):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class ErrorDetail(Section):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(Section):
    """OpenAI's error object."""

    error: ErrorDetail


# WebSocket, from the server. A field that says nothing is left out.


class Limits(Section):
    generations: int
    """Generations that may be under way on one socket."""
    message_bytes: int
    """Size of a client's message."""
    alternatives: int
    """Alternatives that may be asked for with each token."""
    deadline_seconds: float
    """What a generation may take, waiting included."""
    idle_seconds: float
    """How long a socket stays open with no generation under way and no message from its client."""
    send_seconds: float
    """How long a client may leave unread what was sent to it."""


class Offer(Section):
    """A model that can be asked for."""

    id: str
    context: int
    """Tokens that a prompt may have."""
    max_tokens: int
    """Tokens that one generation may ask for."""


class Connected(Section):
    """The first message on a socket. What it says holds for as long as the socket does."""

    type: Literal["connected"] = "connected"
    protocol: int = PROTOCOL_VERSION
    session: str
    """Names the socket, for the service's operators."""
    models: list[Offer]
    """The first is meant where a client names none."""
    limits: Limits


class Alternative(Section):
    token: int
    text: str
    """Of the token alone: U+FFFD stands where it holds a part of a character."""
    probability: float


class TokenMessage(Section):
    type: Literal["token"] = "token"
    id: str
    index: int
    """Position in the output, from 0."""
    text: str
    """May be empty, where a character is not whole yet or a stop string may be beginning."""
    token: int | None = None
    """The token's id, where `alternatives` were asked for."""
    probability: float | None = None
    """How likely the network found it, before temperature, penalties and everything else."""
    alternatives: list[Alternative] | None = None
    """The likeliest tokens in its place, from the likeliest down; the chosen one may be among them."""


class SocketUsage(Section):
    prompt_tokens: int
    reused_prompt_tokens: int | None = None
    """Those that the cache held already; None where that is not told."""
    completion_tokens: int
    total_tokens: int


class Timings(Section):
    queued_seconds: float | None = None
    """From asking until there was room; None where that is not told."""
    first_token_seconds: float
    """From asking to the first token; 0 if there was none."""
    seconds: float
    """From asking to the end."""
    tokens_per_second: float
    """Of the tokens after the first; 0 if there are none."""


class Complete(Section):
    type: Literal["complete"] = "complete"
    id: str
    reason: Literal["stop", "length", "cancelled"]
    usage: SocketUsage
    seed: int
    """The one that was asked for, or that was drawn: with it the same request gives the same text."""
    timings: Timings


ErrorCode = Literal[
    "invalid_message",
    "invalid_request",
    "model_not_found",
    "overloaded",
    "rate_limited",
    "deadline_exceeded",
    "slow_reader",
    "internal_error",
    "shutting_down",
]


class ErrorMessage(Section):
    """Something was refused or failed. With an id it ends that generation; the socket stays open."""

    type: Literal["error"] = "error"
    code: ErrorCode
    message: str
    id: str | None = None
    param: str | None = None
    """The field at fault, if one is."""
    retry_after_seconds: float | None = None
    """When the same request may succeed."""


class Pong(Section):
    """The answer to a ping."""

    type: Literal["pong"] = "pong"


ServerMessage = Connected | TokenMessage | Complete | ErrorMessage | Pong
server_message: TypeAdapter[ServerMessage] = TypeAdapter(Annotated[ServerMessage, Field(discriminator="type")])


class CloseCode(IntEnum):
    """Why the service closes a socket; the reason beside it says the same in words."""

    NORMAL = 1000
    """The socket was idle for too long."""
    GOING_AWAY = 1001
    """What `connected` said holds no longer: the service ends, or serves other models."""
    POLICY_VIOLATION = 1008
    """A page of another origin."""
    TOO_BIG = 1009
    """A message above the limit."""
    TRY_AGAIN_LATER = 1013
    """No model is loaded yet."""


# WebSocket, from the client.


class Generate(Section):
    type: Literal["generate"] = "generate"
    id: GenerationId
    """The client's name for this generation, unique on its socket among those under way."""
    model: str | None = Field(None, max_length=200)
    """One that `connected` named; without one, the first of them."""
    prompt: Prompt = ""
    """Text, or token ids; an empty one begins a book."""
    parameters: SamplingParameters = SamplingParameters()
    deadline_seconds: float | None = Field(None, gt=0, le=86_400)
    """What the generation may take, waiting included, where that is less than the service's own limit."""
    alternatives: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    """With each token its id and probability, and so many of the likeliest ones in its place."""


class Cancel(Section):
    """Stop a generation; it ends with `complete` and the reason `cancelled`. Unknown ids are ignored."""

    type: Literal["cancel"] = "cancel"
    id: GenerationId


class Ping(Section):
    """Ask for a `pong`: whether the service still answers, and a sign of life that keeps an idle socket open."""

    type: Literal["ping"] = "ping"


ClientMessage = Generate | Cancel | Ping
client_message: TypeAdapter[ClientMessage] = TypeAdapter(Annotated[ClientMessage, Field(discriminator="type")])


def usage(prompt_tokens: int, completion_tokens: int) -> Usage:
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
    )


def error_body(message: str, kind: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """An error as the JSON value of an HTTP answer."""
    return ErrorBody(error=ErrorDetail(message=message, type=kind, param=param, code=code)).model_dump()
