"""The FastAPI application: OpenAI's completions over HTTP and SSE, health, and the WebSocket.

It is given an engine and answers with it; where the process runs and who routes to it is not known here.
"""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from fastapi import FastAPI, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from victorian.config import first_problem
from victorian.engine.engine import Engine
from victorian.engine.request import Completed, Event, Failed, TokenEvent
from victorian.engine.request import Request as EngineRequest
from victorian.errors import OverloadedError, RequestError, ServiceError
from victorian.service.protocol import (
    MAX_MESSAGE_BYTES,
    Choice,
    Completion,
    CompletionRequest,
    ErrorBody,
    ModelCard,
    ModelList,
    Usage,
    error_body,
    usage,
)
from victorian.service.socket import Conversation


@dataclass(frozen=True)
class Served:
    """A model by the name that clients use."""

    engine: Engine
    name: str
    created: int
    """When it was trained, in seconds since 1970."""


def create_app(served: Served) -> FastAPI:
    """The application for one model."""
    app = FastAPI(title="Victorian", docs_url=None, redoc_url=None, max_body_size=MAX_MESSAGE_BYTES)
    engine = served.engine
    card = ModelCard(id=served.name, created=served.created)
    _answer_errors(app)

    @app.get("/health")
    async def health() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @app.get("/ready", responses={503: {"model": ErrorBody}})
    async def ready() -> Response:
        """The engine can serve."""
        if engine.healthy:
            return JSONResponse({"status": "ready", "model": served.name})
        return JSONResponse(error_body("the engine has stopped", "server_error", code="not_ready"), 503)

    @app.get("/v1/models")
    async def models() -> ModelList:
        return ModelList(data=[card])

    @app.get("/v1/models/{name:path}", responses={404: {"model": ErrorBody}})
    async def model(name: str) -> ModelCard:
        _check_model(name, served.name)
        return card

    @app.post("/v1/completions", response_model=Completion, responses={400: {"model": ErrorBody}})
    async def completions(body: CompletionRequest, http: Request) -> Response | Completion:
        _check_model(body.model, served.name)
        request = engine.request(body.prompt, body.sampling(), f"cmpl-{uuid.uuid4().hex}")
        events = _until_client_leaves(http, engine, request)
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

    @app.websocket("/v1/stream")
    async def stream(socket: WebSocket) -> None:
        await Conversation(socket, engine, served.name).run()

    return app


async def _until_client_leaves(http: Request, engine: Engine, request: EngineRequest) -> AsyncGenerator[Event, None]:
    """Submit a request; its events. A client that leaves, in the queue or later, cancels it."""

    async def watch() -> None:
        while (await http.receive())["type"] != "http.disconnect":
            pass
        engine.cancel(request.id)

    events = engine.stream_async(request)
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


def _check_model(asked: str | None, served: str) -> None:
    if asked is not None and asked != served:
        message = f"no model is called {asked!r}; this service has {served!r}"
        raise RequestError(message, "model", code="model_not_found")


def _answer_errors(app: FastAPI) -> None:
    """Every error leaves as OpenAI's error object with the status that OpenAI would give it."""

    def answer(status: int, message: str, kind: str, param: str | None = None, code: str | None = None) -> JSONResponse:
        headers = {"Retry-After": "1"} if status in (429, 503) else None
        return JSONResponse(error_body(message, kind, param, code), status, headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        problem = error.errors()[0]
        where = [str(part) for part in problem["loc"] if part != "body"]
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "json_invalid":
            return answer(400, f"the body is not valid JSON: {problem['ctx']['error']}", "invalid_request_error")
        param = where[0] if where else None
        return answer(400, f"{'.'.join(where) or 'body'}: {message}", "invalid_request_error", param)

    @app.exception_handler(ValidationError)
    async def out_of_range(_: Request, error: ValidationError) -> JSONResponse:
        param = str(error.errors()[0]["loc"][0])
        return answer(400, first_problem(error), "invalid_request_error", param)

    @app.exception_handler(OverloadedError)
    async def overloaded(_: Request, error: OverloadedError) -> JSONResponse:
        return answer(429, str(error), "rate_limit_error", code="overloaded")

    @app.exception_handler(RequestError)
    async def refused(_: Request, error: RequestError) -> JSONResponse:
        status = 404 if error.code == "model_not_found" else 400
        return answer(status, str(error), "invalid_request_error", error.parameter, error.code)

    @app.exception_handler(ServiceError)
    async def broken(_: Request, error: ServiceError) -> JSONResponse:
        return answer(503, str(error), "server_error")

    @app.exception_handler(HTTPException)
    async def refused_by_route(_: Request, error: HTTPException) -> JSONResponse:
        body = error_body(error.detail, "invalid_request_error")
        return JSONResponse(body, error.status_code, dict(error.headers or {}))
