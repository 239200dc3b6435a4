"""Every error leaves as OpenAI's error object with the status that OpenAI would give it."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from victorian.engine.request import Failed
from victorian.errors import OverloadedError, RequestError, ServiceError
from victorian.service.protocol import ErrorBody, error_body

STATUSES = {"deadline_exceeded": 504, "slow_reader": 503, "internal_error": 500, "shutting_down": 503}
"""Of requests that were taken and could not be served to their end."""

FAULT = "the service failed; its log says why"
"""All that a client hears of a fault of ours."""

RETRY_AFTER = "1"
"""Seconds after which to try again where nobody knows better: places become free all the time."""

MEANINGS = {
    400: "The request cannot be served as asked",
    404: "No model of that name",
    413: "The body is too large",
    429: "The queue is full",
    500: "The request failed",
    503: "The service has no engine that works, or its reader was too slow",
    504: "The request's time was over",
}


class Bugs:
    """Answers what nobody expected, inside of whatever puts headers on answers, and raises it again for the log."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception:
            if scope["type"] == "http" and not begun:
                body = error_body(FAULT, "server_error", code="internal_error")
                await JSONResponse(body, 500)(scope, receive, send)
            raise


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """How a route documents these, and what every route can answer."""
    described: dict[int | str, dict[str, Any]] = {}
    for status in (400, 404, *statuses, 500):
        described[status] = {"model": ErrorBody, "description": MEANINGS[status]}
    return described | {"4XX": {"model": ErrorBody, "description": "Refused"}}


def reason(event: Failed) -> str:
    """Why a generation failed, in words for its client: a fault of ours is in the log and nobody else's business."""
    return FAULT if event.code == "internal_error" else event.message


def failure(event: Failed) -> dict[str, Any]:
    """A failed generation as an error object."""
    return error_body(reason(event), "server_error", code=event.code)


def failed(event: Failed) -> JSONResponse:
    """A failed generation as an answer."""
    status = STATUSES[event.code]
    return JSONResponse(failure(event), status, {"Retry-After": RETRY_AFTER} if status == 503 else None)


def answer_errors(app: FastAPI) -> None:
    """Have the application answer so."""

    def answer(
        status: int,
        message: str,
        kind: str,
        param: str | None = None,
        code: str | None = None,
        retry_after: str = RETRY_AFTER,
    ) -> JSONResponse:
        headers = {"Retry-After": retry_after} if status in (429, 503) else None
        return JSONResponse(error_body(message, kind, param, code), status, headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        problem = error.errors()[0]
        where = [str(part) for part in problem["loc"] if part != "body"]
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "json_invalid":
            return answer(400, f"the body is not valid JSON: {problem['ctx']['error']}", "invalid_request_error")
        if where:
            return answer(400, f"{'.'.join(where)}: {message}", "invalid_request_error", where[0])
        if problem["type"] in ("missing", "model_attributes_type"):
            message = _no_object(request)
        return answer(400, f"body: {message}", "invalid_request_error")

    @app.exception_handler(OverloadedError)
    async def overloaded(_: Request, error: OverloadedError) -> JSONResponse:
        code = "rate_limit_exceeded" if error.code == "rate_limited" else "overloaded"
        retry_after = RETRY_AFTER if error.retry_after_seconds is None else f"{error.retry_after_seconds:g}"
        return answer(429, str(error), "rate_limit_error", None, code, retry_after)

    @app.exception_handler(RequestError)
    async def refused(_: Request, error: RequestError) -> JSONResponse:
        status = 404 if error.code == "model_not_found" else 400
        return answer(status, str(error), "invalid_request_error", error.parameter, error.code)

    @app.exception_handler(ServiceError)
    async def broken(_: Request, error: ServiceError) -> JSONResponse:
        return answer(503, str(error), "server_error", code=error.code)

    @app.exception_handler(HTTPException)
    async def refused_by_route(request: Request, error: HTTPException) -> JSONResponse:
        body = error_body(_refusal_of_route(request, error), "invalid_request_error")
        return JSONResponse(body, error.status_code, dict(error.headers or {}))


def _no_object(request: Request) -> str:
    """What is wrong with a body that is no JSON object, or was not said to be one."""
    kind = request.headers.get("content-type", "")[:100]
    name = kind.partition(";")[0].strip().lower()
    if name != "application/json" and not name.endswith("+json"):
        return f"expected Content-Type: application/json, got {kind or 'none'}; the body is not read as anything else"
    return 'expected a JSON object, such as {"prompt": "It was"}'


def _refusal_of_route(request: Request, error: HTTPException) -> str:
    """What Starlette and FastAPI say themselves tells neither what was wrong nor what there is instead."""
    path = request.scope["path"][:200]
    match error.status_code, error.detail:
        case 404, "Not Found":
            return (
                f"nothing is at {path}: texts are written at /v1/completions, and /openapi.json lists what else there "
                "is; the base URL of an OpenAI client ends in /v1"
            )
        case 405, "Method Not Allowed":
            return f"{path} does not take {request.method}; it takes {(error.headers or {}).get('Allow', 'others')}"
        case 400, "There was an error parsing the body":
            return "the body could not be parsed: send JSON in UTF-8, neither compressed nor nested deeply"
    return error.detail
