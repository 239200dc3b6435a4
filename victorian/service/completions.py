"""OpenAI's completions over HTTP, whole or as server-sent events."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from victorian.config import ServiceConfig
from victorian.engine.request import Completed, Event, Failed, TokenEvent
from victorian.engine.request import Request as EngineRequest
from victorian.errors import ServiceError
from victorian.service.models import Models, Served
from victorian.service.protocol import Choice, Completion, CompletionRequest, ErrorBody, Usage, error_body, usage


def completions(models: Models, config: ServiceConfig) -> APIRouter:
    """The routes."""
    router = APIRouter()

    @router.post("/v1/completions", response_model=Completion, responses={400: {"model": ErrorBody}})
    async def completions(body: CompletionRequest, http: Request) -> Response | Completion:
        served = models.find(body.model)
        request = served.engine.request(body.prompt, body.sampling(), f"cmpl-{uuid.uuid4().hex}")
        events = _until_client_leaves(http, served, request)
        first = await anext(events)
        if isinstance(first, Failed):
            raise ServiceError(first.message)
        if body.stream:
            with_usage = bool(body.stream_options and body.stream_options.include_usage)
            chunks = _server_sent_events(served, request.id, _after(first, events), with_usage)
            return StreamingResponse(chunks, media_type="text/event-stream")
        text: list[str] = []
        async for event in _after(first, events):
            match event:
                case TokenEvent():
                    text.append(event.text)
                case Completed():
                    return _completion(served, request.id, "".join(text), event.reason, _usage(event))
                case Failed():
                    raise ServiceError(event.message)
        raise AssertionError("a stream ends with Completed or Failed")

    return router


async def _until_client_leaves(http: Request, served: Served, request: EngineRequest) -> AsyncGenerator[Event, None]:
    """Submit a request; its events. A client that leaves, in the queue or later, cancels it."""

    async def watch() -> None:
        while (await http.receive())["type"] != "http.disconnect":
            pass
        served.engine.cancel(request.id)

    events = served.stream(request)
    watching = asyncio.create_task(watch())
    try:
        async with aclosing(events):
            async for event in events:
                yield event
    finally:
        watching.cancel()


async def _after(first: Event, rest: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    async with aclosing(rest):
        yield first
        async for event in rest:
            yield event


async def _server_sent_events(
    served: Served, request_id: str, events: AsyncGenerator[Event, None], with_usage: bool
) -> AsyncGenerator[str, None]:
    """OpenAI's stream: chunks of text, one with the reason it ended, the usage if asked for, and `[DONE]`."""
    async with aclosing(events):
        async for event in events:
            match event:
                case TokenEvent():
                    yield _event(_completion(served, request_id, event.text, None))
                case Completed():
                    yield _event(_completion(served, request_id, "", event.reason))
                    if with_usage:
                        last = _completion(served, request_id, "", None, _usage(event))
                        yield _event(last.model_copy(update={"choices": []}))
                    yield "data: [DONE]\n\n"
                case Failed():
                    yield f"data: {json.dumps(error_body(event.message, 'server_error'))}\n\n"


def _event(chunk: Completion) -> str:
    return f"data: {chunk.model_dump_json()}\n\n"


def _completion(
    served: Served, request_id: str, text: str, reason: str | None, spent: Usage | None = None
) -> Completion:
    choice = Choice(text=text, finish_reason=reason)
    return Completion(id=request_id, created=int(time.time()), model=served.name, choices=[choice], usage=spent)


def _usage(event: Completed) -> Usage:
    return usage(event.prompt_tokens, event.completion_tokens)
