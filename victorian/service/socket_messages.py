"""What a socket's client is told: the engine's events and everybody's errors, put into the protocol's messages."""

import json
import math

from pydantic import TypeAdapter, ValidationError

from victorian.config import ServiceConfig, bounds, first_problem
from victorian.engine.request import MAX_LOGPROBS, Completed, Event, Failed, Request, TokenEvent
from victorian.errors import AuthenticationError, OverloadedError, RequestError, ServiceError, VictorianError
from victorian.service.answers import RETRY_AFTER, reason
from victorian.service.models import Models
from victorian.service.protocol import (
    Alternative,
    Complete,
    ErrorCode,
    ErrorMessage,
    GenerationId,
    Limits,
    Offer,
    SocketUsage,
    Timings,
    TokenMessage,
)
from victorian.tokens.bpe import Encoding

RETRY_SECONDS = float(RETRY_AFTER)
"""Told where there is no room and nobody knows for how long: a request of a few hundred tokens takes about that."""

_generation_id: TypeAdapter[str] = TypeAdapter(GenerationId)


def offers(models: Models) -> list[Offer]:
    """What can be asked for now."""
    most = int(bounds("max_tokens")[1])
    return [Offer(id=served.name, context=served.engine.context, max_tokens=most) for served in models.all()]


def limits(config: ServiceConfig) -> Limits:
    """What one socket may take."""
    socket = config.socket
    return Limits(
        generations=socket.generations,
        message_bytes=socket.message_bytes,
        alternatives=MAX_LOGPROBS,
        deadline_seconds=config.deadline_seconds,
        idle_seconds=socket.idle_seconds,
        send_seconds=socket.send_seconds,
    )


def event_message(
    generation: str, event: Event, request: Request, encoding: Encoding
) -> TokenMessage | Complete | ErrorMessage:
    """What a generation's client hears of what its engine says."""
    match event:
        case TokenEvent():
            return _token_message(generation, event, encoding, request.logprobs is not None)
        case Completed():
            return _complete_message(generation, event, request)
        case Failed():
            return ErrorMessage(code=event.code, message=reason(event), id=generation)
    raise AssertionError("no socket asks how likely its prompt was")


def _token_message(generation: str, event: TokenEvent, encoding: Encoding, alternatives: bool) -> TokenMessage:
    """A token; with what else might have stood there, if that was asked for."""
    if not alternatives or event.logprob is None:  # the end of the text has none
        return TokenMessage(id=generation, index=event.index, text=event.text)
    return TokenMessage(
        id=generation,
        index=event.index,
        text=event.text,
        token=event.token,
        probability=math.exp(event.logprob),
        alternatives=[
            Alternative(
                token=token,
                text=encoding.token_bytes(token).decode(errors="replace"),
                probability=math.exp(logprob),
            )
            for token, logprob in event.likeliest
        ],
    )


def _complete_message(generation: str, event: Completed, request: Request) -> Complete:
    """How a generation ended and what it took."""
    later = event.completion_tokens - 1
    decoding = event.seconds - event.first_token_seconds
    return Complete(
        id=generation,
        reason=event.reason,
        usage=SocketUsage(
            prompt_tokens=event.prompt_tokens,
            reused_prompt_tokens=event.reused_tokens,
            completion_tokens=event.completion_tokens,
            total_tokens=event.prompt_tokens + event.completion_tokens,
        ),
        seed=request.seed,
        timings=Timings(
            queued_seconds=event.queued_seconds,
            first_token_seconds=event.first_token_seconds,
            seconds=event.seconds,
            tokens_per_second=later / decoding if later > 0 and decoding > 0 else 0.0,
        ),
    )


def refusal(generation: str | None, error: VictorianError) -> ErrorMessage:
    """Why something was not begun."""
    code: ErrorCode = "internal_error"
    param, retry_after = None, None
    match error:
        case OverloadedError():
            code = "rate_limited" if error.code == "rate_limited" else "overloaded"
            retry_after = RETRY_SECONDS if error.retry_after_seconds is None else error.retry_after_seconds
        case AuthenticationError():
            code = "unauthorized"
        case RequestError():
            code = "model_not_found" if error.code == "model_not_found" else "invalid_request"
            param = error.parameter
        case ServiceError():  # an engine that takes nothing is being replaced, or its process is
            code, retry_after = "shutting_down", RETRY_SECONDS
    return ErrorMessage(code=code, message=str(error), id=generation, param=param, retry_after_seconds=retry_after)


def unreadable(data: bytes, error: ValidationError) -> ErrorMessage:
    """Why a message was not understood. It has the id that the message had, if that is a usable one."""
    try:
        found = _generation_id.validate_python(json.loads(data)["id"])
    except (ValueError, TypeError, KeyError, RecursionError):
        found = None
    where = [str(part) for part in error.errors(include_url=False, include_input=False)[0]["loc"][1:]]
    if where[:1] == ["prompt"]:
        del where[1:2]  # the form that it was taken for, which no message spells
    return ErrorMessage(code="invalid_message", message=first_problem(error), id=found, param=".".join(where) or None)
