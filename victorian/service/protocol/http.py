"""The messages of HTTP: OpenAI's completions API, with parameters of our own, and vLLM's names for tokenizing.

https://platform.openai.com/docs/api-reference/completions
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from victorian.config import SamplingParameters, Section, not_too_many
from victorian.engine.request import MAX_LOGPROBS
from victorian.service.protocol.prompts import Text, TokenIds, Usage

MAX_CHOICES = 16
"""Of one request: prompts times `n`."""

Stop = Annotated[str, Field(min_length=1, max_length=200)]
Stops = Annotated[
    Annotated[Stop, Tag("text")] | Annotated[list[Stop], Field(max_length=4, fail_fast=True), Tag("texts")],
    Discriminator(lambda value: "texts" if isinstance(value, list) else "text"),
]
"""Told apart first: of a plain union's complaints the first is that a list of five is no text."""
TokenName = Annotated[str, Field(pattern=r"^[0-9]{1,6}$")]
Bias = dict[TokenName, Annotated[float, Field(ge=-100, le=100)]]


def _kind(value: Any) -> str:
    match value:
        case [str(), *_]:
            return "texts"
        case [list(), *_]:
            return "lists of ids"
        case list():
            return "ids"
    return "text"


Prompts = Annotated[
    Annotated[Text, Tag("text")]
    | Annotated[TokenIds, Tag("ids")]
    | Annotated[list[Text], Field(min_length=1, max_length=MAX_CHOICES), Tag("texts")]
    | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_CHOICES), Tag("lists of ids")],
    Discriminator(_kind),
]


def _allow_null(schema: dict[str, Any]) -> None:
    """null is OpenAI's way to say nothing, for every parameter that need not be said."""
    for name, field in schema["properties"].items():
        if name in schema.get("required", ()):
            continue
        kept = {key: field.pop(key) for key in ("title", "description", "default") if key in field}
        others = field["anyOf"] if "anyOf" in field else [dict(field)]
        if {"type": "null"} not in others:
            others = [*others, {"type": "null"}]
        schema["properties"][name] = {"anyOf": others, **kept}


class Asked(Section):
    """The body of a request, or a part of one."""

    model_config = ConfigDict(strict=True, json_schema_extra=_allow_null)

    @model_validator(mode="before")
    @classmethod
    def _drop_null(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        needless = {name for name, field in cls.model_fields.items() if not field.is_required()}
        return {name: item for name, item in value.items() if item is not None or name not in needless}


class StreamOptions(Asked):
    include_usage: bool = False
    """Whether a last chunk without choices tells the usage."""
    continuous_usage_stats: bool = False
    """Whether every chunk tells the usage so far, as vLLM has it."""
    include_obfuscation: bool = False
    """Accepted and without effect: there is nothing to obfuscate."""


class CompletionRequest(SamplingParameters, Asked):
    """`POST /v1/completions`."""

    model: str | None = Field(None, max_length=200)
    """The model's name as `GET /v1/models` tells it; without one, the first that is served."""
    prompt: Prompts = ""
    """Text, token ids, or a list of either; an empty one begins a book."""
    max_tokens: int = Field(256, ge=0, le=32_768)
    """Tokens to generate at most; 0 with `echo` only, which scores the prompt."""
    stop: Stops | None = None  # type: ignore[assignment]  # OpenAI's forms
    """Up to 4 texts that end the generation."""
    logit_bias: Annotated[Bias, BeforeValidator(not_too_many)] = Field({}, max_length=1024)  # type: ignore[assignment]  # names in JSON are text
    """Added to the logits of these tokens, by their ids."""
    ignore_eos: bool = False
    """Whether the end of the text may never be drawn: `min_tokens` as large as `max_tokens`, by vLLM's name."""
    stream: bool = False
    """Whether tokens come as server-sent events while they are generated."""
    stream_options: StreamOptions | None = None
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    """Choices for each prompt; all prompts together can have 16."""
    best_of: int | None = Field(None, ge=1, le=MAX_CHOICES)
    """As `n`: every choice that is made is also shown."""
    echo: bool = False
    """Whether the prompt stands before the completion."""
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    """With each token its log-probability, and those of so many of the likeliest in its place."""
    suffix: Literal[""] | None = None
    """Text after the completion: not served."""
    user: str | None = Field(None, max_length=500)
    """Accepted and without effect."""
    deadline_seconds: float | None = Field(None, ge=0.1, le=86_400)
    """What the request may take, waiting included; the service's own limit counts where it is shorter."""

    def prompts(self) -> list[str | list[int]]:
        """Each prompt by itself."""
        match self.prompt:
            case [str() | list(), *_] as several:
                return list(several)  # type: ignore[arg-type]  # the discriminator has told lists from lists of lists
            case one:
                return [one]  # type: ignore[list-item]

    def sampling(self) -> SamplingParameters:
        """How to draw, validated as everywhere else."""
        said = {name: getattr(self, name) for name in SamplingParameters.model_fields}
        said["stop"] = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        said["max_tokens"] = max(self.max_tokens, 1)
        if self.ignore_eos:
            said["min_tokens"] = said["max_tokens"]
        return SamplingParameters.model_validate(said)


class Logprobs(Section):
    """How likely tokens were by the network alone, before temperature, penalties and everything else."""

    tokens: list[str]
    """Their text; `bytes:` and the bytes as `\\xe2` where those are no whole characters."""
    token_logprobs: list[float | None]
    """Natural logarithms of their probabilities; null for a prompt's first token."""
    top_logprobs: list[dict[str, float] | None]
    """The likeliest tokens in their places, and the token itself where it is not among them."""
    text_offset: list[int]
    """Characters of prompt and completion before each."""


class Choice(Section):
    index: int = 0
    """Number of the prompt times `n`, plus number of the choice."""
    text: str
    logprobs: Logprobs | None = None
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


class TokenizeRequest(Asked):
    """`POST /v1/tokenize`."""

    model: str | None = Field(None, max_length=200)
    prompt: Text
    add_special_tokens: bool = True
    """Accepted and without effect: the encoding adds none."""
    return_token_strs: bool = False
    """Whether the text of each token is wanted as well."""


class Tokenized(Section):
    tokens: list[int]
    count: int
    max_model_len: int
    """Tokens that the model sees."""
    token_strs: list[str] | None = None
    """As in `Logprobs.tokens`."""


class DetokenizeRequest(Asked):
    """`POST /v1/detokenize`."""

    model: str | None = Field(None, max_length=200)
    tokens: TokenIds


class Detokenized(Section):
    prompt: str
    """Bytes that are no whole characters are shown as U+FFFD."""


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


def error_body(message: str, kind: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """An error as the JSON value of an HTTP answer."""

    def sendable(text: str) -> str:
        """What a client sent, and is told of, may be no Unicode."""
        return text.encode(errors="replace").decode()

    detail = ErrorDetail(message=sendable(message), type=kind, param=param and sendable(param), code=code)
    return ErrorBody(error=detail).model_dump()
