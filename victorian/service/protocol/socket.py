"""The messages of the WebSocket: JSON, told apart by `type`. docs/protocol.md says what they mean."""

from enum import IntEnum
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from victorian.config import SamplingParameters, Section
from victorian.engine.request import MAX_LOGPROBS
from victorian.service.protocol.prompts import Prompt

PROTOCOL_VERSION = 1
"""Of the WebSocket's messages."""

GenerationId = Annotated[str, Field(min_length=1, max_length=100)]


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
    """How long a client may take nothing of what is sent to it."""


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
    "unauthorized",
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
    """A page of another origin, or no key that is good for this."""
    TOO_BIG = 1009
    """A message above the limit."""
    TRY_AGAIN_LATER = 1013
    """No model is loaded yet, or too many sockets are open."""


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
    deadline_seconds: float | None = Field(None, ge=0.1, le=86_400)
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
