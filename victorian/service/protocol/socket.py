"""The messages of the WebSocket: JSON, told apart by `type`."""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from victorian.config import SamplingParameters, Section
from victorian.service.protocol.prompts import MAX_MESSAGE_BYTES, Prompt, Usage

MAX_GENERATIONS_PER_SOCKET = 8

GenerationId = Annotated[str, Field(min_length=1, max_length=100)]


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
