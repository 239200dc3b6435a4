"""Every message on the wire, and nothing else: the only definition that server and clients share. Knows no torch.

Over HTTP: OpenAI's completions API (https://platform.openai.com/docs/api-reference/completions) with our own `top_k`
and `repetition_penalty`. Over the WebSocket: JSON messages told apart by `type`.
"""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, TypeAdapter, model_validator

from victorian.config import SamplingParameters, Section

MAX_MESSAGE_BYTES = 1 << 20
MAX_HEADER_BYTES = 16_384
MAX_PROMPT_CHARACTERS = 200_000
MAX_PROMPT_TOKENS = 65_536
MAX_GENERATIONS_PER_SOCKET = 8

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


# WebSocket, from the server.


class Limits(Section):
    context: int
    """Tokens that a prompt may have."""
    max_tokens: int
    """Tokens that one generation may ask for."""
    generations: int = MAX_GENERATIONS_PER_SOCKET
    """Generations that may be under way on one socket."""
    message_bytes: int = MAX_MESSAGE_BYTES
    """Size of a message."""


class Connected(Section):
    """The first message on a socket."""

    type: Literal["connected"] = "connected"
    session: str
    model: str
    limits: Limits


class TokenMessage(Section):
    type: Literal["token"] = "token"
    id: str
    index: int
    """Position in the output, from 0."""
    text: str
    """May be empty, where a character is not whole yet or a stop string may be beginning."""


class Timings(Section):
    first_token_seconds: float
    seconds: float
    tokens_per_second: float
    """Of the tokens after the first; 0 if there are none."""


class Complete(Section):
    type: Literal["complete"] = "complete"
    id: str
    reason: Literal["stop", "length", "cancelled"]
    usage: Usage
    timings: Timings


class ErrorMessage(Section):
    """Something was refused or failed. With an id it ends that generation; the socket stays open."""

    type: Literal["error"] = "error"
    code: Literal["invalid_message", "invalid_request", "overloaded", "rate_limit", "unauthorized", "internal_error"]
    message: str
    id: str | None = None


ServerMessage = Connected | TokenMessage | Complete | ErrorMessage
server_message: TypeAdapter[ServerMessage] = TypeAdapter(Annotated[ServerMessage, Field(discriminator="type")])


# WebSocket, from the client.


class Generate(Section):
    type: Literal["generate"] = "generate"
    id: GenerationId
    """The client's name for this generation, unique on its socket among those under way."""
    prompt: Prompt = ""
    parameters: SamplingParameters = SamplingParameters()


class Cancel(Section):
    """Stop a generation; it ends with `complete` and the reason `cancelled`. Unknown ids are ignored."""

    type: Literal["cancel"] = "cancel"
    id: GenerationId


ClientMessage = Generate | Cancel
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
