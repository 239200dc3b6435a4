"""OpenAI's completions over HTTP, whole or as server-sent events."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import ExitStack, aclosing, asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response, StreamingResponse

from victorian.config import ServiceConfig
from victorian.engine.request import Failed
from victorian.errors import ServiceError
from victorian.service.admission import admission, require_room
from victorian.service.answers import failed, failure, refusals
from victorian.service.callers import Caller, price
from victorian.service.choices import Choices, Piece, Pieces, Whole, engine_requests
from victorian.service.models import Models, Served
from victorian.service.protocol import Choice, Completion, CompletionRequest, StreamOptions, Usage

EVENT = {
    "type": "object",
    "required": ["data"],
    "properties": {"data": {"type": "string", "description": "A `Completion` in JSON, an `ErrorBody`, or `[DONE]`"}},
}
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"itemSchema": EVENT}}},
    **refusals(413, 429, 503, 504),
}

AS_THEY_COME = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""Nobody on the way may keep events. The second is for nginx, which holds all of an answer back that it compresses."""

LINE_ENDS = {end: f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"}
"""JSON may hold them as they are, and Python's `splitlines`, by which many clients read events, breaks at them."""


async def _until_sent() -> AsyncIterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


UntilSent = Annotated[ExitStack, Depends(_until_sent)]
"""Is left when the answer has been sent, or its client has gone: after the route's function has returned."""


def completions(models: Models, config: ServiceConfig) -> APIRouter:
    """The routes."""
    router = APIRouter(route_class=admission(models))

    @router.post("/v1/completions", response_model=Completion, responses=ANSWERS)
    async def completions(body: CompletionRequest, http: Request, until_sent: UntilSent) -> Response:
        """Continue prompts."""
        name = f"cmpl-{uuid.uuid4().hex}"

        async def prepare(served: Served) -> Choices:
            require_room(http, served, body)
            # In a thread: a megabyte of text takes a quarter of a second to encode.
            return Choices(served, await asyncio.to_thread(engine_requests, served, body, config, name), body)

        served = until_sent.enter_context(models.answering(body.model))
        choices = await prepare(served)
        caller: Caller = http.state.caller
        await caller.spend_tokens(price(choices.requests, body.n, body.max_tokens))
        try:
            choices.submit()
        except ServiceError as refusal:  # the model may have been replaced meanwhile; nobody pays twice for that
            served = models.successor(body.model, served, refusal)
            choices = await prepare(served)
            choices.submit()
        pieces = _until_client_leaves(http, choices)
        first = await anext(pieces)
        answer = Completion(id=name, created=int(time.time()), model=served.name, choices=[])
        if body.stream and not isinstance(first, Failed):
            options = body.stream_options or StreamOptions()
            chunks = _server_sent_events(answer, choices, _after(first, pieces), options)
            return StreamingResponse(chunks, media_type="text/event-stream", headers=AS_THEY_COME)
        come = Whole()
        async with aclosing(_after(first, pieces)) as all_pieces:
            async for found in all_pieces:
                if isinstance(found, Failed):
                    return failed(found)
                for piece in found:
                    come.add(piece.choice)
        # In a thread as well: sixteen long texts with their log-probabilities are megabytes of JSON.
        content = await asyncio.to_thread(_json, answer, come, choices.usage)
        return Response(content, media_type="application/json")

    return router


def _json(answer: Completion, come: Whole, spent: Usage) -> bytes:
    return answer.model_copy(update={"choices": come.choices(), "usage": spent}).model_dump_json().encode()


async def _until_client_leaves(http: Request, choices: Choices) -> Pieces:
    """Pieces of the choices. A client that leaves, in the queue or later, cancels them all."""
    async with _watching(http, choices), aclosing(choices.pieces()) as pieces:
        async for found in pieces:
            yield found


@asynccontextmanager
async def _watching(http: Request, choices: Choices) -> AsyncIterator[None]:
    async def watch() -> None:
        while (await http.receive())["type"] != "http.disconnect":
            pass
        choices.cancel()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()


async def _after(first: list[Piece] | Failed, rest: Pieces) -> Pieces:
    async with aclosing(rest):
        yield first
        async for found in rest:
            yield found


async def _server_sent_events(
    answer: Completion, choices: Choices, pieces: Pieces, options: StreamOptions
) -> AsyncGenerator[str, None]:
    """OpenAI's stream: a chunk for each piece, the usage if asked for, and `[DONE]`; a failure is the last event."""

    def event(chosen: list[Choice], spent: Usage | None) -> str:
        chunk = answer.model_copy(update={"choices": chosen, "usage": spent}).model_dump_json()
        for end, spelled in LINE_ENDS.items():  # a tenth of what `translate` takes
            chunk = chunk.replace(end, spelled)
        return f"data: {chunk}\n\n"

    async with aclosing(pieces):
        async for found in pieces:
            if isinstance(found, Failed):
                yield f"data: {json.dumps(failure(found))}\n\n"
                return
            spent = choices.usage_with if options.continuous_usage_stats else lambda _: None
            yield "".join(event([piece.choice], spent(piece.completion_tokens)) for piece in found)
    if options.include_usage:
        yield event([], choices.usage)
    yield "data: [DONE]\n\n"
